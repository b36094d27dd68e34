"""The wait for a device: one line on stderr whenever somebody else is in the way; it goes on over a restart of the supervisor, with its age."""

import secrets
import sys
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from supervisor.cli.context import Context
from supervisor.control import JSONValue, Unreachable
from supervisor.shapes import LockView, StatusView

_AGAIN_S: Final = 0.3
_ANSWER_S: Final = 10.0


def locked(context: Context, asked: Mapping[str, JSONValue], *, timeout_s: float, ticket: str) -> LockView:
    """Return the device, or who is in the way after timeout_s. Raises Refused; Unreachable where no supervisor is there at first, or none at the end."""
    ticket = ticket or f"t-{secrets.token_hex(8)}"
    end_s = time.monotonic() + timeout_s
    look = _Look(context, ticket)
    heard = False
    while True:
        left_s = round(max(0.0, end_s - time.monotonic()), 3)
        try:
            look.supervisor = context.status().supervisor.pid
            heard = True
            with context.client() as client:
                answer = client.ask("gpu.lock", {**asked, "timeout_s": left_s, "ticket": ticket}, timeout_s=left_s + _ANSWER_S, meanwhile=look.tell)
            return msgspec.convert(answer, LockView)
        except Unreachable:
            if not heard or time.monotonic() >= end_s:
                raise
            time.sleep(_AGAIN_S)


class _Look:
    """Says who is in the way. supervisor: the pid of the one that was asked."""

    def __init__(self, context: Context, ticket: str) -> None:
        self._context = context
        self._ticket = ticket
        self._said = ""
        self.supervisor: int | None = None

    def tell(self) -> None:
        """Print a line where there is news. Raises Unreachable once the supervisor that was asked is gone."""
        view = self._context.status()
        if self.supervisor != view.supervisor.pid:
            raise Unreachable("the supervisor that was asked is gone")
        sentence = _in_the_way(view, self._ticket)
        if sentence and sentence != self._said:
            print(f"waiting: {sentence}", file=sys.stderr, flush=True)
            self._said = sentence


def _in_the_way(view: StatusView, ticket: str) -> str:
    found = (waiter for device in view.devices for waiter in device.waiters if waiter.ticket == ticket)
    return next((waiter.waits_for for waiter in found), "")
