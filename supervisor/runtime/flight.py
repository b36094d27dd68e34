"""The flight recorder: the last minute of every worker, second by second, kept here, where it outlives the worker."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from supervisor.core.events import AnyEvent, JobAccepted, JobEnded
from supervisor.core.model import Fleet, FlightSample, Process, Worker, WorkerName
from supervisor.core.states import Reason

EVERY_S: Final = 1.0
KEPT_S: Final = 60.0
_BY_MEMORY: Final = frozenset({Reason.MEMORY_EMERGENCY, Reason.GPU_OOM})
"""Ends that the worker tells by itself, and whose story is in its memory."""


class FlightRecorder:
    """Samples what costs nothing: the RSS of each worker's leader; the rest is known already, by beats and by the last look at trees and machine."""

    def __init__(self, *, fleet: Callable[[], Fleet], rss_bytes: Callable[[int], int]) -> None:
        """Record this fleet. rss_bytes: of a pid, 0 when it is gone."""
        self._fleet = fleet
        self._rss_bytes = rss_bytes
        self._records: dict[tuple[WorkerName, int], deque[FlightSample]] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample(time.time())
            await asyncio.sleep(EVERY_S)

    def sample(self, now_wall: float) -> None:
        """Take one sample of each worker that has a process, and forget those that are gone for good. 15 us for each worker."""
        fleet = self._fleet()
        records: dict[tuple[WorkerName, int], deque[FlightSample]] = {}
        for worker in fleet.workers.values():
            process = worker.process
            if process is None:
                continue
            key = worker.name, worker.generation
            records[key] = self._records.get(key) or deque(maxlen=round(KEPT_S / EVERY_S))
            self._take(fleet, worker, process, records[key], now_wall)
        self._records = records

    def _take(self, fleet: Fleet, worker: Worker, process: Process, record: deque[FlightSample], now_wall: float) -> None:
        rss_bytes = self._rss_bytes(process.pid) if process.pid is not None else 0
        if not rss_bytes:  # not there yet, or not any more: it is being swept
            return
        job = fleet.jobs.get(worker.jobs[0]) if worker.jobs else None
        record.append(
            FlightSample(
                at_wall=round(now_wall, 2),
                rss_bytes=rss_bytes,
                pss_bytes=worker.memory_bytes,
                available_bytes=fleet.available_bytes,
                device_bytes=process.device_bytes,
                job=job.id if job is not None else "",
                phase=job.phase if job is not None else "",
                done=job.done if job is not None else 0.0,
                total=job.total if job is not None else 0.0,
            )
        )

    def _begin(self, name: WorkerName, generation: int) -> None:
        """Begin the record of a process that is given work before its first second is over: it may end within that."""
        fleet, key = self._fleet(), (name, generation)
        worker = fleet.workers.get(name)
        if worker is not None and worker.generation == generation and worker.process is not None and not self._records.get(key):
            record = self._records[key] = deque(maxlen=round(KEPT_S / EVERY_S))
            self._take(fleet, worker, worker.process, record, time.time())

    def of(self, worker: WorkerName, generation: int) -> tuple[FlightSample, ...]:
        """Return what is kept of one process, the oldest first."""
        return tuple(self._records.get((worker, generation), ()))

    def with_record(self, event: AnyEvent) -> AnyEvent:
        """Return the event, with the record where it is the end of a job for want of memory. That a job begins begins a record."""
        if isinstance(event, JobAccepted):
            self._begin(event.worker, event.generation)
        if isinstance(event, JobEnded) and event.reason in _BY_MEMORY:
            return replace(event, flight=self.of(event.worker, event.generation))
        return event
