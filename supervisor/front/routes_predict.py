"""One image, points or boxes, masks: a job that is waited for, and a clear no while SAM is not there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from supervisor.control import Refused, Unreachable
from supervisor.front.bodies import answer, body_of, decoded, media_type
from supervisor.front.device import evidence, in_the_way, model_of
from supervisor.front.follow import ENDED, wait_for_change
from supervisor.front.openapi import describe, schema_of
from supervisor.front.parts import Caller, FromCaller, IdempotencyKey
from supervisor.front.problems import Refusal
from supervisor.front.room import check_upload
from supervisor.front.routes_sessions import FILE_PART
from supervisor.front.shapes_in import PredictBody
from supervisor.front.shapes_out import PredictView
from supervisor.front.uploads import FILE, receive
from supervisor.shapes import JobView

router = APIRouter(tags=["sessions"])

KIND: Final = "sam.segment"
WAIT_S: Final = 60.0
"""An inference takes seconds; beyond this the caller is better told than kept."""
_LOOK_S: Final = 1.0
AWAY: Final = frozenset({"down", "draining", "stopping", "exited", "backoff", "quarantined", "unkillable"})
_AGAIN_MAX: Final = 50
"""How many cancelled jobs one key may have before it is of no more use."""
_KEYS: Final[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()
"""The keys under which somebody predicts now."""
_SOON_S: Final = 5
_LATE_S: Final = 600

_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": schema_of(PredictBody)},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {FILE: FILE_PART, "prompt": {"type": "string", "description": "PredictBody"}}, "required": [FILE]}
        },
    },
}


@router.post("/predict", **describe(PredictView, request=_BODY, also=(404, 409, 410, 429, 507)))
async def predict(request: Request, caller: FromCaller, key: IdempotencyKey = "") -> Response:
    """Return the masks of one image. While another worker has the device: 503 with who has it, since when, until when; Retry-After."""
    async with _asked(request, caller, key) as body:
        if not (body.points or body.boxes):
            raise Refusal(422, "invalid", "nothing is shown on the image: give points, or boxes")
        model = await model_of(caller, KIND)
        await _must_be_there(caller, model)
        params = {name: value for name, value in msgspec.to_builtins(body).items() if name != "priority"}
        job = await _submitted(caller, params, body.priority, key)
        try:
            ended = await _outcome(caller, job, model)
        except BaseException:
            with suppress(Refused, Unreachable):  # nobody is there any more to read its masks
                await asyncio.shield(caller.ask("jobs.cancel", {"job": job.id}))
            raise
    if ended.status == "completed" and isinstance(ended.result, dict):
        return answer(msgspec.convert({**ended.result, "job_id": ended.id}, PredictView))
    raise _failed(ended)


async def _submitted(caller: Caller, params: dict[str, Any], priority: int | None, key: str) -> JobView:
    """Return the job of this key. One that was cancelled, because nobody could wait for its masks any more, makes room for another."""
    number = 0
    while True:
        one = f"{key}#{number}" if number else key
        job = await caller.submit(KIND, params, priority=priority, max_attempts=1, idempotency_key=one or None)
        number += 1
        if not key or job.status != "cancelled" or number == _AGAIN_MAX:
            return job


@asynccontextmanager
async def _asked(request: Request, caller: Caller, key: str) -> AsyncIterator[PredictBody]:
    """Yield what is asked; an uploaded image is there until the end of it. Whoever sends a key again meanwhile waits until the first is answered."""
    if media_type(request) != "multipart/form-data":
        body: PredictBody = await body_of(PredictBody)(request)
        image = await caller.front.roots.file(body.image, what="image")
        async with _alone(key):
            yield msgspec.structs.replace(body, image=str(image))
        return
    await check_upload(request, caller)
    sessions = caller.front.sessions
    name = sessions.new_id()
    try:
        upload = await receive(request, sessions.upload_folder(name), stem="image", limit=caller.front.options.max_upload_bytes)
        body = decoded(upload.fields.get("prompt", "{}"), PredictBody, where='the part "prompt"')
        async with _alone(key), sessions.kept_as(name, f"{key} {upload.digest}" if key else "") as folder:
            yield msgspec.structs.replace(body, image=str(folder / upload.path.name))
    finally:
        await sessions.discard(name)


@asynccontextmanager
async def _alone(key: str) -> AsyncIterator[None]:
    """Let nobody else predict under this key meanwhile."""
    if not key:
        yield
        return
    async with _KEYS.setdefault(key, asyncio.Lock()):
        yield


async def _must_be_there(caller: Caller, model: str) -> None:
    """Refuse while no worker can take it soon. Raises Refusal."""
    status = await caller.status()
    workers = [worker for worker in status.workers if model in {worker.model, worker.name}]
    if not workers:
        raise Refusal(422, "invalid", f"no worker serves {KIND}: add one to supervisor.toml")
    if all(worker.state in AWAY for worker in workers):
        found = await in_the_way(caller, status, model)
        if found is not None:
            raise _away(str(found), found.until_s, evidence(found))
        if all(worker.wanted == "down" or worker.state in {"quarantined", "unkillable"} for worker in workers):
            raise _away(f"{workers[0].name} is {workers[0].state}: {workers[0].next_action or workers[0].last_reason}", None, {})


def _away(why: str, until_s: float | None, extra: dict[str, Any]) -> Refusal:
    soon = _SOON_S if until_s is None else round(min(max(until_s, 1), _LATE_S))
    return Refusal(503, "waiting_for_gpu", f"SAM is away: {why}", evidence=why, retry_after_s=soon, extra=extra)


async def _outcome(caller: Caller, job: JobView, model: str) -> JobView:
    """Return the job once it ended. Raises Refusal where it would have to wait for the device, or takes too long."""
    hub = caller.front.hub
    end_s = asyncio.get_running_loop().time() + WAIT_S
    seen = hub.last
    while True:
        view = await caller.job("jobs.show", {"job": job.id})
        if view.status in ENDED:
            return view
        if view.status == "queued" and view.reason == "waiting_for_gpu":
            status = await caller.status()
            found = await in_the_way(caller, status, model)
            if found is not None and found.job is not None:  # an idle holder makes room in a moment; one at work does not
                raise _away(str(found), found.until_s, evidence(found))
        left_s = end_s - asyncio.get_running_loop().time()
        if left_s <= 0 or hub.closed:
            raise Refusal(
                503, "busy", f"no masks within {WAIT_S:g} s: the job was {view.status} ({view.message or view.phase}), it is cancelled", retry_after_s=5
            )
        seen = await wait_for_change(hub, job.id, seen=seen, within_s=min(left_s, _LOOK_S))


def _failed(job: JobView) -> Refusal:
    error = job.error
    reason = error.reason if error else job.status
    detail = error.message if error else f"the job {job.id} is {job.status}"
    return Refusal(422 if reason in {"bad_input", "user_error"} else 503, reason, detail, evidence=error.evidence if error else "", extra={"job_id": job.id})
