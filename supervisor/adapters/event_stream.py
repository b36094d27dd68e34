"""The live stream: each event is written down, and then published with its number on a ZeroMQ PUB socket, in one order.

A message has two parts: the job's id (empty for an event that is about none), by which a subscriber may choose, and the JSON of an EventView. The socket
never waits for a subscriber: one that reads too slowly misses messages, sees it by the numbers, and asks for the events since.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import zmq

from supervisor.adapters.sockets import SocketFile
from supervisor.adapters.stored_shapes import encode_event
from supervisor.core.model import JobId
from supervisor.errors import StoreError
from supervisor.runtime.event_views import event_view
from supervisor.runtime.perform import Say
from supervisor.runtime.ports import JobStore, StreamEvent

BATCH_MAX: Final = 200
WAITING_MAX: Final = 10_000
"""Events that wait for a disk that does not take them: under 10 MB, and more than an hour of a busy machine."""
AGAIN_S: Final = 1.0
CLOSE_MAX_S: Final = 2.0
_HIGH_WATER: Final = 10_000
COLLAPSES: Final = "job_moved"


class PublishedEvents:
    """The stream, bound. lost: how many events were never written down, because the disk did not take them for too long or JSON could not hold them."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", path: Path, *, store: JobStore, say: Say, waiting_max: int = WAITING_MAX, again_s: float = AGAIN_S
    ) -> None:
        """Bind to a socket file; one that an earlier supervisor left is replaced. Raises StateError."""
        self.lost = 0
        self._store = store
        self._say = say
        self._waiting_max = waiting_max
        self._again_s = again_s
        self._waiting: dict[int, StreamEvent] = {}  # in order; a number of its own, so that one in the middle can go
        self._moved: dict[str | None, int] = {}  # job -> its job_moved that waits
        self._next = 0
        self._posted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed = False
        self._socket = _publisher(context)
        self.file = SocketFile(self._socket, path)
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_ended)

    def post(self, event: StreamEvent) -> None:
        """Take the event. Never blocks, never raises."""
        try:
            encode_event(event)
        except StoreError as error:  # it would stand in the way of all others for ever
            self._lose(str(error))
            return
        if event.event == COLLAPSES:
            self._waiting.pop(self._moved.pop(event.job, -1), None)
            self._moved[event.job] = self._next
        self._waiting[self._next] = event
        self._next += 1
        if len(self._waiting) > self._waiting_max:
            self._take(next(iter(self._waiting)))
            self._lose(f"the job store takes no events, and more than {self._waiting_max} wait: the oldest are forgotten; make room on the disk of state_dir")
        self._idle.clear()
        self._posted.set()

    def take(self, job: JobId) -> Sequence[StreamEvent]:
        """Return this job's events that still wait, and leave them to the caller."""
        return [self._take(place) for place, event in list(self._waiting.items()) if event.job == job]

    def publish(self, numbers: Sequence[int], events: Sequence[StreamEvent]) -> None:
        """Tell events that are on disk already, in the order of their numbers: whoever waited for the store is woken in the order of its commits."""
        for number, event in zip(numbers, events, strict=True):
            with suppress(zmq.Again):  # a PUB drops for the one who is slow; this is for all the rest
                self._socket.send_multipart(((event.job or "").encode(), msgspec.json.encode(event_view(number, event))), zmq.NOBLOCK)

    async def close(self) -> None:
        """Write down and publish what waits, within two seconds, and remove the socket file."""
        if self._task.done():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_MAX_S):
                await self._idle.wait()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._socket.close()
        self.file.remove()

    async def _run(self) -> None:
        while True:
            await self._posted.wait()
            self._posted.clear()
            while self._waiting:
                await self._write(list(islice(self._waiting.items(), BATCH_MAX)))
            self._idle.set()

    async def _write(self, batch: Sequence[tuple[int, StreamEvent]]) -> None:
        """Write the next ones down and tell them; where that fails they wait again. A newer job_moved comes after one that is on its way, not in its place."""
        events = [self._take(place) for place, _ in batch]
        try:
            numbers = await self._store.append_events(events)
        except StoreError as error:
            self._waiting = {**dict(batch), **self._waiting}
            if not self._failed:
                self._say("error", "store_failed", {"reason": f"events wait in memory: {error}"})
            self._failed = True
            await asyncio.sleep(self._again_s)
        else:
            self._failed = False
            self.publish(numbers, events)

    def _take(self, place: int) -> StreamEvent:
        event = self._waiting.pop(place)
        if self._moved.get(event.job) == place:
            del self._moved[event.job]
        return event

    def _lose(self, reason: str) -> None:
        """Count it; say it when it begins, and again at each power of ten."""
        self.lost += 1
        if str(self.lost).strip("0") == "1":
            self._say("warning", "events_lost", {"count": self.lost, "reason": reason})


def _ended(task: "asyncio.Task[None]") -> None:
    """The task runs until it is cancelled: anything else is a bug of ours, and must not go on in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "the event stream failed", "exception": error, "task": task})


def _publisher(context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
    return socket
