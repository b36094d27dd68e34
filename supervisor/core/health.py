"""The clocks that run against a worker, and the verdict when one of them expires."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from supervisor.core.jobs import RELEASING, noun
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Cause, Job, JobId, JobStatus, Worker, WorkerState

CANCEL_GRACE_S: Final = 10.0
"""How long work may go on after a cancel before its process is ended."""


EXTEND_MAX_S: Final = 3600.0
"""How far a program may push a clock beyond its limit by asking for more time."""

SAY_READY: Final = ("sdk", "notify")
"""The progress sources that say when they are ready; any other program is ready as soon as it runs."""

_NEVER_STALLED: Final = ("sdk", "none")
"""The progress sources whose worker as a whole has no stall clock: a job has one, or nothing has."""

_STALLED_ONCE_SEEN: Final = "notify"
"""The progress source that many programs use for READY=1 alone: its stall clock runs from the first progress that it shows."""


class Clock(Struct, frozen=True):
    """One deadline: armed at an instant, with a limit in seconds."""

    cause: Cause
    armed_at_s: float
    limit_s: float
    job: JobId | None = None
    extra_s: float = 0.0  # for a critical section, or an extension that was asked for

    def over_s(self, now_s: float) -> float:
        """Return by how much it expired; negative while it has not."""
        return now_s - self.armed_at_s - self.limit_s - self.extra_s


class Verdict(Struct, frozen=True):
    """A worker that must be stopped: why, in a sentence with its numbers, past which limit, and because of which job."""

    cause: Cause
    sentence: str
    limit_s: float
    job: JobId | None = None


def clocks(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec) -> tuple[Clock, ...]:
    """Return the clocks that are armed now. A worker on its way out has none: the ladder has its own times."""
    process, watchdog = worker.process, spec.watchdog
    if process is None or worker.state not in (WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING):
        return ()
    armed = []
    if worker.state is WorkerState.STARTING:
        since_s = max(process.spawned_at_s, worker.since_s)
        armed.append(Clock(Cause.START_TIMEOUT, since_s, watchdog.start_timeout_s, None, _extra(since_s + watchdog.start_timeout_s, process.extend_until_s)))
    if process.beat_at_s is not None:  # from the first hello on; a program without the SDK never says one
        armed.append(Clock(Cause.SILENT, process.beat_at_s, watchdog.silent_after_s))
    if spec.progress not in _NEVER_STALLED and process.ready_at_s is not None and (process.shown_at_s is not None or spec.progress != _STALLED_ONCE_SEEN):
        shown_s = max(process.ready_at_s, process.shown_at_s or 0.0)
        armed.append(Clock(Cause.STALL, shown_s, watchdog.stall_after_s, None, _extra(shown_s + watchdog.stall_after_s, process.extend_until_s)))
    for name in worker.jobs:
        job = jobs.get(name)
        if job is None:
            continue
        extra_s = watchdog.critical_max_s if job.critical else 0.0
        moved_at_s = job.progress_at_s or job.sent_at_s  # a job that was sent and is never begun is stuck in its worker as well
        if job.status in (JobStatus.PREPARING, JobStatus.RUNNING) and moved_at_s is not None:
            limit_s = stall_limit_s(spec, job)
            extra_s = max(extra_s, _extra(moved_at_s + limit_s, job.extend_until_s))
            armed.append(Clock(Cause.STALL, moved_at_s, limit_s, name, extra_s))
        if job.status is JobStatus.CANCELLING and job.cancel_at_s is not None and job.phase != RELEASING:
            armed.append(Clock(Cause.CANCEL, job.cancel_at_s, CANCEL_GRACE_S, name, extra_s))
    return tuple(armed)


def stall_limit_s(spec: WorkerSpec, job: Job) -> float:
    """Return how long the job may stand still in the phase it is in."""
    return spec.phases.get(job.phase, spec.watchdog.stall_after_s)


def _extra(due_s: float, extend_until_s: float) -> float:
    """Return by how much an extension puts a clock off: never by more than EXTEND_MAX_S, however often it is asked for."""
    return min(EXTEND_MAX_S, max(0.0, extend_until_s - due_s))


def judge(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec, now_s: float) -> Verdict | None:
    """Return the verdict of the clock that expired first, or None while all is well."""
    expired = [clock for clock in clocks(worker, jobs, spec) if clock.over_s(now_s) > 0]
    if not expired:
        return None
    clock = max(expired, key=lambda clock: clock.over_s(now_s))
    spent_s = now_s - clock.armed_at_s
    job = jobs.get(clock.job) if clock.job else None
    why = "for its critical section" if job is not None and job.critical else "that it asked for"
    extra = f" and {clock.extra_s:g} s more {why}" if clock.extra_s else ""
    match clock.cause:
        case Cause.START_TIMEOUT:
            sentence = f"not ready {spent_s:.1f} s after its start, start_timeout is {clock.limit_s:g} s"
        case Cause.SILENT:
            sentence = f"no heartbeat for {spent_s:.1f} s, silent_after is {clock.limit_s:g} s"
        case Cause.STALL:
            where = f", phase {job.phase or '?'} at {job.done:g} of {job.total:g}" if job else ""
            limit = f'phases."{job.phase}"' if job is not None and job.phase in spec.phases else "stall_after"
            sentence = f"no progress for {spent_s:.1f} s, {limit} is {clock.limit_s:g} s{extra}{where}"
        case _:
            sentence = f"its work did not stop within {clock.limit_s:g} s of the cancel{extra}"
    return Verdict(clock.cause, sentence, clock.limit_s, clock.job)


def job_sentence(cause: Cause, job: Job, limit_words: str) -> str:
    """Return what the owner of a job reads when its worker was stopped for this cause: a stall, silence, or a start that took too long."""
    match cause:
        case Cause.STALL:
            return f"{noun(job.kind)} timed out - no progress updates for {limit_words}"
        case Cause.SILENT:
            return f"{noun(job.kind)} ended - its worker sent no heartbeat for {limit_words}"
        case _:
            return f"{noun(job.kind)} ended - its worker was not ready within {limit_words}"
