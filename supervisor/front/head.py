"""HEAD wherever GET is: the same head, without the body, and without waiting for the end of a stream."""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Asks what is below for GET, and ends the answer after its head."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before this application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        head: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def take(message: Message) -> None:
            if message["type"] == "http.response.start" and not head.done():
                head.set_result(message)

        asked = asyncio.create_task(_ask(self._app, {**scope, "method": "GET"}, receive, take))
        first: set[asyncio.Future[Any]] = {asked, head}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()  # a file would be read to its end, a stream has none
            with suppress(asyncio.CancelledError):
                await asked
        if head.done():
            await send(head.result())
            await send({"type": "http.response.body", "body": b""})


async def _ask(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
