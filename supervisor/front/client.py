"""The front's connection to the supervisor: one DEALER for all requests, answers matched by id, every request with a deadline."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec
import zmq

from supervisor.control import MAX_MESSAGE_BYTES, Answer, JSONValue, Refused, Request, Unreachable, endpoint_of
from supervisor.shapes import StatusView

DEADLINE_S: Final = 10.0
CONNECT_S: Final = 2.0
"""How long a request waits for a supervisor that is away: a restart takes less."""
_TRY_EVERY_S: Final = 0.05
_DRAIN_MAX: Final = 500

Shape = TypeVar("Shape")


class Supervisor:
    """The supervisor as the front sees it."""

    def __init__(self, state_dir: Path) -> None:
        """Connect; nothing is sent yet, so this never fails for a supervisor that is away. Needs a running loop."""
        self._state_dir = state_dir
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._status_now: asyncio.Task[StatusView] | None = None
        self._status_next: asyncio.Task[StatusView] | None = None
        self._heard_s = self._loop.time()
        self._again: asyncio.Handle | None = None
        self._socket = self._connect()

    @property
    def context(self) -> "zmq.Context[zmq.Socket[bytes]]":
        """The ZeroMQ context, for the other sockets of this process."""
        return self._context

    def close(self) -> None:
        """Let the connection go; whoever waits is told that nobody answers."""
        self._let_go("the front is ending")

    async def ask(self, op: str, args: Mapping[str, JSONValue] | None = None, *, by: str = "http", timeout_s: float = DEADLINE_S) -> JSONValue:
        """Return the answer's data. Raises Refused with the supervisor's sentence, or Unreachable when none came within timeout_s."""
        request = Request(id=uuid4().hex, op=op, args=args or {}, by=by)
        sent_s = await self._send(msgspec.json.encode(request))
        future = self._waiting[request.id] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError:
            if self._heard_s < sent_s:
                # What may still lie in the socket must not be delivered later, to a supervisor that nobody asks any more.
                self._let_go("it fell silent")
                self._socket = self._connect()
            raise Unreachable(f"no answer to {op} at {self._endpoint} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(request.id, None)
        if answer.error is not None:
            raise Refused(answer.error)
        return answer.data

    async def view(self, op: str, shape: type[Shape], args: Mapping[str, JSONValue] | None = None, *, by: str = "http", timeout_s: float = DEADLINE_S) -> Shape:
        """Return the answer as its shape. Raises as `ask` does."""
        return msgspec.convert(await self.ask(op, args, by=by, timeout_s=timeout_s), shape)

    async def status(self) -> StatusView:
        """Return the status, asked for once for all who want it meanwhile. Raises as `ask` does.

        It is never older than the question: whoever comes while a request is under way is served by the next one, which begins when that one has ended. So a
        caller sees what it did itself, and the supervisor has one status to make at a time, however many ask.
        """
        if self._status_next is None:
            self._status_next = self._loop.create_task(self._status_after(self._status_now))
            self._status_next.add_done_callback(_failed_unheard)
        try:
            async with asyncio.timeout(DEADLINE_S):  # for both, where there is one to wait for
                return await asyncio.shield(self._status_next)  # who leaves early takes nobody with him
        except TimeoutError:
            raise Unreachable(f"no answer to status at {self._endpoint} within {DEADLINE_S:g} s") from None

    async def _status_after(self, before: "asyncio.Task[StatusView] | None") -> StatusView:
        if before is not None:
            await asyncio.wait([before])
        self._status_now, self._status_next = self._status_next, None  # who comes from here on comes too late for this one
        return await self.view("status", StatusView)

    async def _send(self, data: bytes) -> float:
        """Return when it was sent. ZMQ_IMMEDIATE refuses while nobody is connected, so nothing is kept for a supervisor that comes much later."""
        end_s = self._loop.time() + CONNECT_S
        while True:
            try:
                self._socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                if self._loop.time() >= end_s:
                    raise Unreachable(f"no supervisor is connected at {self._endpoint}") from None
                if endpoint_of(self._state_dir) != self._endpoint:  # a later one made its sockets elsewhere
                    self._let_go("it moved")
                    self._socket = self._connect()
                await asyncio.sleep(_TRY_EVERY_S)
                continue
            except zmq.ZMQError as error:
                raise Unreachable(f"the connection to {self._endpoint} is closed: {error}") from None
            self._look_again()  # the descriptor is edge-triggered: a send may swallow the edge of an answer
            return self._loop.time()

    def _connect(self) -> "zmq.Socket[bytes]":
        self._endpoint = endpoint_of(self._state_dir)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.connect(self._endpoint)
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        return socket

    def _let_go(self, why: str) -> None:
        self._loop.remove_reader(self._fd)
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable(f"the supervisor at {self._endpoint} did not answer: {why}"))
        self._waiting.clear()

    def _look_again(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._again = None
        if self._socket.closed:
            return
        for _ in range(_DRAIN_MAX):
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(data)
        self._look_again()

    def _take(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        try:
            answer = msgspec.json.decode(data, type=Answer)
        except msgspec.DecodeError:
            return  # not of our protocol: whoever waits hears of its deadline
        future: asyncio.Future[Any] | None = self._waiting.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)


def _failed_unheard(task: "asyncio.Task[StatusView]") -> None:
    """Take note of a failure that perhaps nobody waits for any more: it would be logged as a bug."""
    if not task.cancelled():
        task.exception()
