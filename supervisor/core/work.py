"""Jobs as they go through a worker: begun, moving, ended, cancelled."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import admission, brake, gpu_faults, handover, ladder, leaks, peaks
from supervisor.core.actions import AnyAction, MeasureRelease, Publish, Reply, SendCancel, SendResync, SendStored
from supervisor.core.endings import said, said_back
from supervisor.core.events import (
    BeatHeard,
    CancelRequested,
    JobAccepted,
    JobEnded,
    JobFinished,
    JobProgress,
    LevelMeasured,
    ReleaseMeasured,
)
from supervisor.core.health import CANCEL_GRACE_S
from supervisor.core.jobs import RELEASING, Step, advance, after_own_end, failed, returned
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.line import came_back
from supervisor.core.model import Cause, Failure, Job, JobId, JobStatus, Reason, Receipt, Source, Worker, WorkerState
from supervisor.core.turn import Turn
from supervisor.units import format_size

_TEN_PERCENT: Final = 10
_OWN_ENDS: Final = (Reason.BAD_INPUT, Reason.USER_ERROR, Reason.GPU_OOM, Reason.GPU_ERROR, Reason.MEMORY_EMERGENCY, Reason.WORKER_CRASH)
_REASONS: Final = {reason.value: reason for reason in _OWN_ENDS}
_NEEDS_MEMORY: Final = "needs_memory"


def accepted(turn: Turn, worker: Worker, event: JobAccepted) -> None:
    """The work begins."""
    job = _current(turn, worker, event.job, event.attempt)
    stored = SendStored(worker=worker.name, generation=worker.generation, job=event.job, attempt=event.attempt, what="accepted")
    if job is None or job.begun_at_s is not None or job.status is JobStatus.CANCELLING:
        turn.act(stored)
        return
    if job.status is JobStatus.PREPARING:
        job = replace(advance(job, Step.BEGIN, turn.wall_s), reason=Reason.NONE, message="")
    if event.memory_bytes:
        job = replace(job, memory_bytes=event.memory_bytes, memory_from=Source.COMPUTED)
    job = replace(job, phase="", begun_at_s=turn.now_s, progress_at_s=turn.now_s, started_wall=job.started_wall or turn.wall_s)
    turn.save_job(job, stored, said(turn, job, "job_started"))
    turn.wake_in(turn.spec(worker).watchdog.stall_after_s)


def beat(turn: Turn, worker: Worker, event: BeatHeard) -> None:
    """The process lives; whether its jobs move is another matter."""
    if worker.process is None:
        return
    process = replace(worker.process, beat_at_s=turn.now_s, device_bytes=event.device_bytes)
    if process.adopted and process.hello_at_s is None:  # it is connected again; only now can it be asked
        turn.act(SendResync(worker=worker.name, generation=worker.generation))
    if event.idle is not None:
        process = leaks.heard(turn, worker, process, event.idle)
    for progress in event.jobs:
        job = _current(turn, worker, progress.job, progress.attempt)
        if job is not None and job.begun_at_s is not None:
            moved = (progress.phase, progress.done) != (job.phase, job.done)
            if moved:
                process = replace(process, moved=True, fault="", fault_at_s=None)
            _progress(turn, worker, job, progress, moved=moved)
    worker = turn.put_worker(replace(worker, process=process))
    if event.device_bytes:
        peaks.heard(turn, worker, event.device_bytes)


def _progress(turn: Turn, worker: Worker, job: Job, progress: JobProgress, *, moved: bool) -> None:
    was = job
    new_phase = moved and progress.phase not in job.phases
    same_pace = job.paced_from is not None and progress.total == job.total  # another total measures by another scale
    job = replace(
        job,
        phases=(*job.phases, progress.phase) if new_phase else job.phases,
        phase=progress.phase if job.status is not JobStatus.CANCELLING else job.phase,
        reached=job.progress if job.paced_from is not None else 0.0,
        paced_from=job.paced_from if same_pace else (turn.now_s, progress.done) if moved else None,
        done=progress.done,
        total=progress.total,
        metrics=progress.metrics,
        critical=progress.critical,
        resumable=progress.resumable,
        extend_until_s=turn.now_s + progress.extend_s if progress.extend_s else job.extend_until_s,
        progress_at_s=turn.now_s if moved else job.progress_at_s,
    )
    turn.put_job(job)
    if moved:
        turn.act(Publish(job=job))
    if new_phase or (moved and job.progress // _TEN_PERCENT > was.progress // _TEN_PERCENT):
        fields = {"phase": job.phase, "progress": round(job.progress, 1), "done": job.done, "total": job.total, **job.metrics}
        turn.announce("job_progress", job=job.id, worker=worker.name, fields=fields)


def finished(turn: Turn, worker: Worker, event: JobFinished) -> None:
    """The work has its result. A cancel that came too late does not undo it."""
    job = _current(turn, worker, event.job, event.attempt)
    stored = SendStored(worker=worker.name, generation=worker.generation, job=event.job, attempt=event.attempt, what="result")
    if job is None or job.phase == RELEASING:
        turn.act(stored)
        return
    take_from_worker(turn, job)
    peaks.ended_well(turn, worker, job)
    job = replace(advance(job, Step.FINISH, turn.wall_s), result=event.value, reason=Reason.NONE, message="", phase="", done=job.total or job.done)
    last_s, whole_s = turn.now_s - (job.begun_at_s or turn.now_s), turn.wall_s - (job.started_wall or turn.wall_s)
    took = {"took_s": last_s} if job.attempt == 1 else {"took_s": max(last_s, whole_s), "attempt": job.attempt, "last_attempt_s": last_s}
    turn.save_job(job, stored, turn.announcement("job_completed", job=job.id, worker=worker.name, fields={"kind": job.kind, **took, **job.metrics}))


def ended(turn: Turn, worker: Worker, event: JobEnded) -> None:
    """The work ended without a result."""
    job = _current(turn, worker, event.job, event.attempt)
    stored = SendStored(worker=worker.name, generation=worker.generation, job=event.job, attempt=event.attempt, what="failed")
    leaving = event.reason in {"shutdown", "cancelled", "paused"}
    if job is None or job.phase == RELEASING or (leaving and worker.ends_by_fault_of(job.id)):  # the last: settled when its tree is gone
        turn.act(stored)
    elif job.status is JobStatus.CANCELLING:
        release(turn, worker, job, stored)
    elif leaving:  # the work stopped because its worker leaves: nobody asked for the job to end
        take_from_worker(turn, job)
        why = f"its worker left: {worker.stop.reason if worker.stop else event.error}" if event.reason != "paused" else "at a checkpoint, as asked"
        job = returned(job, Reason.WAITING_FOR_WORKER, why, turn.now_s, turn.wall_s)
        job = came_back(job, turn.fleet.lease_of(worker.name), turn.now_s)
        turn.save_job(job, stored, said_back(turn, job, "job_returned", worker.name))
        if worker.stop is None and event.reason == "shutdown":  # let it go before it is given another job
            ladder.order_leave(turn, turn.fleet.workers[worker.name], Cause.OPERATOR, "it was told to leave by somebody else")
    elif event.reason == _NEEDS_MEMORY and event.memory_bytes and job.memory_from in {Source.NONE, Source.OBSERVED}:
        take_from_worker(turn, job)
        job = _weighed(turn, job, event.memory_bytes)
        turn.save_job(job, stored, said_back(turn, job, "job_returned", worker.name))
    else:
        take_from_worker(turn, job)
        reason = _REASONS.get(event.reason, Reason.USER_ERROR)
        failure = Failure(reason=reason, message=event.error or event.reason, phase=job.phase, stack=event.stack)
        if reason is Reason.MEMORY_EMERGENCY:
            brake.job_ended(turn, worker.name, job.id)
        if reason in gpu_faults.ENDS_BY:
            failure = gpu_faults.take(turn, worker, job, failure)
        job = after_own_end(replace(job, flight=event.flight), failure, turn.limits.jobs, turn.now_s, turn.wall_s)
        turn.save_job(job, stored, said_back(turn, job, "job_retried", worker.name))


def _weighed(turn: Turn, job: Job, used_bytes: int) -> Job:
    """Return a job that its worker did not begin, since it needs so much: in the queue until there is as much, or failed where there never is."""
    wanted = admission.Estimate(used_bytes, Source.COMPUTED)
    job = replace(job, memory_bytes=wanted.used_bytes, memory_from=wanted.source)
    if problem := admission.never(turn.limits, turn.fleet.memory_bytes, wanted):
        return failed(job, Failure(reason=Reason.BAD_INPUT, message=problem), turn.wall_s)
    return returned(job, Reason.WAITING_FOR_WORKER, f"its worker reckons that it needs {wanted}", turn.now_s, turn.wall_s)


def release(turn: Turn, worker: Worker, job: Job, *then: AnyAction) -> None:
    """A cancelled job's work has ended; it is cancelled once the memory was seen to be back."""
    if turn.spec(worker).gpu_bytes and job.level_bytes is not None:
        turn.save_job(replace(job, phase=RELEASING), *then)
        at_most = job.level_bytes + turn.limits.gpu.margin_bytes
        turn.act(MeasureRelease(worker=worker.name, generation=worker.generation, job=job.id, at_most_bytes=at_most))
    else:
        _cancelled(turn, worker, job, *then, freed_bytes=0, message="")


def released(turn: Turn, worker: Worker, event: ReleaseMeasured) -> None:
    """The memory after a cancel was read: at the level before the job, or not."""
    job = turn.fleet.jobs.get(event.job)
    if job is None or job.status is not JobStatus.CANCELLING or job.worker != worker.name:
        return
    freed = max(0, (job.peak_bytes or 0) - event.used_bytes) if event.used_bytes is not None else 0
    now = f"{format_size(event.used_bytes)} still held" if event.used_bytes is not None else "what is still held cannot be read"
    held = f"{now}, {format_size(job.level_bytes or 0)} before the job"
    message = "" if event.proved else f"{held}: its process is ended to give it back"
    _cancelled(turn, worker, job, freed_bytes=freed, message=message)
    if not event.proved:
        ladder.order_leave(turn, turn.fleet.workers[worker.name], Cause.CANCEL, message)


def _cancelled(turn: Turn, worker: Worker, job: Job, *then: AnyAction, freed_bytes: int, message: str) -> None:
    take_from_worker(turn, job)
    receipt = Receipt(freed_bytes=freed_bytes, took_s=turn.now_s - (job.cancel_at_s or turn.now_s))
    job = replace(advance(job, Step.CANCELLED, turn.wall_s), receipt=receipt, message=message, phase="")
    fields = {"kind": job.kind, "freed_bytes": freed_bytes, "took_s": receipt.took_s}
    turn.save_job(job, *then, turn.announcement("job_cancelled", job=job.id, worker=worker.name, reason=message, fields=fields))


def level_measured(turn: Turn, event: LevelMeasured) -> None:
    """Keep what the worker held before the work, or as the cancel came."""
    job = turn.fleet.jobs.get(event.job)
    if job is not None:
        turn.put_job(replace(job, level_bytes=event.used_bytes) if event.moment == "before" else replace(job, peak_bytes=event.used_bytes))


def cancel(turn: Turn, event: CancelRequested) -> None:
    """End a job: at once while no work has begun, else when its work has stopped and its memory is back."""
    job = turn.fleet.jobs.get(event.job)
    if job is None:
        turn.act(Reply(request=event.request, error="unknown", message=f"no live job {event.job}"))
        return
    reply = Reply(request=event.request, job=job.id)
    if job.status is JobStatus.CANCELLING:
        turn.act(reply)
    elif job.sent_at_s is not None:
        job = replace(advance(job, Step.CANCEL, turn.wall_s), cancel_at_s=turn.now_s, message="asked to stop")
        worker = next(worker for worker in turn.fleet.workers.values() if job.id in worker.jobs)
        turn.save_job(job, reply, SendCancel(worker=worker.name, generation=worker.generation, job=job.id, attempt=job.attempt))
        turn.wake_in(CANCEL_GRACE_S)
    else:
        take_from_worker(turn, job)
        nothing = Receipt(freed_bytes=0, took_s=0.0)
        job = replace(
            advance(job, Step.CANCELLED, turn.wall_s),
            receipt=nothing,
            reason=Reason.NONE,
            message="before its work began" if job.started_wall is None else "while it did not run",
            phase="",
        )
        turn.save_job(job, reply, said(turn, job, "job_cancelled", job.message))


def hand_back(turn: Turn, job: Job, why: str) -> None:
    """Put a job whose work has not begun back into the queue."""
    take_from_worker(turn, job)
    turn.save_job(returned(job, Reason.WAITING_FOR_WORKER, why, turn.now_s, turn.wall_s))


def take_from_worker(turn: Turn, job: Job) -> None:
    """The worker has one job less; a hand-over that was for it alone is given up."""
    worker = turn.fleet.workers.get(job.worker) if job.worker else None
    if worker is None or job.id not in worker.jobs:
        return
    worker = replace(worker, jobs=tuple(name for name in worker.jobs if name != job.id))
    if not worker.jobs and worker.state is WorkerState.BUSY and may(worker, Signal.IDLE):
        worker = move(worker, Signal.IDLE, turn.now_s)
    elif not worker.jobs and worker.state is WorkerState.DRAINING:
        worker = replace(worker, since_s=turn.now_s)  # its grace runs from here
        turn.wake_in(turn.spec(worker).watchdog.stop_grace_s)
    turn.put_worker(worker)
    if not worker.jobs and not turn.spec(worker).resident:
        handover.withdraw(turn, worker.name)


def _current(turn: Turn, worker: Worker, job: JobId, attempt: int) -> Job | None:
    """Return the job if this worker works on this attempt of it; a late report of another is dropped and counted."""
    found = turn.fleet.jobs.get(job)
    if found is not None and found.attempt == attempt and found.worker == worker.name:
        return found
    turn.fleet = replace(turn.fleet, dropped=turn.fleet.dropped + 1)
    return None
