"""What the machine has available: by its own count, and by that of every cgroup that we are in. Microseconds: may be read on the loop, often."""

import os
import time
from pathlib import Path
from typing import Final

from supervisor.adapters.memory_groups import Group, groups_of, stat_of
from supervisor.runtime.ports import Room

_UNLIMITED_BYTES: Final = 2**60
_LIMITS_READ_EVERY_S: Final = 1.0
_CHUNK_BYTES: Final = 8192


class Headroom:
    """Reads. The files of the machine stay open; limits of cgroups, which hardly ever change, are read once a second."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Open what is read. proc: where the kernel's files are."""
        self._proc = proc
        self._meminfo = os.open(proc / "meminfo", os.O_RDONLY | os.O_CLOEXEC)
        self._limited: list[tuple[Group, int]] = []
        self._limits_at_s = float("-inf")

    def close(self) -> None:
        """Close it."""
        os.close(self._meminfo)

    def limited(self) -> list[tuple[Group, int]]:
        """Return the cgroups around us that have a limit, with it, as they were read last."""
        return self._limited

    def read(self) -> Room:
        """Return what there is now."""
        counts = os.pread(self._meminfo, _CHUNK_BYTES, 0)
        available, total = _kib(counts, b"MemAvailable:"), _kib(counts, b"MemTotal:")
        now_s = time.monotonic()
        if now_s - self._limits_at_s >= _LIMITS_READ_EVERY_S:
            self._limits_at_s = now_s
            self._limited = [(group, limit) for group in groups_of("self", self._proc) if (limit := _limit(group, total)) is not None]
        for group, limit in self._limited:
            total = min(total, limit)
            if (used := _used(group)) is not None:
                available = min(available, max(0, limit - used))
        return Room(available, total)


def _limit(group: Group, total: int) -> int | None:
    """Return the limit of a cgroup in bytes, or None where it has none that matters."""
    try:
        limit = int((group.folder / group.names.limit).read_text())
    except (OSError, ValueError):  # no such file at the root of a hierarchy, and "max" is no number
        return None
    return limit if limit < min(_UNLIMITED_BYTES, total) else None


def _used(group: Group) -> int | None:
    """Return what a cgroup uses and would not give back; None where that cannot be read."""
    stat = stat_of(group.folder / "memory.stat")
    try:
        used = int((group.folder / group.names.used).read_text())
    except (OSError, ValueError):
        return None
    return used - sum(stat.get(name, 0) for name in group.names.reclaimable) if stat is not None else None


def _kib(counts: bytes, name: bytes) -> int:
    return 1024 * int(counts.partition(name)[2].split(maxsplit=1)[0])
