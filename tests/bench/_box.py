"""A small machine inside this one: a memory cgroup with a limit. Whoever runs out of memory in it harms nobody outside."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from supervisor.adapters.memory_groups import Group, groups_of, stat_of

_PEAKS: Final = ("memory.max_usage_in_bytes", "memory.peak")
"""Of v1 and of v2."""
_EMPTY_MAX_S: Final = 30.0


class Box:
    """One such cgroup. available counts as Warden does: what could be given back is not in use."""

    def __init__(self, group: Group, limit: int) -> None:
        """Take over a folder that was made."""
        self.limit = limit
        self._group = group
        (group.folder / group.names.limit).write_text(str(limit))

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs this one in the box from its first instruction on."""
        return ["/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self._group.folder), *command]

    def used(self) -> int:
        """Return what is in use, caches and all."""
        return int((self._group.folder / self._group.names.used).read_text())

    def available(self) -> int:
        """Return what is left."""
        counts = stat_of(self._group.folder / "memory.stat") or {}
        return self.limit - self.used() + sum(counts.get(name, 0) for name in self._group.names.reclaimable)

    def peak(self) -> int:
        """Return the most that ever was in use, caches and all."""
        return next(int((self._group.folder / name).read_text()) for name in _PEAKS if (self._group.folder / name).exists())

    def forget_peak(self) -> None:
        """Begin the peak anew, where the kernel can (v1)."""
        with suppress(OSError):
            (self._group.folder / _PEAKS[0]).write_text("0")

    def kernel_kills(self) -> int:
        """Return how often the kernel had to end somebody in there."""
        return (stat_of(self._group.folder / self._group.names.kills) or {}).get("oom_kill", 0)


@contextmanager
def box(limit: int) -> Iterator[Box | None]:
    """Yield a box of so many bytes, None where none may be made here. Everybody in it must be gone at the end."""
    groups = groups_of("self")
    folder = groups[0].folder / f"bench-{os.getpid()}" if groups else Path("/nowhere")
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield Box(Group(folder, groups[0].names), limit) if (folder / groups[0].names.limit).exists() else None
    finally:
        end_s = time.monotonic() + _EMPTY_MAX_S
        while not _removed(folder) and time.monotonic() < end_s:
            time.sleep(0.02)  # noqa: TID251  # whoever was killed leaves when its memory is given back


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
