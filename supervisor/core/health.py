"""The clocks that run against a worker, and the verdict when one of them expires."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from supervisor.core.jobs import RELEASING, noun
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Cause, Job, JobId, JobStatus, Worker, WorkerState

CANCEL_GRACE_S: Final = 10.0
"""How long work may go on after a cancel before its process is ended."""


class Clock(Struct, frozen=True):
    """One deadline: armed at an instant, with a limit in seconds."""

    cause: Cause
    armed_at_s: float
    limit_s: float
    job: JobId | None = None
    extra_s: float = 0.0  # for a critical section

    def over_s(self, now_s: float) -> float:
        """Return by how much it expired; negative while it has not."""
        return now_s - self.armed_at_s - self.limit_s - self.extra_s


class Verdict(Struct, frozen=True):
    """A worker that must be stopped: why, in a sentence with its numbers, and because of which job."""

    cause: Cause
    sentence: str
    job: JobId | None = None


def clocks(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec) -> tuple[Clock, ...]:
    """Return the clocks that are armed now. A worker on its way out has none: the ladder has its own times."""
    process, watchdog = worker.process, spec.watchdog
    if process is None or worker.state not in (WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING):
        return ()
    armed = []
    if worker.state is WorkerState.STARTING:
        armed.append(Clock(Cause.START_TIMEOUT, process.spawned_at_s, watchdog.start_timeout_s))
    if process.beat_at_s is not None:  # from the first hello on; a program without the SDK never says one
        armed.append(Clock(Cause.SILENT, process.beat_at_s, watchdog.silent_after_s))
    for name in worker.jobs:
        job = jobs.get(name)
        if job is None:
            continue
        extra_s = watchdog.critical_max_s if job.critical else 0.0
        moved_at_s = job.progress_at_s or job.sent_at_s  # a job that was sent and is never begun is stuck in its worker as well
        if job.status in (JobStatus.PREPARING, JobStatus.RUNNING) and moved_at_s is not None:
            armed.append(Clock(Cause.STALL, moved_at_s, watchdog.stall_after_s, name, extra_s))
        if job.status is JobStatus.CANCELLING and job.cancel_at_s is not None and job.phase != RELEASING:
            armed.append(Clock(Cause.CANCEL, job.cancel_at_s, CANCEL_GRACE_S, name, extra_s))
    return tuple(armed)


def judge(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec, now_s: float) -> Verdict | None:
    """Return the verdict of the clock that expired first, or None while all is well."""
    expired = [clock for clock in clocks(worker, jobs, spec) if clock.over_s(now_s) > 0]
    if not expired:
        return None
    clock = max(expired, key=lambda clock: clock.over_s(now_s))
    spent_s = now_s - clock.armed_at_s
    job = jobs.get(clock.job) if clock.job else None
    extra = f" and {clock.extra_s:g} s more for its critical section" if clock.extra_s else ""
    match clock.cause:
        case Cause.START_TIMEOUT:
            sentence = f"not ready {spent_s:.1f} s after its start, start_timeout is {clock.limit_s:g} s"
        case Cause.SILENT:
            sentence = f"no heartbeat for {spent_s:.1f} s, silent_after is {clock.limit_s:g} s"
        case Cause.STALL:
            where = f", phase {job.phase or '?'} at {job.done:g} of {job.total:g}" if job else ""
            sentence = f"no progress for {spent_s:.1f} s, stall_after is {clock.limit_s:g} s{extra}{where}"
        case _:
            sentence = f"its work did not stop within {clock.limit_s:g} s of the cancel{extra}"
    return Verdict(clock.cause, sentence, clock.job)


def job_sentence(cause: Cause, job: Job, limit_words: str) -> str:
    """Return what the owner of a job reads when its worker was stopped for this cause: a stall, silence, or a start that took too long."""
    match cause:
        case Cause.STALL:
            return f"{noun(job.kind)} timed out - no progress updates for {limit_words}"
        case Cause.SILENT:
            return f"{noun(job.kind)} ended - its worker sent no heartbeat for {limit_words}"
        case _:
            return f"{noun(job.kind)} ended - its worker was not ready within {limit_words}"
