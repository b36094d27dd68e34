"""The clocks that run against a worker, and the verdict when one of them expires."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from supervisor.core.jobs import RELEASING, noun
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Cause, Job, JobId, JobStatus, Process, Worker, WorkerState

CANCEL_GRACE_S: Final = 10.0
"""How long work may go on after a cancel before its process is ended."""


FAULT_GRACE_S: Final = 10.0
"""How long after a fault of its device a worker may neither end nor move: its context is broken then, and its own error did not end it."""

EXTEND_MAX_S: Final = 3600.0
"""How far a program may push a clock beyond its limit by asking for more time."""

SAY_READY: Final = ("sdk", "notify")
"""The progress sources that say when they are ready; any other program is ready as soon as it runs."""

_JUDGED: Final = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING})


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
    spent_s: float = 0.0
    section: bool = False  # a critical section of the job was waited for: not once more


def clocks(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec) -> tuple[Clock, ...]:
    """Return the clocks that are armed now. A worker on its way out has none: the ladder has its own times."""
    return tuple(Clock(*armed) for armed in _armed(worker, jobs, spec))


_Armed = tuple[Cause, float, float, JobId | None, float]
"""The fields of a Clock. Every tick asks for those of every worker, and hardly ever needs one of them as a value of its own."""


def _armed(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec) -> list[_Armed]:
    process, watchdog = worker.process, spec.watchdog
    if process is None or worker.state not in _JUDGED:
        return []
    armed: list[_Armed] = []
    if process.beat_at_s is not None:  # from the first hello on; a program without the SDK never says one
        armed.append((Cause.SILENT, process.beat_at_s, watchdog.silent_after_s, None, 0.0))
    if worker.state is WorkerState.STARTING:
        since_s = max(process.spawned_at_s, worker.since_s)
        armed.append((Cause.START_TIMEOUT, since_s, watchdog.start_timeout_s, None, _extra(since_s + watchdog.start_timeout_s, process.extend_until_s)))
    elif spec.progress != "sdk" and (shown_s := _shown_s(process, spec.progress)) is not None:
        armed.append((Cause.STALL, shown_s, watchdog.stall_after_s, None, _extra(shown_s + watchdog.stall_after_s, process.extend_until_s)))
    if process.fault_at_s is not None:
        armed.append((Cause.GPU_ERROR, process.fault_at_s, FAULT_GRACE_S, None, 0.0))
    for name in worker.jobs:
        job = jobs.get(name)
        if job is not None and (clock := _armed_by(job, spec)) is not None:
            armed.append(clock)
    return armed


def _armed_by(job: Job, spec: WorkerSpec) -> _Armed | None:
    """Return the one clock of a job: for its progress while it runs, for its end once it is cancelled."""
    status, extra_s = job.status, spec.watchdog.critical_max_s if job.critical else 0.0
    if status is JobStatus.RUNNING or status is JobStatus.PREPARING or status is JobStatus.PAUSING:
        moved_at_s = job.sent_at_s if job.progress_at_s is None else job.progress_at_s  # a job that was sent and is never begun is stuck in its worker as well
        if moved_at_s is None:
            return None
        limit_s = stall_limit_s(spec, job)
        if job.extend_until_s:
            extra_s = max(extra_s, _extra(moved_at_s + limit_s, job.extend_until_s))
        return (Cause.STALL, moved_at_s, limit_s, job.id, extra_s)
    if status is JobStatus.CANCELLING and job.cancel_at_s is not None and job.phase != RELEASING:
        return (Cause.CANCEL, job.cancel_at_s, CANCEL_GRACE_S, job.id, extra_s)
    return None


def _shown_s(process: Process, progress: str) -> float | None:
    """Return when a program without the SDK showed its last progress, or got ready; None where it has no stall clock."""
    if progress == "none" or (progress == "notify" and process.shown_at_s is None):  # many programs use sd_notify for READY=1 alone
        return None
    return process.shown_at_s if process.shown_at_s is not None else process.ready_at_s


def stall_limit_s(spec: WorkerSpec, job: Job) -> float:
    """Return how long the job may stand still in the phase it is in."""
    return spec.phases.get(job.phase, spec.watchdog.stall_after_s) if spec.phases else spec.watchdog.stall_after_s


def _extra(due_s: float, extend_until_s: float) -> float:
    """Return by how much an extension puts a clock off: never by more than EXTEND_MAX_S, however often it is asked for."""
    return min(EXTEND_MAX_S, max(0.0, extend_until_s - due_s))


def judge(worker: Worker, jobs: Mapping[JobId, Job], spec: WorkerSpec, now_s: float) -> Verdict | None:
    """Return the verdict of the clock that expired first, or None while all is well."""
    for _, armed_at_s, limit_s, _, extra_s in _armed(worker, jobs, spec):
        if now_s - armed_at_s - limit_s - extra_s > 0:  # as Clock.over_s
            break
    else:
        return None
    expired = [clock for clock in clocks(worker, jobs, spec) if clock.over_s(now_s) > 0]
    clock = max(expired, key=lambda clock: clock.over_s(now_s))
    spent_s = now_s - clock.armed_at_s
    job = jobs.get(clock.job) if clock.job else None
    section = job is not None and bool(job.critical) and clock.extra_s > 0
    why = "for its critical section" if section else "that it asked for"
    extra = f" and {clock.extra_s:g} s more {why}" if clock.extra_s else ""
    match clock.cause:
        case Cause.START_TIMEOUT:
            sentence = f"not ready {spent_s:.1f} s after its start, start_timeout is {clock.limit_s:g} s"
        case Cause.SILENT:
            sentence = f"no heartbeat for {spent_s:.1f} s, silent_after is {clock.limit_s:g} s"
        case Cause.GPU_ERROR:
            fault = worker.process.fault if worker.process else ""
            sentence = f"{fault}; {spent_s:.1f} s later it has neither ended nor moved, and a context that failed once is not repaired in its process"
        case Cause.STALL:
            where = f", phase {job.phase or '?'} at {job.done:g} of {job.total:g}" if job else ""
            limit = f'phases."{job.phase}"' if job is not None and job.phase in spec.phases else "stall_after"
            sentence = f"no progress for {spent_s:.1f} s, {limit} is {clock.limit_s:g} s{extra}{where}"
        case _:
            sentence = f"its work did not stop within {clock.limit_s:g} s of the cancel{extra}"
    return Verdict(clock.cause, sentence, clock.limit_s, clock.job, spent_s, section)


def job_sentence(cause: Cause, job: Job, limit_words: str) -> str:
    """Return what the owner of a job reads when its worker was stopped for one of these causes."""
    match cause:
        case Cause.STALL:
            return f"{noun(job.kind)} timed out - no progress updates for {limit_words}"
        case Cause.SILENT:
            return f"{noun(job.kind)} ended - its worker sent no heartbeat for {limit_words}"
        case Cause.GPU_ERROR:
            return f"{noun(job.kind)} ended - its device reported a fault, and it did not move for {limit_words} after that"
        case _:
            return f"{noun(job.kind)} ended - its worker was not ready within {limit_words}"
