"""The socket where people's programs ask: bytes become a request, its answer goes back; garbage gets a sentence, never a traceback."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from supervisor import control
from supervisor.adapters.sockets import Router
from supervisor.runtime.requests import Rejected

Handle = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class ControlServer:
    """One ROUTER for all clients. Requests are answered side by side; each has the deadline of its operation."""

    def __init__(self, bind: Callable[[Callable[[bytes, bytes], None]], Router], handle: Handle) -> None:
        """Listen; hand (operation, arguments) to handle."""
        self.dropped: Counter[str] = Counter()
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._router = bind(self._receive)
        self.file = self._router.file

    def close(self) -> None:
        """Stop listening; requests under way go unanswered."""
        for task in self._tasks:
            task.cancel()
        self._router.close()

    def _receive(self, sender: bytes, data: bytes) -> None:
        try:
            request = msgspec.json.decode(data, type=control.Request)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self.dropped["malformed"] += 1
            problem = control.Problem(code="usage", message=f"not a request of protocol {control.PROTOCOL}: {error}")
            self._router.send(sender, msgspec.json.encode(control.Answer(id="", ok=False, error=problem)))
            return
        task = asyncio.get_running_loop().create_task(self._answer(sender, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, sender: bytes, request: control.Request) -> None:
        try:
            if request.v != control.PROTOCOL:
                raise Rejected("usage", f"protocol version {request.v} found, {control.PROTOCOL} expected: use the warden of the same release")
            answer = control.Answer(id=request.id, ok=True, data=await self._handle(request.op, request.args))
        except Rejected as rejected:
            answer = control.Answer(id=request.id, ok=False, error=control.Problem(code=rejected.code, message=rejected.message))
        try:
            data = msgspec.json.encode(answer)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            problem = control.Problem(code="failed", message=f"the answer cannot be sent as JSON: {error}")
            data = msgspec.json.encode(control.Answer(id=request.id, ok=False, error=problem))
        self._router.send(sender, data)
