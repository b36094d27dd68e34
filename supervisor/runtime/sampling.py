"""What the machine has available, looked at the oftener the less there is: four times a second, down to each 5 ms near the emergency line."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from supervisor.core.brake import matters
from supervisor.core.events import AnyEvent, MemorySampled
from supervisor.core.limits import Limits
from supervisor.core.memory import lines, pause_s, zone_of
from supervisor.core.model import Fleet, WorkerName
from supervisor.runtime.ports import Room

GROWTH_S = 1.0
"""Over how long a worker's growth is told."""
MOVED_BYTES = 2**28
"""What the machine has available is told anew when it moved by more: a job that needs memory is not held against a reading of ten seconds ago."""
_APART_S = 0.05
_KEPT_S = 60.0


class Sample(Struct, frozen=True):
    """One reading. workers: what the tree of each has in bytes."""

    at_s: float
    available_bytes: int
    workers: Mapping[WorkerName, int]


class Sampler:
    """Reads the machine's memory, and says when it moved, passes one of the lines, or is near the emergency line. samples: of the last minute."""

    def __init__(
        self,
        room: Callable[[], Room],
        trees: Callable[[], Mapping[WorkerName, int]],
        *,
        fleet: Callable[[], Fleet],
        limits: Callable[[], Limits],
        post: Callable[[AnyEvent], None],
        seen: Callable[[MemorySampled], None],
    ) -> None:
        """Read the machine by `room` and the workers by `trees`; show each reading to `seen`, and post those that matter into the inbox."""
        self.samples: deque[Sample] = deque()
        self._room = room
        self._trees = trees
        self._fleet = fleet
        self._limits = limits
        self._post = post
        self._seen = seen

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            room, fleet = self._room(), self._fleet()
            sample = Sample(time.monotonic(), room.available_bytes, self._trees())
            at = lines(self._limits().memory, room.total_bytes)
            event = self._event(sample, room.total_bytes)
            self._seen(event)
            moved = fleet.available_bytes is None or abs(room.available_bytes - fleet.available_bytes) >= MOVED_BYTES
            if matters(event, at.emergency_bytes) or moved or fleet.brakes or zone_of(room.available_bytes, at, fleet.zone) is not fleet.zone:
                self._post(event)
            self._keep(sample)
            await asyncio.sleep(pause_s(room.available_bytes, at))

    def _event(self, sample: Sample, total_bytes: int) -> MemorySampled:
        """Return the reading as it differs from the one a second ago, or from the oldest there is."""
        before = sample
        for one in reversed(self.samples):
            if one.at_s < sample.at_s - GROWTH_S:
                break
            before = one
        grown = {name: size - before.workers.get(name, 0) for name, size in sample.workers.items()}
        return MemorySampled(
            available_bytes=sample.available_bytes,
            total_bytes=total_bytes,
            workers=sample.workers,
            grown={name: size for name, size in grown.items() if size > 0},
            fell_bytes=max(0, before.available_bytes - sample.available_bytes),
        )

    def _keep(self, sample: Sample) -> None:
        if not self.samples or sample.at_s - self.samples[-1].at_s >= _APART_S:
            self.samples.append(sample)
        while self.samples[0].at_s < sample.at_s - _KEPT_S:
            self.samples.popleft()
