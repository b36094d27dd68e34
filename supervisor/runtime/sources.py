"""Where events come from that nobody sends: time, and readings that are due."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from supervisor.core.actions import Decision
from supervisor.core.events import AnyEvent, Tick
from supervisor.core.health import clocks
from supervisor.core.limits import PING_EVERY_S, Limits
from supervisor.core.model import Fleet
from supervisor.core.readings import look

TICK_S: Final = 1.0
_AFTER_S: Final = 0.01
"""So much after the expiry: a clock that is exactly at its limit has not expired."""
_LAG_S: Final = 0.5
"""A tick that comes later than this by more shows that the supervisor itself was held up; less is ordinary scheduling."""


class Ticker:
    """Ticks once a second and when a clock expires, says how late it was, and starts the readings. lag_s is the last regular tick's."""

    def __init__(
        self,
        *,
        post: Callable[[AnyEvent], None],
        fleet: Callable[[], Fleet],
        limits: Callable[[], Limits],
        perform: Callable[[Decision], None],
        ping: Callable[[], None],
    ) -> None:
        """Tick into `post`."""
        self.lag_s = 0.0
        self._post = post
        self._fleet = fleet
        self._limits = limits
        self._perform = perform
        self._ping = ping
        self._due_s = time.monotonic() + TICK_S

    def tick(self) -> None:
        """Tick now: something falls due between two regular ticks. A lag is said by whichever tick comes first after it, and once."""
        now_s = time.monotonic()
        late_s = now_s - self._due_s
        if late_s > _LAG_S:
            self._due_s = now_s
        self._post(Tick(wall_s=time.time(), lag_s=late_s if late_s > _LAG_S else 0.0))

    async def run(self, look_every_s: Callable[[], float]) -> None:
        """Tick until cancelled."""
        looked_s = float("-inf")  # the first tick looks: until then nothing is known
        pinged_s = time.monotonic()
        while True:
            asked_s = time.monotonic()
            self._due_s = asked_s + TICK_S
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self.lag_s = max(0.0, now_s - asked_s - TICK_S)
            self.tick()
            self._tick_at_expiry(now_s)
            if now_s - looked_s >= look_every_s() - TICK_S / 2:
                looked_s = now_s
                fleet = self._fleet()
                self._perform(Decision(fleet, look(fleet)))
            if now_s - pinged_s >= PING_EVERY_S:
                pinged_s = now_s
                self._ping()

    def _tick_at_expiry(self, now_s: float) -> None:
        """Tick once more where a clock expires before the next regular tick: a limit of two seconds is then judged after two seconds, not after three."""
        fleet, limits = self._fleet(), self._limits()
        left_s = [
            -clock.over_s(now_s)
            for worker in fleet.workers.values()
            if worker.process is not None
            for clock in clocks(worker, fleet.jobs, limits.workers[worker.model])
        ]
        if any(0.0 <= left < TICK_S for left in left_s):
            asyncio.get_running_loop().call_later(min(left for left in left_s if left >= 0.0) + _AFTER_S, self.tick)
