"""The kernel's own word on memory: whether it ended a process for lack of it, and the limit of a worker's cgroup that it keeps where we may set one."""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.adapters.memory_groups import V2, groups_of, stat_of
from supervisor.adapters.trees import Record

_EXIT_MAX_S: Final = 5.0
"""How long a process that was killed may take to be gone: its memory goes back first, 75 ms for each GB, on a machine that has none."""
_FLAGS_FIELD: Final = 6  # of /proc/PID/stat, counted after the command's closing parenthesis
_EXITING: Final = 0x4
_OVER: Final = (5, 4)
"""The kernel's limit on a cgroup, of worker_limit: worker_limit itself is for those who stay over it, and this is for one that cannot be waited for.

Of what is in use as well, where that is more: the kernel ends somebody at once for a limit under it.
"""
_ROOM_MIN_BYTES: Final = 256 * 2**20
_PAGE_BYTES: Final = 4096
_TO_BE_WRITTEN: Final = ("file_dirty", "file_writeback")
"""Pages of files that the kernel counts among those it can take back, and must write to the disk before."""


class KernelOom:
    """Tells which SIGKILL was the kernel's, by the cgroup that the process was in: it counts whom the kernel ended, be the machine out of memory or a cgroup.

    Looks at the cgroups of all workers tell what of that count is old, and where somebody was who cannot be asked any more.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Begin with what our own cgroup has counted so far. proc: where the kernel tells of processes."""
        self._proc = proc
        self._seen: dict[Path, deque[tuple[float, int]]] = {}
        self._was_in: dict[int, Path] = {}
        self._look_at("self")

    def look(self, records: Iterable[Record]) -> None:
        """Take kills that are a while ago for told. For a thread."""
        for record in records:  # one by one: whoever is born while this look goes on must not be lost with it
            if record.pid:
                self.born(record.pid)

    def born(self, pid: int) -> None:
        """Look at one that has just been started: it may end before the next look."""
        if (path := self._look_at(pid)) is None:
            return
        if self._exiting(pid):  # from then on cgroups of version 1 show it in the root, and it may give back memory for a second yet
            self._was_in.setdefault(pid, path)
        else:
            self._was_in[pid] = path

    def ended(self, pid: int) -> bool:
        """Return whether a process that died of a SIGKILL which was not ours was ended for lack of memory, as far as can be known; and forget it."""
        path = self._was_in.pop(pid, None)
        kills = _kills(path) if path is not None else None
        return path is not None and kills is not None and kills > self._seen[path][0][1]

    def _exiting(self, pid: int) -> bool:
        """Return whether the process is on its way out, or gone."""
        try:
            stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return True
        return bool(int(stat.rpartition(")")[2].split()[_FLAGS_FIELD]) & _EXITING)

    def _look_at(self, pid: int | str) -> Path | None:
        """Keep what the process's cgroup counts, and return where it does; None where it does not."""
        groups = groups_of(pid, self._proc)
        path = groups[0].folder / groups[0].names.kills if groups else None
        kills, now_s = _kills(path) if path is not None else None, time.monotonic()
        if path is None or kills is None:
            return None
        seen = self._seen.setdefault(path, deque())
        seen.append((now_s, kills))
        while len(seen) > 1 and seen[1][0] < now_s - _EXIT_MAX_S:
            seen.popleft()
        return path


def _kills(path: Path) -> int | None:
    stat = stat_of(path)
    return stat.get("oom_kill", 0) if stat is not None else None


def hold_to(record: Record, worker_limit_bytes: int) -> None:
    """Have the kernel keep a worker's cgroup within a quarter over worker_limit (0: no limit), where it has the memory controller.

    Not under what it uses: one that is over a lowered limit gets its looks, and one that is over by being there at all is left alone. For a thread: the
    kernel takes pages of files back before it returns.
    """
    if not record.cgroup:
        return
    folder, (up, down) = Path(record.cgroup), _OVER
    with suppress(OSError, ValueError):
        path, wanted = folder / V2.limit, "max"
        if worker_limit_bytes:
            used_bytes = _in_use(folder)
            least_bytes = max(worker_limit_bytes * up // down, used_bytes * up // down, used_bytes + _ROOM_MIN_BYTES)
            wanted = str(least_bytes // _PAGE_BYTES * _PAGE_BYTES)
        if path.read_text().strip() != wanted:
            path.write_text(wanted)


def _in_use(folder: Path) -> int:
    """Return what a cgroup uses that the kernel could not take back at once. Raises OSError and ValueError where it does not say."""
    stat = stat_of(folder / "memory.stat") or {}
    clean_bytes = sum(stat.get(name, 0) for name in V2.reclaimable) - sum(stat.get(name, 0) for name in _TO_BE_WRITTEN)
    return int((folder / V2.used).read_text()) - max(0, clean_bytes)
