"""The stream of what happened, for everybody who follows it: one subscription, the last events kept once for all, holes filled by asking.

A follower is a number, the last event it has seen; nothing is queued for it. Whoever falls behind what is kept here is served from the supervisor's store,
so a slow follower costs no memory and misses nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import zmq
from msgspec import Struct

from supervisor.control import Refused, Unreachable, endpoint_of
from supervisor.front.client import Supervisor
from supervisor.shapes import EventsPage, EventView

KEPT: Final = 4096
PAGE: Final = 500
CHECK_S: Final = 2.0
"""How often the supervisor is asked for what was missed without a later event to show it: the subscription may have been away."""
_AWAY_S: Final = 0.5
_DRAIN_MAX: Final = 500


class Kept(Struct, frozen=True):
    """One event, and its bytes for a stream: they are made once, however many follow."""

    event: EventView
    data: str


def kept(event: EventView) -> Kept:
    """Return the event with its JSON."""
    return Kept(event, msgspec.json.encode(event).decode())


class Hub:
    """What happened, from the moment at which the front started."""

    def __init__(self, supervisor: Supervisor, state_dir: Path, tell: Callable[[EventView], None]) -> None:
        """Subscribe. tell: hears every event once, in order. Needs a running loop; `run` must be running for anything to be heard."""
        self.last = 0
        self.in_step = False
        self.closed = False
        self._supervisor = supervisor
        self._state_dir = state_dir
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._kept: list[Kept] = []
        self._wake = asyncio.Event()
        self._behind = asyncio.Event()
        self._again: asyncio.Handle | None = None
        self._socket = self._subscribe()

    async def run(self) -> None:
        """Keep in step with the supervisor until cancelled."""
        while True:
            self._behind.clear()
            try:
                await self._catch_up()
                pause_s = CHECK_S
            except (Refused, Unreachable, msgspec.ValidationError):
                pause_s = _AWAY_S
            if endpoint_of(self._state_dir, "events") != self._endpoint:
                self._unsubscribe()
                self._socket = self._subscribe()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._behind.wait()
                    if pause_s == _AWAY_S:
                        await asyncio.sleep(_AWAY_S)  # each event of a burst must not ask a supervisor that does not answer

    def close(self) -> None:
        """End every follower."""
        self.closed = True
        self._unsubscribe()
        self._ring()

    def bell(self) -> asyncio.Event:
        """Return what is set at the next event. Take it before looking, so that nothing falls between the look and the wait."""
        return self._wake

    def since(self, after: int) -> Sequence[Kept] | None:
        """Return what is kept after a number, oldest first; None where something after it is not kept here."""
        first = self.last - len(self._kept) + 1
        return None if after < first - 1 else self._kept[after - first + 1 :]

    async def page(self, after: int, job: str = "") -> EventsPage:
        """Return the next events after a number from the supervisor's store. Raises Refused, Unreachable."""
        return await self._supervisor.view("events.since", EventsPage, {"after": after, "job": job, "limit": PAGE})

    async def _catch_up(self) -> None:
        if not self.in_step:
            page = await self._supervisor.view("events.since", EventsPage, {"after": 0, "job": "", "limit": 1})
            self.last, self._kept, self.in_step = page.last, [], True
            self._ring()
        while True:
            page = await self.page(self.last)
            if page.last < self.last:  # another store than before: its numbers start anew
                self.last, self._kept = page.last, []
            for event in page.events:
                if event.seq > self.last + 1:  # what lay between was cleaned up before we saw it
                    self.last, self._kept = event.seq - 1, []
                self._take(event)
            self._ring()
            if len(page.events) < PAGE:
                return

    def _take(self, event: EventView) -> None:
        if event.seq != self.last + 1:
            return
        self.last = event.seq
        self._kept.append(kept(event))
        if len(self._kept) > 2 * KEPT:
            del self._kept[:KEPT]
        self._tell(event)

    def _ring(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    def _subscribe(self) -> "zmq.Socket[bytes]":
        self._endpoint = endpoint_of(self._state_dir, "events")
        socket = self._supervisor.context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self._endpoint)
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)
        return socket

    def _unsubscribe(self) -> None:
        self._loop.remove_reader(self._fd)
        self._socket.close()

    def _drain(self) -> None:
        self._again = None
        if self._socket.closed:
            return
        before = self.last
        for _ in range(_DRAIN_MAX):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._hear(parts[-1])
        else:
            self._again = self._loop.call_soon(self._drain)
        if self.last != before:
            self._ring()

    def _hear(self, data: bytes) -> None:
        if not self.in_step:
            self._behind.set()
            return
        try:
            event = msgspec.json.decode(data, type=EventView)
        except msgspec.DecodeError:
            return
        if event.seq > self.last + 1:
            self._behind.set()
        else:
            self._take(event)
