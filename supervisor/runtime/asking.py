"""A request on its way through the inbox: posted as an event, answered by a decision's reply, never waited for without end."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from supervisor.core.actions import Reply
from supervisor.core.events import AnyEvent
from supervisor.runtime.requests import Rejected

ANSWER_MAX_S: Final = 8.0
"""Below the client's own deadline, so that it hears a reason and not silence."""


class Asking:
    """Who waits for which reply."""

    def __init__(self, post: Callable[[AnyEvent], None]) -> None:
        """Post into the inbox."""
        self._post = post
        self._asked: dict[str, asyncio.Future[Reply]] = {}

    def answer(self, reply: Reply) -> None:
        """Give a decision's reply to whoever asked; one that is not waited for any more is dropped."""
        future = self._asked.pop(reply.request, None)
        if future is not None and not future.done():
            future.set_result(reply)

    async def ask(self, event: Callable[[str], AnyEvent], *, within_s: float = ANSWER_MAX_S) -> Reply:
        """Post an event and return the reply to it. Raises Rejected with the reply's sentence, or when none came in time."""
        request = uuid4().hex
        self._asked[request] = asyncio.get_running_loop().create_future()
        future = self._asked[request]
        self._post(event(request))
        try:
            async with asyncio.timeout(within_s):
                reply = await future
        except TimeoutError:
            self._asked.pop(request, None)
            raise Rejected("failed", f"no answer within {within_s:g} s: the job store may be stuck; see warden status") from None
        if reply.error:
            raise Rejected(reply.error, reply.message)
        return reply
