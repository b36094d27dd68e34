"""The journal: a bounded ring of events that replays to the same fleet. Dumped on a crash and on request."""

from collections import deque
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from supervisor.core.decide import decide
from supervisor.core.events import AnyEvent
from supervisor.core.limits import Limits
from supervisor.core.model import Fleet

SEGMENT: Final = 256
SEGMENTS: Final = 16


class Segment(Struct):
    """A fleet, and the events that came after it."""

    fleet: Fleet
    limits: Limits
    events: list[tuple[float, AnyEvent]]


class Ring:
    """The last SEGMENTS x SEGMENT events. Fleets are frozen, so that keeping one costs a reference."""

    def __init__(self) -> None:
        """Begin empty."""
        self._segments: deque[Segment] = deque(maxlen=SEGMENTS)

    def record(self, fleet: Fleet, event: AnyEvent, limits: Limits, now_s: float) -> None:
        """Keep an event; fleet is the one before it."""
        last = self._segments[-1] if self._segments else None
        if last is None or len(last.events) >= SEGMENT or last.limits is not limits:
            last = Segment(fleet, limits, [])
            self._segments.append(last)
        last.events.append((now_s, event))

    def dump(self, path: Path) -> None:
        """Write the ring, one segment a line."""
        with path.open("wb") as file:
            for segment in self._segments:
                file.write(msgspec.json.encode(segment) + b"\n")


def load(path: Path) -> list[Segment]:
    """Return the segments of a dump. Raises msgspec.DecodeError for a file that is none."""
    return [msgspec.json.decode(line, type=Segment) for line in path.read_bytes().splitlines()]


def replay(segment: Segment) -> Fleet:
    """Return the fleet after the segment's events were decided again."""
    fleet = segment.fleet
    for now_s, event in segment.events:
        fleet = decide(fleet, event, segment.limits, now_s).fleet
    return fleet
