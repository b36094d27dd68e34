"""An event as people and programs read it: the same from the live stream and from the store."""

from supervisor.runtime.instants import instant
from supervisor.runtime.ports import StreamEvent
from supervisor.shapes import EventView


def event_view(seq: int, event: StreamEvent) -> EventView:
    """Return the event with its number."""
    at = instant(event.at_wall) or ""
    return EventView(seq=seq, at=at, event=event.event, worker=event.worker, job=event.job, reason=event.reason, data=dict(event.data))
