"""What becomes of a worker's jobs when its process ends: who is to blame, who goes back to the queue at no cost, and the death certificate."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.actions import Announce
from supervisor.core.health import job_sentence
from supervisor.core.jobs import REASON_OF_CAUSE, Step, advance, after_worker_end, failed, noun, returned
from supervisor.core.line import came_back
from supervisor.core.model import PLANNED, Cause, Evidence, Exit, Failure, FlightSample, Job, JobStatus, Reason, Receipt, Worker, WorkerName, WorkerState
from supervisor.core.turn import Turn
from supervisor.units import say_duration

_ASKED_BY: Final = frozenset({1, 2, 15})
"""SIGHUP, SIGINT, SIGTERM: somebody asked a process to leave that was leaving already."""

_TIMED: Final = frozenset({Cause.STALL, Cause.SILENT, Cause.START_TIMEOUT, Cause.GPU_ERROR})


def cause_of(worker: Worker) -> Cause:
    """Return why the process ended. A crash on the way out of a planned leave is a crash."""
    stop, exit_ = worker.stop, worker.exit or Exit("unknown")
    if exit_.killer:
        return Cause.MEMORY
    crashed = (exit_.kind == "signal" and exit_.number not in _ASKED_BY) or (exit_.kind == "code" and exit_.number != 0)
    if stop is not None and not (crashed and stop.cause in PLANNED and stop.term_at_s is None):
        return stop.cause
    if worker.process is not None and worker.process.adopted and exit_.kind == "unknown":  # its status went to its former parent
        return Cause.ADOPTED_GONE
    return Cause.SPAWN_FAILED if exit_.kind == "spawn_failed" else Cause.CRASH


def settle_jobs(turn: Turn, worker: Worker, log_tail: tuple[str, ...] = (), flight: tuple[FlightSample, ...] = ()) -> None:
    """Settle every job of a worker whose tree is gone. flight: its last minute, for the jobs that did not end in good order."""
    cause = cause_of(worker)
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is JobStatus.CANCELLING:
            _cancelled(turn, worker, job)
        elif _blameless(worker, job, cause):
            _returned(turn, worker, job)
        else:
            job = after_worker_end(replace(job, flight=flight), cause, _failure(worker, job, cause, log_tail), turn.limits.jobs, turn.now_s, turn.wall_s)
            turn.save_job(job, said_back(turn, job, "job_retried", worker.name))


def set_aside_jobs(turn: Turn, worker: Worker, reason: str) -> None:
    """Settle every job of a worker that cannot be killed: what it is to blame for has failed, for nobody knows what the process still does to it."""
    cause = cause_of(worker)
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is not JobStatus.CANCELLING and _blameless(worker, job, cause):
            _returned(turn, worker, job)
        else:
            turn.save_job(failed(job, _failure(worker, job, cause), turn.wall_s), said(turn, job, "job_failed", reason))


def _blameless(worker: Worker, job: Job, cause: Cause) -> bool:
    """Return whether the job has nothing to do with the end: it was planned, or another job's clock had expired."""
    return cause in PLANNED or (worker.stop is not None and worker.stop.cause not in PLANNED and not worker.ends_by_fault_of(job.id))


def _returned(turn: Turn, worker: Worker, job: Job) -> None:
    job = returned(job, Reason.WAITING_FOR_WORKER, f"its worker left: {worker.stop.reason if worker.stop else worker.exit}", turn.now_s, turn.wall_s)
    job = came_back(job, turn.fleet.lease_of(worker.name), turn.now_s)
    turn.save_job(job, said_back(turn, job, "job_returned", worker.name))


def _cancelled(turn: Turn, worker: Worker, job: Job) -> None:
    receipt = Receipt(freed_bytes=job.peak_bytes or worker.memory_bytes or 0, took_s=turn.now_s - (job.cancel_at_s or turn.now_s))
    overrun = worker.stop is not None and worker.stop.cause is Cause.CANCEL
    message = "its process was ended, for its work did not stop by itself" if overrun else f"its worker ended before its work had stopped: {worker.exit}"
    job = replace(advance(job, Step.CANCELLED, turn.wall_s), receipt=receipt, message=message)
    turn.save_job(job, said(turn, job, "job_cancelled", job.message))


def _failure(worker: Worker, job: Job, cause: Cause, log_tail: tuple[str, ...] = ()) -> Failure:
    """Return the death certificate of a job whose worker ended under it."""
    stop = worker.stop
    seen = (stop.evidence if stop else None) or Evidence()
    braked = (stop is not None and stop.brake) or (worker.exit is not None and worker.exit.killer == "guard")
    if stop is not None and stop.limit_s is not None and cause in _TIMED:
        message, evidence = job_sentence(cause, job, say_duration(stop.limit_s)), stop.reason
    elif braked:
        evidence = stop.reason if stop is not None and stop.brake else f"below memory.hard_floor the guard ended {worker.name} by itself"
        message = f"EMERGENCY BRAKE: {evidence}"
    elif stop is not None and stop.cause is cause is Cause.MEMORY:
        message, evidence = f"{noun(job.kind)} ended - its worker used too much memory: {stop.reason}", stop.reason
    elif worker.state is WorkerState.UNKILLABLE:
        message, evidence = f"{worker.name} had to end under it and cannot be killed", stop.reason if stop else ""
    else:
        message = f"{worker.name} ended under it: {worker.exit or 'no exit seen'}{f'; its last word: {worker.last_error}' if worker.last_error else ''}"
        evidence = stop.reason if stop and stop.cause is cause else str(worker.exit or "")
    if seen.process:
        evidence = f"{evidence}; {seen.process}"
    killer = worker.exit.killer if worker.exit is not None else ""
    reason = Reason.OOM_KERNEL if killer == "kernel" else REASON_OF_CAUSE.get(cause, Reason.WORKER_CRASH)
    reason = Reason.MEMORY_EMERGENCY if braked else reason
    printed = seen.log_tail if seen.process else log_tail  # after a look the log ends in the stacks that were asked for
    return Failure(reason=reason, message=message, evidence=evidence, phase=job.phase, stack=seen.stack, log_tail=printed)


def said_back(turn: Turn, job: Job, event: str, worker: WorkerName | None = None) -> Announce:
    """Return what is said of a job that is no longer at work: event, where it is in the queue again; else that it failed, or is paused, as it was to be."""
    ends = {JobStatus.FAILED: "job_failed", JobStatus.PAUSED: "job_paused"}
    return replace(said(turn, job, ends.get(job.status, event), job.message), worker=worker or job.worker)


def said(turn: Turn, job: Job, event: str, reason: str = "") -> Announce:
    """Return what is said of a job, to be said once it is on disk."""
    return turn.announcement(event, job=job.id, worker=job.worker, reason=reason, fields={"kind": job.kind, "attempt": job.attempt})
