"""The job's states, its place in the queue, and what becomes of it when its worker ends."""

import math
from collections.abc import Iterable
from enum import StrEnum
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from supervisor.core.lifecycle import IllegalTransition
from supervisor.core.limits import JobLimits
from supervisor.core.model import TERMINAL, Cause, Failure, Job, JobStatus, Reason
from supervisor.core.spread import spread


class Step(StrEnum):
    """What can happen to a job."""

    ASSIGN = "assign"
    BEGIN = "begin"
    RETURN = "return"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    CANCELLED = "cancelled"
    PAUSE = "pause"
    PAUSED = "paused"
    RESUME = "resume"


_J, _P = JobStatus, Step

JOB: Final[dict[JobStatus, dict[Step, JobStatus]]] = {
    _J.QUEUED: {_P.ASSIGN: _J.PREPARING, _P.CANCELLED: _J.CANCELLED, _P.FAIL: _J.FAILED, _P.PAUSED: _J.PAUSED},
    _J.PREPARING: {
        _P.BEGIN: _J.RUNNING,
        _P.RETURN: _J.QUEUED,
        _P.FINISH: _J.COMPLETED,
        _P.FAIL: _J.FAILED,
        _P.CANCEL: _J.CANCELLING,
        _P.CANCELLED: _J.CANCELLED,
        _P.PAUSE: _J.PAUSING,
        _P.PAUSED: _J.PAUSED,
    },
    _J.RUNNING: {_P.FINISH: _J.COMPLETED, _P.FAIL: _J.FAILED, _P.RETURN: _J.QUEUED, _P.CANCEL: _J.CANCELLING, _P.PAUSE: _J.PAUSING},
    _J.PAUSING: {_P.PAUSED: _J.PAUSED, _P.FINISH: _J.COMPLETED, _P.FAIL: _J.FAILED, _P.CANCEL: _J.CANCELLING, _P.RESUME: _J.RUNNING},
    _J.PAUSED: {_P.RESUME: _J.QUEUED, _P.CANCELLED: _J.CANCELLED},
    _J.CANCELLING: {_P.CANCELLED: _J.CANCELLED, _P.FINISH: _J.COMPLETED, _P.FAIL: _J.FAILED},
    _J.COMPLETED: {},
    _J.FAILED: {},
    _J.CANCELLED: {},
}

RELEASING: Final = "releasing"
"""The phase of a cancelled job whose work has ended and whose memory is being measured."""

POISON_AT: Final = 3
"""A third worker killed by one job poisons it."""


def advance(job: Job, step: Step, wall_s: float) -> Job:
    """Return the job after the step, its wall times kept. Raises IllegalTransition where the table has no such move: ended jobs never change."""
    status = JOB[job.status].get(step)
    if status is None:
        raise IllegalTransition(f"job {job.id} attempt {job.attempt} is {job.status}: no move by {step}")
    job = replace(job, status=status)
    if step is Step.BEGIN and job.started_wall is None:
        job = replace(job, started_wall=wall_s)
    if status in TERMINAL:
        job = replace(job, completed_wall=wall_s, critical="")
    return job


def aged_priority(job: Job, limits: JobLimits, now_s: float) -> int:
    """Return the job's priority after it gained one level for each age_step that it waited. 0 is the most urgent."""
    aged = job.priority - math.floor((now_s - job.queued_at_s + job.waited_s) / limits.age_step_s)
    return aged if aged > 0 else 0  # noqa: FURB136  # max() takes as long as all the rest


def rank(job: Job, limits: JobLimits, now_s: float) -> tuple[int, float, str]:
    """Return the job's place: the most urgent first, then the longest waiting."""
    return aged_priority(job, limits, now_s), job.queued_at_s, job.id


def in_order(jobs: Iterable[Job], limits: JobLimits, now_s: float) -> list[Job]:
    """Return the queued ones of these jobs, the next first: as `rank` has it, at the cost of two numbers for each."""
    by_age = sorted([job for job in jobs if job.status is JobStatus.QUEUED], key=BY_AGE)
    if len({job.priority for job in by_age}) < 2 and not any(job.waited_s for job in by_age):  # noqa: PLR2004  # among equals the older one is never behind
        return by_age
    return sorted(by_age, key=lambda job: aged_priority(job, limits, now_s))


BY_AGE: Final = attrgetter("queued_at_s", "id")


def rests(job: Job, now_s: float, wall_s: float) -> Reason:
    """Return why a queued job does not stand in the queue yet: it is held, or its time has not come. NONE for one that does."""
    if job.held:
        return Reason.HELD
    if job.run_at_wall is not None and wall_s < job.run_at_wall:
        return Reason.SCHEDULED
    return Reason.RETRY_BACKOFF if now_s < job.retry_at_s else Reason.NONE


def in_line(jobs: Iterable[Job], limits: JobLimits, now_s: float, wall_s: float) -> list[Job]:
    """Return those of these jobs that stand in the queue, the next first: one that is held, or before its time, is in nobody's way and has no place."""
    return [job for job in in_order(jobs, limits, now_s) if not rests(job, now_s, wall_s)]


def place_of(job: Job, jobs: Iterable[Job], limits: JobLimits, now_s: float, wall_s: float) -> int | None:
    """Return a job's place in `in_line`, from 1, without putting the others in order. None for one that does not stand there."""
    if job.status is not JobStatus.QUEUED or rests(job, now_s, wall_s):
        return None
    queued, at_s, level, mine = JobStatus.QUEUED, job.queued_at_s, job.priority, rank(job, limits, now_s)
    place = 1
    for one in jobs:  # a thousand are looked at for each answer to a submit: one pass, and the costly questions last
        if one.status is not queued:
            continue
        if one.priority == level and not one.waited_s and not job.waited_s:
            if one.queued_at_s > at_s or (one.queued_at_s == at_s and one.id >= job.id):
                continue
        elif rank(one, limits, now_s) >= mine:
            continue
        if (one.held or one.retry_at_s > now_s or one.run_at_wall is not None) and rests(one, now_s, wall_s):
            continue
        place += 1
    return place


def returned(job: Job, reason: Reason, message: str, now_s: float, wall_s: float) -> Job:
    """Return the job as it goes back to the queue, for another attempt in another process. It keeps its age. One that was to be paused is paused then."""
    pausing = job.status is JobStatus.PAUSING
    job = advance(job, Step.PAUSED if pausing else Step.RETURN, wall_s)
    return replace(
        job,
        reason=Reason.NONE if pausing else reason,
        message=message,
        last_end=message,
        worker=None,
        device=None,
        given_at_s=None,
        ran_s=job.ran_s + (max(0.0, now_s - job.given_at_s) if job.given_at_s is not None else 0.0),
        resumable=False,
        phase="",
        phases=(),
        critical="",
        sent_at_s=None,
        begun_at_s=None,
        progress_at_s=None,
        cancel_at_s=None,
        extend_until_s=0.0,
        level_bytes=None,
        peak_bytes=None,
        queued_at_s=min(job.queued_at_s, now_s),
    )


REASON_OF_CAUSE: Final = {
    Cause.STALL: Reason.STALLED,
    Cause.SILENT: Reason.SILENT,
    Cause.MEMORY: Reason.MEMORY_LIMIT,
    Cause.START_TIMEOUT: Reason.START_TIMEOUT,
    Cause.GPU_ERROR: Reason.GPU_ERROR,
    Cause.SPAWN_FAILED: Reason.WORKER_CRASH,
    Cause.CRASH: Reason.WORKER_CRASH,
    Cause.ADOPTED_GONE: Reason.LOST,
}

BUDGET_OF_REASON: Final = {
    Reason.USER_ERROR: "user_error",
    Reason.MEMORY_EMERGENCY: "memory",
    Reason.WORKER_CRASH: "crash",
    Reason.GPU_OOM: "memory",
    Reason.GPU_ERROR: "crash",
}
"""For ends that the work told of by itself; after any other it is not tried again."""

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0

BUDGET_OF_CAUSE: Final = {
    Cause.STALL: "stall",
    Cause.SILENT: "stall",
    Cause.MEMORY: "memory",
    Cause.START_TIMEOUT: "crash",
    Cause.GPU_ERROR: "gpu_error",
    Cause.SPAWN_FAILED: "crash",
    Cause.CRASH: "crash",
    Cause.ADOPTED_GONE: "lost",
}


def after_worker_end(job: Job, cause: Cause, failure: Failure, limits: JobLimits, now_s: float, wall_s: float) -> Job:  # noqa: PLR0917
    """Return the job after its worker ended by an unplanned cause: back in the queue while that cause's budget lasts, else failed."""
    budget = BUDGET_OF_CAUSE[cause]
    tries = {**job.tries, budget: job.tries.get(budget, 0) + 1}
    job = replace(job, tries=tries)
    if tries[budget] <= limits.retries.for_cause(budget) and job.failures < job.max_attempts:
        return _again(job, budget, f"attempt {job.attempt} ended: {failure.message}", now_s, wall_s)
    if cause is Cause.CRASH and job.sent_at_s is not None and tries[budget] >= POISON_AT:  # one that no worker ever had killed none
        failure = replace(failure, reason=Reason.POISON, message=f"it ended {tries[budget]} workers, the last time: {failure.message}")
    return failed(job, failure, wall_s)


def after_own_end(job: Job, failure: Failure, limits: JobLimits, now_s: float, wall_s: float) -> Job:
    """Return the job after its work itself ended without a result: in the queue again while the budget of that reason lasts, else failed."""
    budget = BUDGET_OF_REASON.get(failure.reason, "")
    tries = {**job.tries, budget: job.tries.get(budget, 0) + 1}
    if budget and tries[budget] <= limits.retries.for_cause(budget) and sum(tries.values()) < job.max_attempts:
        return _again(replace(job, tries=tries), budget, f"attempt {job.attempt} ended: {failure.message}", now_s, wall_s)
    return failed(job, failure, wall_s)


def _again(job: Job, budget: str, message: str, now_s: float, wall_s: float) -> Job:
    """Return the job in the queue, where it waits the longer the oftener this cause ended it. What was lost without anybody's fault goes on at once."""
    job = returned(job, Reason.WAITING_FOR_WORKER, message, now_s, wall_s)
    if budget == "lost" or job.status is not JobStatus.QUEUED:
        return job
    pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** (job.tries[budget] - 1)) * (0.8 + 0.4 * spread(f"{job.id}#{job.attempt}"))
    return replace(job, reason=Reason.RETRY_BACKOFF, retry_at_s=now_s + pause_s)


def failed(job: Job, failure: Failure, wall_s: float) -> Job:
    """Return the job with its death certificate."""
    failure = replace(failure, phase=failure.phase or job.phase)
    return replace(advance(job, Step.FAIL, wall_s), reason=failure.reason, message=failure.message, error=failure)


def noun(kind: str) -> str:
    """Return what a job of this kind is called in a sentence."""
    last = kind.rpartition(".")[2]
    return {"train": "Training", "propagate": "Propagation"}.get(last, "Job")
