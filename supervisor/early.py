"""Signals that come before the supervisor can act on them: kept from its first line on, so that a stop in the middle of a start is a stop in order."""

import signal
from typing import Final

STOPS: Final = (signal.SIGTERM, signal.SIGINT)

asked: list[int] = []
"""The signals that asked for a stop so far; whoever can act on them takes them out."""


def listen() -> None:
    """Keep what asks for a stop. SIGHUP means nothing yet: the configuration is about to be read. A child that is started gets the defaults at its exec."""
    for number in STOPS:
        signal.signal(number, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
