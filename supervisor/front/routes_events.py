"""Streams of what happened (Server-Sent Events): replay from Last-Event-ID, then live, with nothing missing in between."""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from supervisor.front.follow import ENDED, Gap, follow
from supervisor.front.hub import Kept
from supervisor.front.openapi import describe
from supervisor.front.parts import Caller, FromCaller, JobName
from supervisor.front.problems import Refusal

router = APIRouter(prefix="/v1", tags=["events"])

STREAMS_MAX = 1000
PING_S = 15
RETRY_MS = 1000
"""How soon an EventSource comes back after its connection ended: the front restarts in about that time."""
SEND_S = 60.0
"""How long a follower may leave its end unread: then the stream is closed, and it comes back with Last-Event-ID."""

_LAST = 2**62
_ID = r"^[0-9]{0,19}$"

LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", pattern=_ID, description="The id of the last event that was seen: what came after it is sent first.")
]
After = Annotated[int | None, Query(ge=0, le=_LAST, description="The same, for the first connection.")]


@router.get("/events", **describe(str, media="text/event-stream", says="Each event as JSON, its number as `id`.", also=(422,)))
async def events(
    caller: FromCaller,
    job: Annotated[str, Query(max_length=4000, description="Only of these jobs, parted by commas.")] = "",
    after: After = None,
    last_event_id: LastEventId = "",
) -> Response:
    """Follow everything that happens, from now on or from a number on. `event: gap` says that what lay between is kept no longer."""
    names = frozenset(name for name in job.split(",") if name)
    start = _start(last_event_id, after, default=None)
    single = next(iter(names)) if len(names) == 1 else ""
    return _stream(caller, _told(caller, start, job=single, names=names))


@router.get(
    "/jobs/{job}/events",
    **describe(
        str,
        media="text/event-stream",
        says="Each event of the job as JSON, its number as `id`, from the first one on; the stream ends with the job.",
        also=(404, 410, 422),
        answers={204: {"description": "The job has ended and all of it was seen: an EventSource stops asking."}},
    ),
)
async def job_events(caller: FromCaller, job: JobName, after: After = None, last_event_id: LastEventId = "") -> Response:
    """Follow one job to its end."""
    view = await caller.job("jobs.show", {"job": job})
    start = _start(last_event_id, after, default=0) or 0
    if view.status in ENDED and not (await caller.front.hub.page(start, job)).events:
        return Response(status_code=204)
    return _stream(caller, _told(caller, start, job=job, names=frozenset({job}), to_the_end=True))


def _start(last_event_id: str, after: int | None, *, default: int | None) -> int | None:
    if last_event_id:
        return min(int(last_event_id), _LAST)
    return default if after is None else after


def _stream(caller: Caller, told: AsyncIterator[ServerSentEvent]) -> Response:
    if caller.front.metrics.open_streams >= STREAMS_MAX:
        raise Refusal(503, "busy", f"{STREAMS_MAX} streams are open, which is the limit: close some, or follow several jobs with one /v1/events?job=a,b")
    return EventSourceResponse(told, ping=PING_S, send_timeout=SEND_S, sep="\n")


async def _told(caller: Caller, start: int | None, *, job: str, names: frozenset[str], to_the_end: bool = False) -> AsyncIterator[ServerSentEvent]:
    metrics = caller.front.metrics

    def wanted(one: Kept) -> bool:
        return not names or one.event.job in names

    metrics.open_streams += 1
    try:
        yield ServerSentEvent(retry=RETRY_MS)
        async for one in follow(caller.front.hub, after=start, job=job, wanted=wanted):
            if isinstance(one, Gap):
                yield ServerSentEvent(event="gap", data=msgspec.json.encode(one).decode())
                continue
            yield ServerSentEvent(id=str(one.event.seq), data=one.data)
            if to_the_end and one.event.data.get("status") in ENDED:
                return
    finally:
        metrics.open_streams -= 1
