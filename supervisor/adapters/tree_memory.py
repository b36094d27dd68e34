"""What trees use: their PSS without pages of files, 15 ms per GB, read where it may decide; in between their RSS, which costs nothing, tells the rest."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from supervisor.adapters import proc
from supervisor.adapters.trees import Record, members_of
from supervisor.core.model import WorkerName

_MOVED_BYTES: Final = 2**20
"""Less than any limit or margin is set by."""


class _Reading(Struct, frozen=True):
    rss_bytes: int
    pss_bytes: int
    at_s: float

    def plus(self, rss_bytes: int) -> int:
        """Return the PSS that follows from an RSS read later: what comes on top is most likely nobody else's."""
        return max(0, self.pss_bytes + rss_bytes - self.rss_bytes)


class Readings:
    """The last PSS of each process. Valid until a process of ours comes or goes: whoever sees that makes new ones.

    near_bytes: a tree with less RSS is far from every limit, and told by its RSS until its readings are stale; None: every tree is. 0: none is.
    members: who there was of each generation's tree at the last look, pid -> start ticks.
    """

    def __init__(self, *, near_bytes: int | None = 0, stale_s: float = 60.0) -> None:
        """Begin with none."""
        self.near_bytes = near_bytes
        self.stale_s = stale_s
        self.members: dict[tuple[WorkerName, int], Mapping[int, int]] = {}
        self._last: dict[int, _Reading] = {}

    def pss_bytes(self, pids: Collection[int], now_s: float) -> int:
        """Return the PSS of these processes, a tree, together."""
        resident = {pid: proc.rss_bytes(pid) for pid in pids}
        near = self.near_bytes is not None and sum(resident.values()) >= self.near_bytes
        # Members share pages. One that comes or goes moves the PSS of the others, and so does one that writes into a shared page; no RSS moves by it.
        afresh = any(pid not in self._last for pid in pids) or (near and bool(self.near_bytes) and len(pids) > 1)
        return sum(self._one(pid, rss_bytes, now_s, near=near, afresh=afresh) for pid, rss_bytes in resident.items())

    def _one(self, pid: int, rss_bytes: int, now_s: float, *, near: bool, afresh: bool) -> int:
        last = self._last.get(pid)
        moved = last is None or abs(rss_bytes - last.rss_bytes) >= _MOVED_BYTES
        if last is None or afresh or (near and moved) or now_s - last.at_s >= self.stale_s:
            last = self._last[pid] = _Reading(rss_bytes, proc.kept_bytes(pid), now_s)
            return last.pss_bytes
        return last.plus(rss_bytes) if moved else last.pss_bytes

    def now_bytes(self, pids: Collection[int]) -> int:
        """Return what these processes have now, by the last reading and their RSS."""
        found = ((self._last.get(pid), proc.rss_bytes(pid)) for pid in pids)
        return sum(last.plus(rss_bytes) if last is not None and rss_bytes else rss_bytes for last, rss_bytes in found)


def measure(records: Sequence[Record], readings: Readings) -> dict[WorkerName, int]:
    """Return the PSS of each worker's trees in bytes. Where there are cgroups nobody else is looked at; for all others there is one pass over the machine."""
    now_s = time.monotonic()
    members: dict[tuple[WorkerName, int], Mapping[int, int]] = {}
    scanned = []
    for record in records:
        inside = record.leaf.pids() if record.leaf is not None else []
        if inside:
            members[record.worker, record.generation] = {pid: seen.start_ticks for pid in inside if (seen := proc.look(pid)) is not None}
        elif record.pid:
            scanned.append(record)
    for record, found in zip(scanned, members_of(scanned), strict=True):
        members[record.worker, record.generation] = {member.pid: member.start_ticks for member in found}
    used: dict[WorkerName, int] = {record.worker: 0 for record in records}
    for (worker, _), pids in members.items():
        used[worker] += readings.pss_bytes(pids, now_s)
    readings.members = members
    return used
