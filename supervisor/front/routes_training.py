"""Trainings: submit, start, push from a review. The answer waits for the hand-over: the device is the training's, or it is said who has it."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header
from fastapi import Path as InPath
from starlette.responses import Response

from supervisor.front.bodies import answer, body_of
from supervisor.front.device import evidence, hand_over_of, in_the_way, model_of
from supervisor.front.follow import ENDED, wait_for_change
from supervisor.front.openapi import describe
from supervisor.front.parts import Caller, FromCaller, IdempotencyKey, JobName, accepted
from supervisor.front.problems import Refusal
from supervisor.front.shapes_in import JobRef, PushBody, TrainingBody
from supervisor.front.shapes_out import JobStatusView, StartedView, started, status_view
from supervisor.shapes import JobView, StatusView

router = APIRouter(prefix="/api", tags=["trainings"])

KIND: Final = "yolo.train"
_LOOK_S: Final = 1.0
_SLACK_S: Final = 5.0
"""Beyond vacate_timeout: the supervisor's own verdict comes at its end, and is worth waiting for."""
_UNDECIDED_S: Final = 5.0
"""How long a job may stand in the queue without a reason and without a hand-over before it is said to wait behind others."""
_TAKEN: Final = ("Location", "Retry-After")
_ALSO: Final = (404, 409, 410, 429, 507)
_SAYS: Final = "The device is the training's, or the job waits behind others."

Prefer = Annotated[str, Header(max_length=200, description="respond-async: do not wait for the hand-over.")]


@router.post("/training/jobs", **describe(JobView, status=202, says=_SAYS, takes=TrainingBody, also=_ALSO, headers=_TAKEN))
async def create(caller: FromCaller, body: Annotated[TrainingBody, Depends(body_of(TrainingBody))], key: IdempotencyKey = "", prefer: Prefer = "") -> Response:
    """Train. 503 when the device was not proved free in time: the job failed `gpu_refused`, and the body names who holds it."""
    job = await _submitted(caller, body, key)
    return await _handed_over(caller, job, prefer)


@router.post("/training/jobs/{job}/start", **describe(JobView, status=202, says=_SAYS, also=(*_ALSO, 422), headers=_TAKEN))
async def start(caller: FromCaller, job: JobName, prefer: Prefer = "") -> Response:
    """Start a training that was submitted with hold."""
    return await _handed_over(caller, await caller.job("jobs.start", {"job": job}), prefer)


@router.post("/review/{session}/push", **describe(JobView, status=202, says=_SAYS, takes=PushBody, also=_ALSO, headers=_TAKEN))
async def push(
    caller: FromCaller,
    session: Annotated[str, InPath(max_length=100)],
    body: Annotated[PushBody, Depends(body_of(PushBody))],
    key: IdempotencyKey = "",
    prefer: Prefer = "",
) -> Response:
    """Train on the masks of a session: they become a YOLO data set first."""
    found = await caller.front.sessions.find(session)
    masks = Path(found.jobs[-1][1]) / "masks" if found.jobs else None
    if masks is None or not await asyncio.to_thread(masks.is_dir):
        raise Refusal(409, "conflict", f"session {found.id} has no masks: propagate it first, with POST /propagate")
    params = {**body.params, "masks": {"video": found.video, "masks_dir": str(masks), "classes": body.classes}}
    job = await caller.submit(KIND, params, priority=body.priority, idempotency_key=key or None)
    return await _handed_over(caller, job, prefer)


@router.post("/training/execute", **describe(StartedView, status=202, says="The job is on disk.", takes=TrainingBody, also=_ALSO, headers=_TAKEN))
async def execute(caller: FromCaller, body: Annotated[TrainingBody, Depends(body_of(TrainingBody))], key: IdempotencyKey = "") -> Response:
    """Train, and do not wait for the hand-over."""
    job = await _submitted(caller, body, key)
    where = f"/api/training/status/{job.id}"
    return answer(started(job, f"training is queued: see {where}"), status=202, headers={"Location": where, "Retry-After": "1"})


@router.post("/training/cancel", **describe(JobStatusView, status=202, says="It is cancelled, or about to be.", takes=JobRef, also=(404, 409, 410)))
async def cancel(caller: FromCaller, body: Annotated[JobRef, Depends(body_of(JobRef))]) -> Response:
    """Cancel a training; how much memory that gave back stands in the job's `cancel` at /v1/jobs/{id}."""
    await _must_be_whole(caller, body.job_id)
    return answer(status_view(await caller.job("jobs.cancel", {"job": body.job_id})), status=202)


@router.get("/training/status/{job}", **describe(JobStatusView, also=(404, 410, 422)))
async def status(caller: FromCaller, job: JobName) -> Response:
    """Return how far a training is."""
    return answer(status_view(await caller.job("jobs.show", {"job": job})))


async def _must_be_whole(caller: Caller, name: str) -> None:
    """Refuse the beginning of an id: a program must not cancel what it did not name. Raises Refusal (404), Refused."""
    if (await caller.job("jobs.show", {"job": name})).id != name:
        raise Refusal(404, "unknown", f"no job {name[:60]!r} is known")


async def _submitted(caller: Caller, body: TrainingBody, key: str) -> JobView:
    run_at = body.run_at.isoformat() if body.run_at else None
    more = {"priority": body.priority, "run_at": run_at, "max_attempts": body.max_attempts, "hold": body.hold, "idempotency_key": key or None}
    return await caller.submit(KIND, body.params, **more)


async def _handed_over(caller: Caller, job: JobView, prefer: str) -> Response:
    """Answer once it is known what became of the hand-over, or at once where the caller prefers that."""
    if "respond-async" in prefer.lower():
        return accepted(job, headers={"Preference-Applied": "respond-async"})
    hub = caller.front.hub
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    seen = hub.last
    while True:
        view = await caller.job("jobs.show", {"job": job.id})
        status = await caller.status()
        left_s = began_s + status.supervisor.vacate_timeout_s + _SLACK_S - loop.time()
        undecided = view.status == "queued" and hand_over_of(status.devices, job.id) == "none"
        if settled(view, status) or left_s <= 0 or hub.closed or (undecided and loop.time() - began_s > _UNDECIDED_S):
            break
        seen = await wait_for_change(hub, job.id, seen=seen, within_s=min(left_s, _LOOK_S))
    if view.status == "failed" and view.error is not None and view.error.reason == "gpu_refused":
        raise await _refused(caller, view, status)
    return accepted(view)


def settled(job: JobView, status: StatusView) -> bool:
    """Return whether the outcome of the hand-over is known: it is proved or refused, or the job waits for something else than a hand-over of its own."""
    if job.status in ENDED or job.status not in {"queued", "preparing"}:
        return True
    hand_over = hand_over_of(status.devices, job.id)
    if hand_over == "proved":
        return True
    # A fresh job has no reason yet: the supervisor is about to say whether it can begin, and what is in the way.
    return job.status == "queued" and hand_over == "none" and bool(job.reason)


async def _refused(caller: Caller, job: JobView, status: StatusView) -> Refusal:
    found = await in_the_way(caller, status, await model_of(caller, KIND))
    error: Any = job.error
    return Refusal(503, "gpu_refused", error.message, evidence=error.evidence, retry_after_s=30, extra={"job": job, **evidence(found)})
