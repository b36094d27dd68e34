"""What trees use: their PSS, which costs the kernel about 15 ms per GB, read again where their RSS, which costs nothing, has moved. For threads."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from supervisor.adapters import proc
from supervisor.adapters.trees import Record, members_of
from supervisor.core.model import WorkerName

_MOVED_BYTES: Final = 2**20
"""Less than any limit or margin is set by."""
_STALE_S: Final = 60.0
"""A PSS moves without the RSS where somebody who shares the pages comes or goes: one of ours is told to `Readings`, a stranger is found out by then."""


class _Reading(Struct, frozen=True):
    rss_bytes: int
    pss_bytes: int
    at_s: float


class Readings:
    """The last PSS of each process. Valid until a process of ours comes or goes: whoever sees that makes new ones."""

    def __init__(self) -> None:
        """Begin with none."""
        self._last: dict[int, _Reading] = {}

    def pss_bytes(self, pids: Iterable[int], now_s: float) -> int:
        """Return the PSS of these processes together."""
        return sum(self._one(pid, now_s) for pid in pids)

    def _one(self, pid: int, now_s: float) -> int:
        rss_bytes, last = proc.rss_bytes(pid), self._last.get(pid)
        if last is None or abs(rss_bytes - last.rss_bytes) >= _MOVED_BYTES or now_s - last.at_s >= _STALE_S:
            last = self._last[pid] = _Reading(rss_bytes, proc.pss_bytes(pid), now_s)
        return last.pss_bytes


def measure(records: Sequence[Record], readings: Readings) -> dict[WorkerName, int]:
    """Return the PSS of each worker's trees in bytes. Where there are cgroups nobody else is looked at; for all others there is one pass over the machine."""
    now_s = time.monotonic()
    used: dict[WorkerName, int] = {record.worker: 0 for record in records}
    scanned = []
    for record in records:
        inside = record.leaf.pids() if record.leaf is not None else []
        if inside:
            used[record.worker] += readings.pss_bytes(inside, now_s)
        elif record.pid:
            scanned.append(record)
    for record, members in zip(scanned, members_of(scanned), strict=True):
        used[record.worker] += readings.pss_bytes((member.pid for member in members), now_s)
    return used
