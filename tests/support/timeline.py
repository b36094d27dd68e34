"""Virtual time: what happens when, in one order that never changes."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supervisor.core.events import AnyEvent, Event, Tick

LAST: Final = 1
"""The rank of the tick that ends a freeze: what waited in the inbox is read before anyone is judged."""

What = AnyEvent | Callable[[], None]


@dataclass
class Timeline:
    """Events for the supervisor, and things that are done. The supervisor reads nothing while it is frozen; everything else goes on."""

    now_s: float = 0.0
    frozen_until_s: float = 0.0
    _queue: list[tuple[float, int, int, What]] = field(default_factory=list)
    _serial: int = 0

    def at(self, at_s: float, what: What, rank: int = 0) -> None:
        """Let something happen at this instant, after what was asked for earlier."""
        self._serial += 1
        heapq.heappush(self._queue, (at_s, rank, self._serial, what))

    def drop_events(self) -> None:
        """Forget what no supervisor has read."""
        self._queue = [entry for entry in self._queue if not isinstance(entry[3], Event)]
        heapq.heapify(self._queue)
        self.frozen_until_s = 0.0

    def run(self, until_s: float, decide: Callable[[AnyEvent], None]) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_s:
            at_s, rank, serial, what = heapq.heappop(self._queue)
            if not isinstance(what, Event):
                self.now_s = at_s
                what()
            elif rank != LAST and at_s <= self.frozen_until_s and isinstance(what, Tick):
                continue
            elif at_s < self.frozen_until_s:
                heapq.heappush(self._queue, (self.frozen_until_s, rank, serial, what))
            else:
                self.now_s = at_s
                decide(what)
        self.now_s = max(self.now_s, until_s)
