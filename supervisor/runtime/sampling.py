"""What the machine has available, looked at the oftener the less there is: four times a second, down to each 5 ms near the emergency line."""

import asyncio
from collections.abc import Callable

from supervisor.core.events import AnyEvent, MemorySampled
from supervisor.core.limits import Limits
from supervisor.core.memory import lines, pause_s, zone_of
from supervisor.core.model import Fleet
from supervisor.runtime.ports import Room


class Sampler:
    """Reads the machine's memory, and says when it passes one of the lines."""

    def __init__(self, room: Callable[[], Room], *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], post: Callable[[AnyEvent], None]) -> None:
        """Read by `room`; post into the inbox."""
        self._room = room
        self._fleet = fleet
        self._limits = limits
        self._post = post

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            room, before = self._room(), self._fleet().zone
            at = lines(self._limits().memory, room.total_bytes)
            if zone_of(room.available_bytes, at, before) is not before:
                self._post(MemorySampled(available_bytes=room.available_bytes, total_bytes=room.total_bytes))
            await asyncio.sleep(pause_s(room.available_bytes, at))
