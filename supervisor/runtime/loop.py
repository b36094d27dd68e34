"""The one writer: an event at a time is decided, the new fleet stored, its actions started."""

import asyncio
import time
from collections.abc import Callable

from supervisor.core.actions import Decision
from supervisor.core.decide import decide
from supervisor.core.events import AnyEvent, ConfigChanged
from supervisor.core.limits import Limits
from supervisor.core.model import Fleet
from supervisor.core.reload import effective
from supervisor.runtime.inbox import Inbox
from supervisor.runtime.ports import Journal

TURN_MAX_S = 0.010
"""How long events are taken before the loop gives way to sockets and timers: with a thousand jobs in the queue one event may cost a millisecond."""


class Loop:
    """Holds the fleet. Only `run` changes it."""

    def __init__(self, fleet: Fleet, limits: Limits, inbox: Inbox, *, perform: Callable[[Decision], None], journal: Journal) -> None:
        """Begin with this fleet, and with what is in the inbox."""
        self.fleet = fleet
        self.limits = limits
        self._perform = perform
        self._journal = journal
        self._inbox = inbox
        self._left = False

    def begin(self, event: AnyEvent) -> None:
        """Put the first event before all that came in while the doors were opened: what runs already must be known before anything is started."""
        self._inbox.post_first(event)

    def change_limits(self, limits: Limits, *, generation: int, changed: tuple[str, ...]) -> None:
        """Decide by these limits from the next event on; a model that they lack is kept for as long as one of its workers is there."""
        previous = self.limits
        self.limits = effective(limits, previous, self.fleet)
        # Before what waits: no event is decided by limits that the fleet was not brought to.
        self._inbox.post_first(ConfigChanged(previous=previous, generation=generation, changed=changed))

    def leave(self) -> None:
        """Make `run` return after this turn."""
        self._left = True
        self._inbox.wake()

    async def run(self) -> None:
        """Decide until `leave`. An exception in here is a bug, and ends the service."""
        while not self._left:
            await self._inbox.filled()
            end_s = time.monotonic() + TURN_MAX_S
            while self._inbox and not self._left:
                self._turn(self._inbox.take())
                if time.monotonic() >= end_s:
                    break
            if self._inbox:
                self._inbox.wake()
                await asyncio.sleep(0)

    def _turn(self, event: AnyEvent) -> None:
        now_s = time.monotonic()
        self._journal.record(self.fleet, event, self.limits, now_s)
        decision = decide(self.fleet, event, self.limits, now_s)
        self.fleet = decision.fleet
        self._perform(decision)
