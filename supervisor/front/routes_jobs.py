"""Jobs: submit, list, look, wait, cancel, pause, resume, retry, why."""

import asyncio
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from msgspec.structs import replace
from starlette.responses import Response

from supervisor.front.bodies import answer, body_of
from supervisor.front.follow import ENDED, wait_for_change
from supervisor.front.openapi import describe
from supervisor.front.parts import Caller, FromCaller, IdempotencyKey, JobName, accepted
from supervisor.front.shapes_in import JobBody
from supervisor.shapes import JobsPage, JobView, WhyView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

WAIT_MAX_S = 60
_LOOK_S = 5.0
"""How often a waiting request looks without an event: what an event may never say, such as a place in the queue, is not waited for long."""

_TAKEN = ("Location", "Retry-After")
_STATE = (404, 409, 410, 422)
_SUBMIT = (404, 409, 410, 422, 429, 507)


@router.post("", **describe(JobView, status=202, says="The job is on disk.", takes=JobBody, also=_SUBMIT, headers=_TAKEN))
async def submit(caller: FromCaller, body: Annotated[JobBody, Depends(body_of(JobBody))], key: IdempotencyKey = "") -> Response:
    """Submit a job. Paths in its parameters must lie under the state folder or a folder of api.allowed_roots."""
    run_at = body.run_at.isoformat() if body.run_at else None
    more = {"priority": body.priority, "run_at": run_at, "max_attempts": body.max_attempts, "hold": body.hold, "idempotency_key": key or None}
    return accepted(await caller.submit(body.kind, body.params, **more, device=body.device, memory=body.memory))


@router.get("", **describe(JobsPage, also=(422,)))
async def jobs(
    caller: FromCaller,
    status: Annotated[list[Annotated[str, Query(max_length=200)]] | None, Query(description="Only these; may be repeated, or parted by commas.")] = None,
    kind: Annotated[str, Query(max_length=200)] = "",
    cursor: Annotated[str, Query(max_length=400, description="The `next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List jobs, the newest first. Nobody appears twice or is left out when jobs come and go between two pages."""
    statuses = [word for text in status or () for word in text.split(",") if word]
    return answer(await caller.view("jobs.page", JobsPage, {"statuses": statuses, "kind": kind, "cursor": cursor, "limit": limit}))


@router.get(
    "/{job}",
    **describe(
        JobView,
        also=(404, 410, 422),
        headers=("ETag",),
        answers={304: {"description": "Still as it was, for the whole of `wait`.", "headers": {"ETag": {"schema": {"type": "string"}}}}},
    ),
)
async def job(
    caller: FromCaller,
    job: JobName,
    wait: Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="Seconds to wait: until it ended or, with If-None-Match, until it changed.")] = 0.0,
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """Return a job. With `wait` the answer comes when there is something to say."""
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",") if tag.strip()}
    end_s = asyncio.get_running_loop().time() + wait
    seen = caller.front.hub.last
    while True:
        view = await caller.job("jobs.show", {"job": job})
        tag = etag(view)
        same = tag in known or "*" in known
        left_s = end_s - asyncio.get_running_loop().time()
        if view.status in ENDED or left_s <= 0 or caller.front.hub.closed or (known and not same):
            break
        seen = await wait_for_change(caller.front.hub, job, seen=seen, within_s=min(left_s, _LOOK_S))
    headers = {"ETag": f"W/{tag}"}
    return Response(status_code=304, headers=headers) if same else answer(view, headers=headers)


def etag(view: JobView) -> str:
    """Return the tag of a job's state. The guess of the time that is left does not count: it changes with each look."""
    return f'"{sha256(msgspec.json.encode(replace(view, eta_s=None))).hexdigest()[:32]}"'


@router.post("/{job}/cancel", **describe(JobView, status=202, says="It is cancelled, or about to be.", also=_STATE, headers=_TAKEN))
async def cancel(caller: FromCaller, job: JobName) -> Response:
    """Cancel a job. Its `cancel` says later how much memory that gave back, measured."""
    return await _act(caller, "cancel", job)


@router.post("/{job}/pause", **describe(JobView, status=202, says="It leaves the device after its next checkpoint.", also=_STATE, headers=_TAKEN))
async def pause(caller: FromCaller, job: JobName) -> Response:
    """Pause a running job: it frees the device, and goes on from its checkpoint when it is resumed."""
    return await _act(caller, "pause", job)


@router.post("/{job}/resume", **describe(JobView, status=202, says="It is in the queue again.", also=(*_STATE, 429), headers=_TAKEN))
async def resume(caller: FromCaller, job: JobName) -> Response:
    """Resume a paused job."""
    return await _act(caller, "resume", job)


@router.post("/{job}/start", **describe(JobView, status=202, says="It is in the queue.", also=(*_STATE, 429), headers=_TAKEN))
async def start(caller: FromCaller, job: JobName) -> Response:
    """Start a job that was submitted with hold."""
    return await _act(caller, "start", job)


@router.post("/{job}/retry", **describe(JobView, status=202, says="A new job, with `retry_of`.", also=(*_STATE, 429, 507), headers=_TAKEN))
async def retry(caller: FromCaller, job: JobName, key: IdempotencyKey = "") -> Response:
    """Make a new job of one that ended."""
    return await _act(caller, "retry", job, **({"idempotency_key": key} if key else {}))


async def _act(caller: Caller, action: str, job: str, **more: str) -> Response:
    return accepted(await caller.job(f"jobs.{action}", {"job": job, **more}))


@router.get("/{job}/why", **describe(WhyView, also=(404, 410, 422)))
async def why(caller: FromCaller, job: JobName) -> Response:
    """Say what a job waits for, in numbers and in sentences, or why it has no result."""
    found: Any = await caller.view("jobs.why", WhyView, {"job": job})
    return answer(found)
