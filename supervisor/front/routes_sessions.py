"""Sessions: a video, what is shown on it, its propagation, the masks of a frame."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi import Path as InPath
from starlette.responses import Response

from supervisor.control import Refused
from supervisor.front.bodies import answer, body_of, media_type
from supervisor.front.follow import ENDED
from supervisor.front.openapi import describe, schema_of
from supervisor.front.parts import Caller, FromCaller, IdempotencyKey, JobName
from supervisor.front.problems import Refusal
from supervisor.front.room import check_upload
from supervisor.front.sessions import Session, with_job, with_prompts
from supervisor.front.shapes_in import FrameMasksBody, PromptBody, PromptsBody, PropagateBody, SessionBody
from supervisor.front.shapes_out import PENDING_OF, JobStatusView, RleView, SessionView, StartedView, started, status_view
from supervisor.front.uploads import FILE, receive
from supervisor.shapes import JobsPage, JobView

router = APIRouter(tags=["sessions"])

SessionName = Annotated[str, InPath(max_length=100)]

_PAGE: Final = 100
FILE_PART: Final = {"type": "string", "contentMediaType": "application/octet-stream"}
_UPLOAD: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": schema_of(SessionBody)},
        "multipart/form-data": {"schema": {"type": "object", "properties": {FILE: FILE_PART}, "required": [FILE]}},
    },
}


@router.post("/sessions", **describe(SessionView, status=201, says="The session, and its video, are on disk.", also=(507,), request=_UPLOAD))
async def create(request: Request, caller: FromCaller, key: IdempotencyKey = "") -> Response:
    """Make a session: JSON with the path of a video, or a multipart upload with the part "file"."""
    sessions = caller.front.sessions
    name = sessions.new_id()
    if media_type(request) != "multipart/form-data":
        body: SessionBody = await body_of(SessionBody)(request)
        video = await caller.front.roots.file(body.path, what="video")
        made = await sessions.create(name, video=video, title=video.name, uploaded=False, key=key, fingerprint=f"path {video}")
    else:
        await check_upload(request, caller)
        folder = sessions.upload_folder(name)
        upload = await receive(request, folder, stem="video", limit=caller.front.options.max_upload_bytes)
        try:
            fingerprint = f"upload {upload.digest}"
            made = await sessions.create(name, video=upload.path, title=upload.name, uploaded=True, key=key, fingerprint=fingerprint)
        except BaseException:
            await sessions.discard(name)
            raise
        if made.id != name:  # the same upload under the same key: the first one is kept
            await sessions.discard(name)
    return answer(made.view(), status=201, headers={"Location": f"/sessions/{made.id}"})


@router.get("/sessions/{session}", **describe(SessionView, also=(404, 422)))
async def show(caller: FromCaller, session: SessionName) -> Response:
    """Return a session."""
    return answer((await caller.front.sessions.find(session)).view())


@router.delete("/sessions/{session}", **describe(None, status=204, says="It is gone, with its upload.", also=(404, 409, 422)))
async def remove(caller: FromCaller, session: SessionName) -> Response:
    """Forget a session. Its jobs stay; one that has not ended, and is of this session or names a file of its upload, is in the way."""
    found = await caller.front.sessions.find(session)
    job = await _using(caller, found)
    if job is not None:
        say = f"the job {job.id} ({job.kind}) needs this session and is {job.status}: cancel it first, with POST /v1/jobs/{job.id}/cancel"
        raise Refusal(409, "conflict", say, extra={"job_id": job.id})
    await caller.front.sessions.remove(session)
    return Response(status_code=204)


async def _using(caller: Caller, session: Session) -> JobView | None:
    """Return a job that has not ended and needs the session."""
    ours = {job for job, _folder in session.jobs}
    upload = caller.front.sessions.upload_folder(session.id)
    cursor = ""
    while True:
        page: JobsPage = await caller.view("jobs.page", JobsPage, {"statuses": sorted(set(PENDING_OF) - ENDED), "cursor": cursor, "limit": _PAGE})
        for job in page.jobs:
            if job.status in ENDED:  # meanwhile
                continue
            if job.id in ours or await asyncio.to_thread(caller.front.roots.names_inside, job.params, upload):
                return job
        if not page.next:
            return None
        cursor = page.next


@router.post("/sessions/{session}/prompts", **describe(SessionView, takes=PromptsBody, also=(404, 507)))
async def prompts(caller: FromCaller, session: SessionName, body: Annotated[PromptsBody, Depends(body_of(PromptsBody))]) -> Response:
    """Show objects on frames."""
    for number, prompt in enumerate(body.prompts):
        _check(prompt, number)
    changed = await caller.front.sessions.change(session, lambda old: with_prompts(old, body.prompts, replace_all=body.replace))
    return answer(changed.view())


def _check(prompt: PromptBody, number: int) -> None:
    where = f"prompts[{number}]"
    if not prompt.points and prompt.box is None:
        raise Refusal(422, "invalid", f"{where} shows nothing: give points, or a box")
    if prompt.labels and len(prompt.labels) != len(prompt.points):
        raise Refusal(422, "invalid", f"{where}: {len(prompt.points)} points came with {len(prompt.labels)} labels: give one label for each point, or none")


@router.post("/propagate", **describe(StartedView, status=202, says="The job is on disk.", takes=PropagateBody, also=(404, 409, 410, 429, 507)))
async def propagate(caller: FromCaller, body: Annotated[PropagateBody, Depends(body_of(PropagateBody))], key: IdempotencyKey = "") -> Response:
    """Follow the session's objects through its video. It is answered at once; the job waits for the device."""
    session = await caller.front.sessions.find(body.session_id)
    if not session.prompts:
        raise Refusal(422, "invalid", f"session {session.id} has no prompts: show an object first, with POST /sessions/{session.id}/prompts")
    params = {
        "video": session.video,
        "prompts": msgspec.to_builtins(session.prompts),
        "first_frame": body.first_frame,
        "max_frames": body.max_frames,
    }
    job = await caller.submit("sam.propagate", params, priority=body.priority, idempotency_key=key or None)
    await caller.front.sessions.change(session.id, lambda old: with_job(old, job.id, job.dir))
    say = f"propagation is queued: see /job/{job.id}/status; masks of finished frames are at /frame-masks"
    return answer(started(job, say), status=202, headers={"Location": f"/job/{job.id}/status", "Retry-After": "1"})


@router.get("/job/{job}/status", **describe(JobStatusView, also=(404, 410, 422)))
async def job_status(caller: FromCaller, job: JobName) -> Response:
    """Return how far a job is. Ask as often as you like, from wherever you like: 404 unknown, 410 expired, 503 while the supervisor starts."""
    return answer(status_view(await caller.job("jobs.show", {"job": job})))


@router.post("/frame-masks", **describe(dict[str, RleView], takes=FrameMasksBody, also=(404, 410), says="Object id -> mask."))
async def frame_masks(caller: FromCaller, body: Annotated[FrameMasksBody, Depends(body_of(FrameMasksBody))]) -> Response:
    """Return the masks of one frame: while the job runs, after it failed, and while no supervisor is there."""
    session = await caller.front.sessions.find(body.session_id)
    if not session.jobs:
        raise Refusal(404, "unknown", f"session {session.id} was not propagated yet: start with POST /propagate")
    data = await asyncio.to_thread(_newest_masks, session, body.frame_idx)
    if data is None:
        raise await _no_masks(caller, session, body.frame_idx)
    objects: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])["objects"]
    return answer(msgspec.convert(objects, dict[str, RleView]))


def _newest_masks(session: Session, frame: int) -> bytes | None:
    """Return the masks of a frame as the newest propagation that has come to it left them."""
    for _job, folder in reversed(session.jobs):
        with suppress(FileNotFoundError, NotADirectoryError):
            return (Path(folder) / "masks" / f"{frame:06d}.json").read_bytes()
    return None


async def _no_masks(caller: Caller, session: Session, frame: int) -> Refusal:
    """Return why there are none: not yet, as long as one of the propagations runs; never; or no longer."""
    newest, *earlier = [job for job, _folder in reversed(session.jobs)]
    last = await caller.job("jobs.show", {"job": newest})  # a job that expired answers for itself: 410
    live = last if last.status not in ENDED else await _first_live(caller, earlier)
    if live is None:
        say = f"frame {frame} of session {session.id} has no masks: the propagation {newest} is {last.status}"
        return Refusal(404, "unknown", f"{say}{f' ({last.message})' if last.message else ''}")
    say = f"frame {frame} has no masks yet: the propagation {live.id} is {live.status}, {live.progress:g} % done"
    return Refusal(404, "not_yet", say, retry_after_s=1, extra={"job_id": live.id, "progress": live.progress})


async def _first_live(caller: Caller, jobs: list[str]) -> JobView | None:
    """Return the first of these jobs that has not ended."""
    for name in jobs:
        with suppress(Refused):  # it expired
            job = await caller.job("jobs.show", {"job": name})
            if job.status not in ENDED:
                return job
    return None
