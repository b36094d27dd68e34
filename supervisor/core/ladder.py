"""The ladder that ends a process: asked to leave at a boundary, then SIGTERM, then SIGKILL, and set aside where nothing helps."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.actions import GatherEvidence, Kill, ProveGone, SendDrain, Terminate
from supervisor.core.endings import set_aside_jobs
from supervisor.core.events import EvidenceGathered, TreeStuck
from supervisor.core.health import Verdict
from supervisor.core.lifecycle import Sight, Signal, advance_device, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import Cause, DeviceState, Stop, Worker, WorkerState
from supervisor.core.states import LeaseState
from supervisor.core.turn import Turn

EVIDENCE_MAX_S: Final = 5.0
"""The gathering itself ends within 3 s; past this the ladder goes on without it."""

_ANNOUNCED_AS: Final = {
    Cause.STALL: "worker_stalled",
    Cause.SILENT: "worker_silent",
    Cause.START_TIMEOUT: "worker_start_timeout",
    Cause.GPU_ERROR: "worker_gpu_error",
}
_CLOCK_KEYS: Final = {
    Cause.STALL: ("still_s", "stall_after_s"),
    Cause.SILENT: ("silent_s", "silent_after_s"),
    Cause.START_TIMEOUT: ("waited_s", "start_timeout_s"),
}


def condemn(turn: Turn, worker: Worker, verdict: Verdict) -> None:
    """Stop a worker whose clock expired; what can be seen of it is gathered first."""
    event = _ANNOUNCED_AS.get(verdict.cause, "worker_overrun")
    spent, limit = _CLOCK_KEYS.get(verdict.cause, ("waited_s", "limit_s"))
    job = turn.fleet.jobs.get(verdict.job) if verdict.job else None
    where = {"phase": job.phase or "?", "step": f"{job.done:g}/{job.total:g}"} if job is not None else {}
    fields = {spent: verdict.spent_s, limit: verdict.limit_s, **where, "stack": _log_of(turn, worker)}
    turn.announce(event, worker=worker.name, job=verdict.job, reason=verdict.sentence, fields=fields)
    order_stop(turn, worker, verdict.cause, verdict.sentence, verdict=verdict)


def order_leave(turn: Turn, worker: Worker, cause: Cause, reason: str, *, boundary: bool = False) -> None:
    """Make a worker leave in good order: it finishes its jobs first, or with boundary leaves them at their next checkpoint.

    One that speaks no protocol, or is not ready, is asked by SIGTERM.
    """
    if may(worker, Signal.DRAIN) and turn.spec(worker).progress == "sdk":
        worker = move(worker, Signal.DRAIN, turn.now_s)
        worker = turn.put_worker(replace(worker, stop=Stop(cause=cause, reason=reason, ordered_at_s=turn.now_s)))
        turn.act(SendDrain(worker=worker.name, generation=worker.generation, boundary=boundary))
        turn.announce("worker_draining", worker=worker.name, reason=reason)
        turn.wake_in(turn.spec(worker).watchdog.stop_grace_s)
    else:
        order_stop(turn, worker, cause, reason)


def order_stop(turn: Turn, worker: Worker, cause: Cause, reason: str, *, verdict: Verdict | None = None) -> None:
    """Put a worker on the ladder: for a verdict first the evidence, then SIGTERM, SIGKILL after the grace."""
    if not may(worker, Signal.STOP):
        return
    worker = move(worker, Signal.STOP, turn.now_s)
    ordered_at_s = worker.stop.ordered_at_s if worker.stop else turn.now_s
    stop = Stop(cause=cause, reason=reason, ordered_at_s=ordered_at_s)
    if verdict is not None:
        stop = replace(stop, job=verdict.job, limit_s=verdict.limit_s, section=verdict.section)
    worker = turn.put_worker(replace(worker, stop=stop))
    if verdict is not None:
        turn.act(GatherEvidence(worker=worker.name, generation=worker.generation))
        turn.wake_in(EVIDENCE_MAX_S)
    else:
        turn.announce("worker_stopping", worker=worker.name, reason=reason)
        _terminate(turn, worker, stop)


def evidence_gathered(turn: Turn, worker: Worker, event: EvidenceGathered) -> None:
    """Keep what was seen, say it, and go down the ladder. The stacks stand in the worker's own log, between the lines that it wrote last."""
    if worker.state is WorkerState.STOPPING and worker.stop is not None and worker.stop.term_at_s is None and worker.stop.killed_at_s is None:
        seen, stop = event.evidence, worker.stop
        if seen.process:
            where = _log_of(turn, worker) if seen.stack else "none"  # why not is said with the process
            turn.announce("worker_evidence", worker=worker.name, job=stop.job, reason=stop.reason, fields={"process": seen.process, "stack": where})
        _terminate(turn, worker, replace(worker.stop, evidence=event.evidence))


def _log_of(turn: Turn, worker: Worker) -> str:
    return f"{turn.limits.supervisor.log_dir}/workers/{worker.name}.log"


def _terminate(turn: Turn, worker: Worker, stop: Stop) -> None:
    turn.put_worker(replace(worker, stop=replace(stop, term_at_s=turn.now_s)))
    turn.act(Terminate(worker=worker.name, generation=worker.generation, signal=turn.spec(worker).stop_signal))
    turn.wake_in(turn.spec(worker).watchdog.stop_grace_s)


def climb_down(turn: Turn, worker: Worker, stop: Stop) -> None:
    """Take the next rung of the ladder when its time has come. Called on every tick for workers on their way out."""
    watchdog = turn.spec(worker).watchdog
    waited_s = turn.now_s - worker.since_s
    if worker.state is WorkerState.DRAINING and not worker.jobs and waited_s >= watchdog.stop_grace_s:
        order_stop(turn, worker, stop.cause, stop.reason)
    elif worker.state is WorkerState.STOPPING:
        if stop.term_at_s is None:
            if waited_s >= EVIDENCE_MAX_S:
                _terminate(turn, worker, stop)
        elif stop.killed_at_s is None:
            held_off_s = _held_off_s(turn, worker, stop)
            if turn.now_s >= stop.term_at_s + watchdog.stop_grace_s + held_off_s:
                more = f" and {held_off_s:g} s more for a critical section" if held_off_s else ""
                kill(turn, worker, stop, f"still there {turn.now_s - stop.term_at_s:.1f} s after SIGTERM, stop_grace is {watchdog.stop_grace_s:g} s{more}")
        elif turn.now_s >= stop.killed_at_s + watchdog.unkillable_after_s:
            stuck(turn, worker, (worker.process.pid,) if worker.process and worker.process.pid else ())


def kill(turn: Turn, worker: Worker, stop: Stop, why: str) -> None:
    """SIGKILL for the whole tree."""
    turn.put_worker(replace(worker, stop=replace(stop, killed_at_s=turn.now_s)))
    turn.act(Kill(worker=worker.name, generation=worker.generation))
    seen = {"process": stop.evidence.process} if stop.evidence and stop.evidence.process else {}
    turn.announce("worker_killed", worker=worker.name, reason=f"{stop.reason}; {why}", fields=seen)
    turn.wake_in(turn.spec(worker).watchdog.unkillable_after_s)


def _held_off_s(turn: Turn, worker: Worker, stop: Stop) -> float:
    """Return how long a critical section of one of its jobs holds the kill off: one that the verdict waited for has had its time."""
    jobs = (turn.fleet.jobs.get(name) for name in worker.jobs if not (stop.section and name == stop.job))
    return turn.spec(worker).watchdog.critical_max_s if any(job is not None and job.critical for job in jobs) else 0.0


def stuck(turn: Turn, worker: Worker, pids: tuple[int, ...]) -> None:
    """Some of its processes do not die: set it and its device aside, and let nothing wait for it."""
    if not may(worker, Signal.STUCK):
        return
    worker = turn.put_worker(move(worker, Signal.STUCK, turn.now_s))
    reason = f"not gone after SIGKILL: pid {', '.join(map(str, pids)) or '?'}"
    turn.announce("worker_unkillable", worker=worker.name, reason=reason)
    set_aside_jobs(turn, worker, reason)
    worker = turn.put_worker(replace(worker, jobs=(), last_reason=reason))
    lease = turn.fleet.lease_of(worker.name)
    if lease is None or lease.state is LeaseState.COOLING:  # that of the process before it: what this one has is no lease's
        return
    device = turn.fleet.devices[lease.device]
    if device.state is not DeviceState.QUARANTINED:
        turn.put_device(advance_device(device, Sight.SET_ASIDE))


def stuck_reported(turn: Turn, worker: Worker, event: TreeStuck) -> None:
    """The proof that the tree is gone did not come in time. It is asked for again until it comes, so that nobody has to clear this by hand."""
    stuck(turn, worker, event.pids)
    turn.act(ProveGone(worker=worker.name, generation=worker.generation, within_s=turn.spec(worker).watchdog.unkillable_after_s))
