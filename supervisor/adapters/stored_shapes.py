"""What both job stores must do alike: how a job and an event become bytes, what a list shows of a large result, and the cursors of pages."""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from supervisor.adapters.result_files import LARGE_BYTES
from supervisor.core.model import Job
from supervisor.errors import StoreError
from supervisor.runtime.ports import StreamEvent

EXPIRE_AT_ONCE: Final = 500
EVENTS_KEPT: Final = 100_000
"""Of each live job, seven hours of one that moves four times a second, and of all others together, a day of a busy machine: under 50 MB on disk each."""


class Place(NamedTuple):
    """A place in the list of jobs."""

    created: float
    id: str


def encode_job(job: Job) -> bytes:
    """Return the job as JSON. Raises StoreError for one that JSON cannot hold."""
    try:
        return msgspec.json.encode(job)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"job {job.id} holds what JSON cannot: {error}") from error


def encode_event(event: StreamEvent) -> bytes:
    """Return the event as JSON. Raises StoreError for one that JSON cannot hold."""
    try:
        return msgspec.json.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"event {event.event} holds what JSON cannot: {error}") from error


def large_result(job: Job, doc: bytes) -> bytes | None:
    """Return the result as JSON where it is a large one. doc: the whole job."""
    if job.result is None or len(doc) <= LARGE_BYTES:
        return None
    result = msgspec.json.encode(job.result)
    return result if len(result) > LARGE_BYTES else None


def shortened(job: Job, size: int) -> Job:
    """Return the job as lists show it when its result is a large one."""
    return replace(job, result={"omitted_bytes": size})


def cursor_after(jobs: Sequence[Job], limit: int) -> tuple[Sequence[Job], str]:
    """Return one page of jobs of which one more than the limit was looked for, and the cursor of the next page."""
    if len(jobs) <= limit:
        return jobs, ""
    last = jobs[limit - 1]
    return jobs[:limit], base64.urlsafe_b64encode(f"{last.created_wall!r} {last.id}".encode()).decode().rstrip("=")


def place_of(cursor: str) -> Place | None:
    """Return the place that a cursor stands for; None for the start. Raises ValueError."""
    if not cursor:
        return None
    try:
        created, _, name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode().partition(" ")
        place = Place(float(created), name)
    except (binascii.Error, ValueError):
        place = Place(math.nan, "")
    if not place.id or not math.isfinite(place.created):
        raise ValueError(f'cursor "{cursor[:80]}" is none of ours: expected "next" of the page before; leave it out to begin at the newest')
    return place
