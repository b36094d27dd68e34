"""The one inbox: what happened, in the order in which it is to be decided. It is there before the loop that empties it."""

import asyncio
from collections import deque

from supervisor.core.events import AnyEvent


class Inbox:
    """Anyone may `post`, from the one thread. A worker that was taken back may end before there is a fleet: its end waits here."""

    def __init__(self) -> None:
        """Begin empty."""
        self._events: deque[AnyEvent] = deque()
        self._filled = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether there is an event."""
        return bool(self._events)

    def post(self, event: AnyEvent) -> None:
        """Put an event behind all others."""
        self._events.append(event)
        self._filled.set()

    def post_first(self, event: AnyEvent) -> None:
        """Put an event before all others."""
        self._events.appendleft(event)
        self._filled.set()

    def take(self) -> AnyEvent:
        """Return the first event. Raises IndexError where there is none."""
        return self._events.popleft()

    async def filled(self) -> None:
        """Return when there is an event, or `wake` was called."""
        await self._filled.wait()
        self._filled.clear()

    def wake(self) -> None:
        """Let `filled` return once."""
        self._filled.set()
