"""The body of one request: how large it may be, how slowly it may come, and what is done with a rest that nobody reads."""

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from supervisor.front.problems import Refusal

BODY_MAX: Final = 1024 * 1024
UPLOADS: Final = frozenset({"/sessions", "/predict"})
CHUNK_S: Final = 30.0
"""How long the next piece of a body may take."""
BODY_S: Final = 60.0
"""How long a whole body may take; an upload may take longer, as long as it moves."""
_REST_MAX: Final = 1024 * 1024
_REST_S: Final = 1.0


class Body:
    """Stands between the server and the application, with limits on what comes in."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, max_upload_bytes: int) -> None:
        """Watch this request's body."""
        self._receive = receive
        self._send = send
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        self._declared = int(length) if length.isdigit() else 0
        self._expected = self._declared > 0 or "transfer-encoding" in headers
        self._asks_first = "expect" in headers
        self._upload = scope["path"] in UPLOADS
        self._limit = max_upload_bytes + BODY_MAX if self._upload else BODY_MAX
        self._end_s = asyncio.get_running_loop().time() + BODY_S
        self._taken = 0
        self._whole = not self._expected

    def check_declared(self) -> None:
        """Refuse what says itself that it is too large. Raises Refusal (413)."""
        if self._declared > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next piece. Raises Refusal: 413 over the limit, 408 where it comes too slowly."""
        if self._whole:
            return await self._receive()  # all that can come now is that the client leaves
        left_s = CHUNK_S if self._upload else min(CHUNK_S, self._end_s - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(left_s):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "timeout", "the body came too slowly: send it again, faster") from None
        self._note(message)
        if self._taken > self._limit:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """Send. Before an answer to a body that was not read, its rest is thrown away if it is small; else the connection ends with the answer."""
        if message["type"] == "http.response.start" and not self._whole:
            await self._throw_away()
            if not self._whole:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)

    async def _throw_away(self) -> None:
        """Read a rest: closing a connection with unread bytes resets it, and the client never sees why."""
        if self._asks_first and not self._taken:
            return
        most = self._taken + _REST_MAX
        try:
            async with asyncio.timeout(_REST_S):
                while not self._whole and self._taken < most:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self._note(message)
        except TimeoutError:
            return

    def _note(self, message: Message) -> None:
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)

    def _too_large(self) -> Refusal:
        cure = "raise api.max_upload in supervisor.toml, or put the file under a folder of api.allowed_roots and send its path" if self._upload else "send less"
        return Refusal(413, "too_large", f"the body is over the limit of {self._limit} bytes: {cure}")
