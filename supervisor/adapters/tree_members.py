"""Whose process a pid is: a worker's, by the trees as they are and as they were, for a device lists a process until its driver has let go. For threads."""

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from supervisor.adapters import proc
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

_KEPT: Final = 1000
"""Leaders that are remembered from their birth on, the newest of them."""


class Owner(Struct, frozen=True):
    """worker: None for a process that is not ours; name: what it is called, empty where there is no such process (or none that can be seen).

    above: the ancestors of a process that is not ours: one of them may have a lease.
    """

    worker: WorkerName | None
    name: str
    above: tuple[int, ...] = ()


class Members:
    """Knows who was of a tree, for as long as somebody asks about him."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._was: dict[int, tuple[WorkerName, int]] = {}  # with the start ticks: a pid that was given out anew is somebody else
        self._lock = threading.Lock()

    def born(self, *records: Record) -> None:
        """Remember leaders from their birth on: one may use a device, and be gone, between two looks. And whom an earlier supervisor saw of their trees."""
        of_now = [record for record in records if record.pid and record.boot_id == proc.boot_id()]
        with self._lock:
            for record in of_now:
                self._was.update({pid: (record.worker, start_ticks) for pid, start_ticks in {**record.known, record.pid: record.start_ticks}.items()})
            while len(self._was) > _KEPT:  # where nobody ever asks
                del self._was[next(iter(self._was))]

    def owners(self, records: Sequence[Record], pids: Collection[int]) -> Mapping[int, Owner]:
        """Return whose each of these pids is."""
        if not pids:
            return {}
        now = _members([record for record in records if record.pid])
        with self._lock:
            before = [(pid, was) for pid, was in self._was.items() if pid not in now]
            now = {**{pid: was for pid, was in before[-_KEPT:] if _is_still(pid, was[1])}, **now}  # also those that only another device lists
            self._was = now
        return {pid: Owner(now[pid][0], _name(pid)) if pid in now else Owner(None, _name(pid), proc.ancestors(pid)) for pid in pids}


def _members(records: Sequence[Record]) -> dict[int, tuple[WorkerName, int]]:
    """Return every living member of these trees. Where there is a cgroup it knows them; for all others there is one pass over the machine."""
    found: dict[int, tuple[WorkerName, int]] = {}
    scanned = []
    for record in records:
        inside = record.leaf.pids() if record.leaf is not None else []
        if not inside:
            scanned.append(record)
        found.update({pid: (record.worker, seen.start_ticks) for pid in inside if (seen := proc.look(pid)) is not None})
    for record, members in zip(scanned, proc.trees([record.tree for record in scanned]) if scanned else [], strict=True):
        found.update({member.pid: (record.worker, member.start_ticks) for member in members})
    return found


def _is_still(pid: int, start_ticks: int) -> bool:
    """Return whether the pid is nobody's else: its process is there, or none is."""
    seen = proc.look(pid)
    return seen is None or seen.start_ticks == start_ticks


def _name(pid: int) -> str:
    seen = proc.look(pid)
    return seen.name if seen is not None else ""
