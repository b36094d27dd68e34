"""The life of one process in a worker's place: its start, the ladder that ends it, and what follows when it is gone."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import handover
from supervisor.core.actions import Announce, GatherEvidence, Kill, ProveGone, SendDrain, Spawn, Terminate
from supervisor.core.events import EvidenceGathered, SpawnFailed, TreeGone, TreeStuck, WorkerExited, WorkerSpawned
from supervisor.core.health import Verdict, job_sentence
from supervisor.core.jobs import REASON_OF_CAUSE, Step, advance, after_worker_end, failed, returned
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import (
    PLANNED,
    Cause,
    DeviceState,
    Evidence,
    Exit,
    Failure,
    Job,
    JobId,
    JobStatus,
    Process,
    Reason,
    Receipt,
    Stop,
    Wanted,
    Worker,
    WorkerState,
)
from supervisor.core.restarts import after_failure
from supervisor.core.turn import Turn
from supervisor.units import say_duration

EVIDENCE_MAX_S: Final = 5.0
"""The gathering itself ends within 3 s; past this the ladder goes on without it."""

_ANNOUNCED_AS: Final = {Cause.STALL: "worker_stalled", Cause.SILENT: "worker_silent", Cause.START_TIMEOUT: "worker_start_timeout"}
_COUNTED: Final = frozenset(Cause) - {Cause.CANCEL, Cause.IDLE, Cause.SHUTDOWN}


def start(turn: Turn, worker: Worker) -> None:
    """Spawn the next generation."""
    worker = move(worker, Signal.SPAWN, turn.now_s)
    fresh = replace(worker, process=Process(spawned_at_s=turn.now_s), stop=None, exit=None, note="", last_error="", memory_bytes=None)
    worker = turn.put_worker(replace(fresh, generation=worker.generation + 1))
    turn.act(Spawn(worker=worker.name, generation=worker.generation, device=turn.device_of(worker)))
    turn.wake_in(turn.spec(worker).watchdog.start_timeout_s)


def spawned(turn: Turn, worker: Worker, event: WorkerSpawned) -> None:
    """The process runs. A program that does not speak to us is ready at once."""
    if worker.process is None:
        return
    worker = turn.put_worker(replace(worker, process=replace(worker.process, pid=event.pid)))
    turn.announce("worker_spawned", worker=worker.name, fields={"pid": event.pid, "generation": worker.generation})
    handover.started(turn, worker)
    if turn.spec(worker).progress == "none" and worker.state is WorkerState.STARTING:
        ready(turn, worker, "")


def ready(turn: Turn, worker: Worker, note: str) -> None:
    """The worker can take jobs."""
    if worker.process is None or not may(worker, Signal.READY):
        return
    worker = move(worker, Signal.READY, turn.now_s)
    worker = turn.put_worker(replace(worker, note=note, process=replace(worker.process, ready_at_s=turn.now_s) if worker.process else None))
    took_s = turn.now_s - worker.process.spawned_at_s if worker.process else 0.0
    turn.announce("worker_ready", worker=worker.name, fields={"took_s": took_s, **({"note": note} if note else {})})


def condemn(turn: Turn, worker: Worker, verdict: Verdict) -> None:
    """Stop a worker whose clock expired; what can be seen of it is gathered first."""
    event = _ANNOUNCED_AS.get(verdict.cause, "worker_overrun")
    turn.announce(event, worker=worker.name, job=verdict.job, reason=verdict.sentence, fields={"log": f"{worker.name}.log"})
    order_stop(turn, worker, verdict.cause, verdict.sentence, evidence=True, job=verdict.job)


def order_leave(turn: Turn, worker: Worker, cause: Cause, reason: str) -> None:
    """Make a worker leave in good order: it finishes its jobs first. One that speaks no protocol, or is not ready, is asked by SIGTERM."""
    if may(worker, Signal.DRAIN) and turn.spec(worker).progress == "sdk":
        worker = move(worker, Signal.DRAIN, turn.now_s)
        worker = turn.put_worker(replace(worker, stop=Stop(cause=cause, reason=reason, ordered_at_s=turn.now_s)))
        turn.act(SendDrain(worker=worker.name, generation=worker.generation))
        turn.announce("worker_draining", worker=worker.name, reason=reason)
        turn.wake_in(turn.spec(worker).watchdog.stop_grace_s)
    else:
        order_stop(turn, worker, cause, reason)


def order_stop(turn: Turn, worker: Worker, cause: Cause, reason: str, *, evidence: bool = False, job: JobId | None = None) -> None:
    """Put a worker on the ladder: evidence if wanted, SIGTERM, SIGKILL after the grace."""
    if not may(worker, Signal.STOP):
        return
    worker = move(worker, Signal.STOP, turn.now_s)
    ordered_at_s = worker.stop.ordered_at_s if worker.stop else turn.now_s
    stop = Stop(cause=cause, reason=reason, ordered_at_s=ordered_at_s, job=job)
    worker = turn.put_worker(replace(worker, stop=stop))
    if evidence:
        turn.act(GatherEvidence(worker=worker.name, generation=worker.generation))
        turn.wake_in(EVIDENCE_MAX_S)
    else:
        turn.announce("worker_stopping", worker=worker.name, reason=reason)
        _terminate(turn, worker, stop)


def evidence_gathered(turn: Turn, worker: Worker, event: EvidenceGathered) -> None:
    """Keep what was seen, and go down the ladder."""
    if worker.state is WorkerState.STOPPING and worker.stop is not None and worker.stop.term_at_s is None:
        _terminate(turn, worker, replace(worker.stop, evidence=event.evidence))


def _terminate(turn: Turn, worker: Worker, stop: Stop) -> None:
    turn.put_worker(replace(worker, stop=replace(stop, term_at_s=turn.now_s)))
    turn.act(Terminate(worker=worker.name, generation=worker.generation))
    turn.wake_in(turn.spec(worker).watchdog.stop_grace_s)


def climb_down(turn: Turn, worker: Worker) -> None:
    """Take the next rung of the ladder when its time has come. Called on every tick for workers on their way out."""
    stop, watchdog = worker.stop, turn.spec(worker).watchdog
    if stop is None:
        return
    waited_s = turn.now_s - worker.since_s
    if worker.state is WorkerState.DRAINING and not worker.jobs and waited_s >= watchdog.stop_grace_s:
        order_stop(turn, worker, stop.cause, stop.reason)
    elif worker.state is WorkerState.STOPPING:
        if stop.term_at_s is None:
            if waited_s >= EVIDENCE_MAX_S:
                _terminate(turn, worker, stop)
        elif stop.killed_at_s is None:
            if turn.now_s >= stop.term_at_s + watchdog.stop_grace_s + _held_off_s(turn, worker):
                kill(turn, worker, stop, f"still there {turn.now_s - stop.term_at_s:.1f} s after SIGTERM, stop_grace is {watchdog.stop_grace_s:g} s")
        elif turn.now_s >= stop.killed_at_s + watchdog.unkillable_after_s:
            stuck(turn, worker, (worker.process.pid,) if worker.process and worker.process.pid else ())


def kill(turn: Turn, worker: Worker, stop: Stop, why: str) -> None:
    """SIGKILL for the whole tree."""
    turn.put_worker(replace(worker, stop=replace(stop, killed_at_s=turn.now_s)))
    turn.act(Kill(worker=worker.name, generation=worker.generation))
    turn.announce("worker_killed", worker=worker.name, reason=f"{stop.reason}; {why}")
    turn.wake_in(turn.spec(worker).watchdog.unkillable_after_s)


def _held_off_s(turn: Turn, worker: Worker) -> float:
    """Return how long a critical section of one of its jobs holds the kill off."""
    jobs = (turn.fleet.jobs.get(name) for name in worker.jobs)
    return turn.spec(worker).watchdog.critical_max_s if any(job is not None and job.critical for job in jobs) else 0.0


def spawn_failed(turn: Turn, worker: Worker, event: SpawnFailed) -> None:
    """A missing command takes the same path as a crash."""
    if may(worker, Signal.EXIT):
        turn.announce("worker_spawn_failed", worker=worker.name, reason=event.detail)
        worker = turn.put_worker(replace(move(worker, Signal.EXIT, turn.now_s), exit=Exit("spawn_failed", 0, event.detail)))
        gone(turn, worker, TreeGone(worker=worker.name, generation=worker.generation))


def exited(turn: Turn, worker: Worker, event: WorkerExited) -> None:
    """The leader is reaped; nothing follows from that before its tree is proved gone."""
    if not may(worker, Signal.EXIT):
        return
    asked = worker.stop is not None
    worker = turn.put_worker(replace(move(worker, Signal.EXIT, turn.now_s), exit=event.exit))
    if asked and worker.stop is not None:
        turn.announce("worker_stopped", worker=worker.name, reason=worker.stop.reason, fields={"exit": str(event.exit)})
    else:
        fields = {"last_error": worker.last_error} if worker.last_error else {}
        turn.announce("worker_exited", worker=worker.name, reason=f"{event.exit}, not asked for", fields=fields)
    handover.left(turn)
    turn.act(ProveGone(worker=worker.name, generation=worker.generation, within_s=turn.spec(worker).watchdog.unkillable_after_s))


def stuck(turn: Turn, worker: Worker, pids: tuple[int, ...]) -> None:
    """Some of its processes do not die: set it and its device aside, and let nothing wait for it."""
    if not may(worker, Signal.STUCK):
        return
    worker = turn.put_worker(move(worker, Signal.STUCK, turn.now_s))
    reason = f"not gone after SIGKILL: pid {', '.join(map(str, pids)) or '?'}"
    turn.announce("worker_unkillable", worker=worker.name, reason=reason)
    for job in _jobs_of(turn, worker):
        turn.save_job(failed(job, _failure(turn, worker, job, _cause(worker)), turn.wall_s), _job_announcement(turn, job, "job_failed", reason))
    worker = turn.put_worker(replace(worker, jobs=(), last_reason=reason))
    lease = turn.fleet.lease_of(worker.name)
    if lease is not None:
        turn.put_device(replace(turn.fleet.devices[lease.device], state=DeviceState.QUARANTINED))


def stuck_reported(turn: Turn, worker: Worker, event: TreeStuck) -> None:
    """The proof that the tree is gone did not come in time. It is asked for again until it comes, so that nobody has to clear this by hand."""
    stuck(turn, worker, event.pids)
    turn.act(ProveGone(worker=worker.name, generation=worker.generation, within_s=turn.spec(worker).watchdog.unkillable_after_s))


def gone(turn: Turn, worker: Worker, event: TreeGone) -> None:
    """Nothing of that generation is left: settle its jobs, its lease and its comeback."""
    if not may(worker, Signal.GONE):
        return
    cause = _cause(worker)
    if event.swept:
        turn.announce("worker_swept", worker=worker.name, reason=f"{event.swept} processes that its leader had left behind were ended")
    for job in _jobs_of(turn, worker):
        _settle_job(turn, worker, job, cause, event.log_tail)
    worker = turn.fleet.workers[worker.name]
    was_unkillable = worker.state is WorkerState.UNKILLABLE
    comeback = after_failure(worker, turn.spec(worker).watchdog, turn.now_s)
    reason = worker.stop.reason if worker.stop else str(worker.exit or "gone")
    restarts = {**worker.restarts, cause: worker.restarts.get(cause, 0) + 1} if cause in _COUNTED else worker.restarts
    signal = Signal.GONE
    if cause in PLANNED:
        worker = replace(worker, failures=0, note="")
    elif not was_unkillable and worker.wanted is Wanted.UP:
        signal = Signal.SET_ASIDE if comeback.quarantined else Signal.WAIT
        worker = replace(worker, failures=comeback.failures, retry_at_s=comeback.at_s)
        turn.wake_in(max(0.0, comeback.at_s - turn.now_s))
    worker = move(worker, signal, turn.now_s)
    worker = turn.put_worker(replace(worker, process=None, stop=None, jobs=(), restarts=restarts, last_reason=reason, memory_bytes=None))
    if worker.state is WorkerState.QUARANTINED:
        turn.announce("worker_quarantined", worker=worker.name, reason=f"{worker.failures} failures in a row, the last: {reason}")
    handover.holder_gone(turn, worker)


def _cause(worker: Worker) -> Cause:
    if worker.stop is not None:
        return worker.stop.cause
    return Cause.SPAWN_FAILED if worker.exit is not None and worker.exit.kind == "spawn_failed" else Cause.CRASH


def _jobs_of(turn: Turn, worker: Worker) -> list[Job]:
    return [turn.fleet.jobs[name] for name in worker.jobs if name in turn.fleet.jobs]


def _settle_job(turn: Turn, worker: Worker, job: Job, cause: Cause, log_tail: tuple[str, ...]) -> None:
    if job.status is JobStatus.CANCELLING:
        receipt = Receipt(freed_bytes=job.peak_bytes or worker.memory_bytes or 0, took_s=turn.now_s - (job.cancel_at_s or turn.now_s))
        overrun = worker.stop is not None and worker.stop.cause is Cause.CANCEL
        message = "its process was ended, for its work did not stop by itself" if overrun else f"its worker ended before its work had stopped: {worker.exit}"
        job = replace(advance(job, Step.CANCELLED, turn.wall_s), receipt=receipt, message=message)
        turn.save_job(job, _job_announcement(turn, job, "job_cancelled", job.message))
    elif cause in PLANNED or (worker.stop is not None and not worker.ends_by_fault_of(job.id)):
        job = returned(job, Reason.WAITING_FOR_WORKER, f"its worker left: {worker.stop.reason if worker.stop else cause}", turn.now_s, turn.wall_s)
        turn.save_job(job, _job_announcement(turn, job, "job_returned", job.message))
    else:
        job = after_worker_end(job, cause, _failure(turn, worker, job, cause, log_tail), turn.limits.jobs, turn.now_s, turn.wall_s)
        turn.save_job(job, _job_announcement(turn, job, "job_failed" if job.error else "job_retried", job.message))


def _failure(turn: Turn, worker: Worker, job: Job, cause: Cause, log_tail: tuple[str, ...] = ()) -> Failure:
    """Return the death certificate of a job whose worker ended under it."""
    watchdog = turn.spec(worker).watchdog
    limit_s = {Cause.STALL: watchdog.stall_after_s, Cause.SILENT: watchdog.silent_after_s, Cause.START_TIMEOUT: watchdog.start_timeout_s}.get(cause)
    seen = (worker.stop.evidence if worker.stop else None) or Evidence()
    if limit_s is not None and worker.stop is not None:
        message, evidence = job_sentence(cause, job, say_duration(limit_s)), worker.stop.reason
    elif worker.state is WorkerState.UNKILLABLE:
        message, evidence = f"{worker.name} had to end under it and cannot be killed", worker.stop.reason if worker.stop else ""
    else:
        message = f"{worker.name} ended under it: {worker.exit or 'no exit seen'}{f'; its last word: {worker.last_error}' if worker.last_error else ''}"
        evidence = worker.stop.reason if worker.stop else str(worker.exit or "")
    if seen.process:
        evidence = f"{evidence}; {seen.process}"
    reason = REASON_OF_CAUSE.get(cause, Reason.WORKER_CRASH)
    return Failure(reason=reason, message=message, evidence=evidence, phase=job.phase, stack=seen.stack, log_tail=seen.log_tail or log_tail)


def _job_announcement(turn: Turn, job: Job, event: str, reason: str) -> Announce:
    return turn.announcement(event, job=job.id, worker=job.worker, reason=reason, fields={"kind": job.kind, "attempt": job.attempt})
