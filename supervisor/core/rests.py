"""Jobs and queues that rest because somebody wants them to: paused and resumed, held and released."""

from msgspec.structs import replace

from supervisor.core.actions import AnyAction, Reply, SaveMark, SendPause, SendResume
from supervisor.core.endings import said
from supervisor.core.events import HoldChanged, PauseRequested, ResumeRequested, StartRequested
from supervisor.core.jobs import Step, advance, returned
from supervisor.core.model import Job, JobId, JobStatus, Reason
from supervisor.core.turn import Turn
from supervisor.core.work import take_from_worker

HELD = "held"
"""The mark by which a held queue is known again after a restart."""


def pause(turn: Turn, event: PauseRequested) -> None:
    """Make a job rest: at once while its work has not begun, else when it has left its worker at a checkpoint."""
    job = _live(turn, event.request, event.job)
    if job is None:
        return
    reply = Reply(request=event.request, job=job.id)
    if job.status in {JobStatus.PAUSED, JobStatus.PAUSING}:
        turn.act(reply)
    elif job.status is JobStatus.CANCELLING:
        _refuse(turn, event.request, job, "it is being cancelled")
    elif job.sent_at_s is None:
        take_from_worker(turn, job)
        if job.status is JobStatus.QUEUED:
            job = advance(job, Step.PAUSED, turn.wall_s)
        else:
            job = returned(advance(job, Step.PAUSE, turn.wall_s), Reason.NONE, "", turn.now_s, turn.wall_s)
        job = replace(job, reason=Reason.NONE, message="before its work began")
        turn.save_job(job, reply, said(turn, job, "job_paused", job.message))
    else:
        job = replace(advance(job, Step.PAUSE, turn.wall_s), message="pauses at its next checkpoint")
        turn.save_job(job, reply, _to_worker(turn, job, SendPause))


def resume(turn: Turn, event: ResumeRequested) -> None:
    """Make a paused job go on: from its checkpoint, or where it stands if its worker had not left it yet."""
    job = _live(turn, event.request, event.job)
    if job is None:
        return
    reply = Reply(request=event.request, job=job.id)
    if job.status is JobStatus.PAUSED:
        job = replace(advance(job, Step.RESUME, turn.wall_s), queued_at_s=turn.now_s, waited_s=0.0, ran_s=0.0, gave_way="", message="", retry_at_s=0.0)
        turn.save_job(job, reply, said(turn, job, "job_resumed"))
    elif job.status is JobStatus.PAUSING:
        job = replace(advance(job, Step.RESUME, turn.wall_s), message="")
        turn.save_job(job, reply, _to_worker(turn, job, SendResume), said(turn, job, "job_resumed", "before it was paused"))
    else:
        _refuse(turn, event.request, job, "only a paused job can be resumed")


def start(turn: Turn, event: StartRequested) -> None:
    """Put a job into the queue that was held since it was submitted; one that stands there already is left as it is."""
    job = _live(turn, event.request, event.job)
    if job is None:
        return
    reply = Reply(request=event.request, job=job.id)
    if job.held:
        job = replace(job, held=False, queued_at_s=turn.now_s, reason=Reason.NONE, message="")
        turn.save_job(job, reply, said(turn, job, "job_released"))
    elif job.status is JobStatus.QUEUED:
        turn.act(reply)
    else:
        hint = f"go on with it by: warden jobs resume {job.id}" if job.status in {JobStatus.PAUSED, JobStatus.PAUSING} else "it was started already"
        _refuse(turn, event.request, job, f"only a job that is held can be started; {hint}")


def hold(turn: Turn, event: HoldChanged) -> None:
    """Start no job from now on, or go on; what is at work, and programs outside Warden, are left alone. Remembered before it is answered."""
    changed = event.held is not turn.fleet.held
    turn.fleet = replace(turn.fleet, held=event.held)
    told = (turn.announcement("queue_held" if event.held else "queue_released"),) if changed else ()
    turn.act(SaveMark(name=HELD, value="yes" if event.held else "", request=event.request, then=(Reply(request=event.request), *told)))


def _live(turn: Turn, request: str, name: JobId) -> Job | None:
    job = turn.fleet.jobs.get(name)
    if job is None:
        turn.act(Reply(request=request, error="conflict", message=f"job {name} has ended: what has ended never changes; see: warden jobs show {name}"))
    return job


def _refuse(turn: Turn, request: str, job: Job, why: str) -> None:
    turn.act(Reply(request=request, error="conflict", message=f"job {job.id} is {job.status}: {why}"))


def _to_worker(turn: Turn, job: Job, order: type[SendPause] | type[SendResume]) -> AnyAction:
    worker = next(worker for worker in turn.fleet.workers.values() if job.id in worker.jobs)
    return order(worker=worker.name, generation=worker.generation, job=job.id, attempt=job.attempt)
