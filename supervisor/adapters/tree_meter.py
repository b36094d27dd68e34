"""What the trees of all workers use: read in threads, shared between those who ask together; and told from there on by what the kernel counts for nothing."""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from supervisor.adapters import proc
from supervisor.adapters.kernel_oom import KernelOom, hold_to
from supervisor.adapters.tree_memory import Readings, measure
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName
from supervisor.units import format_size

_NAMED: Final = 5
_SHARED_S: Final = 0.1
"""A reading of all memory that began so short a time ago serves the next who asks: a look at the workers and one at the device come together."""


class TreeMeter:
    """Reads trees. near_bytes: what a tree must have for its PSS to be read at each look (None: never); stale_s: how old a PSS may become in any case.

    worker_limit_bytes: what the kernel is to keep each tree near, where it can; 0: it is not.
    """

    def __init__(self, records: Callable[[], Sequence[Record]]) -> None:
        """Read the trees of these records."""
        self.near_bytes: int | None = 0
        self.stale_s = 60.0
        self.worker_limit_bytes = 0
        self.oom = KernelOom()
        self.by_guard: Callable[[WorkerName, int], bool] = lambda _worker, _generation: False
        self.thread = ThreadPoolExecutor(2, "warden-meter")
        self._records = records
        self._readings = Readings()
        self._reading: asyncio.Future[dict[WorkerName, int]] | None = None
        self._read_at_s = 0.0

    def forget(self) -> None:
        """Take no earlier reading for a new one: a process of ours came or went, and those are who pages are shared with."""
        members = self._readings.members
        self._readings = Readings()
        self._readings.members = members

    async def all(self) -> Mapping[WorkerName, int]:
        """Return the PSS of every worker's tree in bytes. Who asks within 0.1 s of another gets the same reading."""
        loop = asyncio.get_running_loop()
        if self._reading is None or loop.time() - self._read_at_s > _SHARED_S:
            self._read_at_s = loop.time()
            self._readings.near_bytes, self._readings.stale_s = self.near_bytes, self.stale_s
            self._reading = loop.run_in_executor(self.thread, self._look, self._records(), self._readings)
        return await asyncio.shield(self._reading)

    async def outsiders(self) -> list[str]:
        """Return the processes with the most RSS that are not of our trees, and not we ourselves, with how much they have."""
        ours = {os.getpid(), *(pid for record in self._records() for pid in self._known(record))}
        return await asyncio.get_running_loop().run_in_executor(self.thread, _largest_but, ours)

    async def one(self, worker: WorkerName) -> int:
        """Return the PSS of one worker's tree in bytes, read anew; 0 when nothing of it is left."""
        records = [record for record in self._records() if record.worker == worker]
        return (await asyncio.get_running_loop().run_in_executor(self.thread, measure, records, Readings())).get(worker, 0)

    def _look(self, records: Sequence[Record], readings: Readings) -> dict[WorkerName, int]:
        self.oom.look(records)
        for record in records:
            hold_to(record, self.worker_limit_bytes)
        return measure(records, readings)

    def now(self) -> dict[WorkerName, int]:
        """Return what each worker's tree has now in bytes: the last reading, and what its RSS gained since. Microseconds for each process."""
        used: dict[WorkerName, int] = {}
        for record in self._records():
            used[record.worker] = used.get(record.worker, 0) + self._readings.now_bytes(self._known(record))
        return used

    def resident_bytes(self) -> int:
        """Return the RSS of all trees together, of the processes that the last look found, or of the leader where none was yet. As cheap as `now`."""
        return sum(proc.rss_bytes(pid) for record in self._records() for pid in self._known(record))

    def processes(self) -> dict[WorkerName, tuple[int, list[tuple[int, int]]]]:
        """Return of each worker the generation, and the pids of its tree with their start ticks, the leader first."""
        found = {}
        for record in self._records():
            known = dict(self._known(record))
            leader = {record.pid: known.pop(record.pid)} if record.pid in known else {}
            found[record.worker] = record.generation, [*leader.items(), *known.items()]
        return found

    def killer_of(self, record: Record, *, ours: bool) -> Literal["", "kernel", "guard"]:
        """Return who ended a process by a SIGKILL for lack of memory, if one of the two did. ours: the supervisor ordered it."""
        by_kernel = self.oom.ended(record.pid)
        if self.by_guard(record.worker, record.generation):
            return "guard"
        return "kernel" if by_kernel and not ours else ""

    def _known(self, record: Record) -> Mapping[int, int]:
        """Return who there was of it at the last look, as it was found then: a pid may have been given out anew since."""
        return self._readings.members.get((record.worker, record.generation)) or ({record.pid: record.start_ticks} if record.pid else {})


def _largest_but(ours: Collection[int]) -> list[str]:
    sizes = sorted(((proc.rss_bytes(seen.pid), seen) for seen in proc.everyone() if seen.pid not in ours), key=lambda pair: -pair[0])
    return [f"{seen.name} (pid {seen.pid}) {format_size(size)}" for size, seen in sizes[:_NAMED] if size]
