"""The life of one process in a worker's place: its start, its readiness, its end, and what follows when it is gone."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import handover
from supervisor.core.actions import MeasureDevice, MeasureMemory, ProveGone, Spawn
from supervisor.core.endings import cause_of, settle_jobs
from supervisor.core.events import ProgramSeen, SpawnFailed, TreeGone, WorkerExited, WorkerSpawned
from supervisor.core.health import SAY_READY
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import PLANNED, Cause, Exit, Process, Wanted, Worker, WorkerState
from supervisor.core.restarts import after_failure
from supervisor.core.turn import Turn

_COUNTED: Final = frozenset(Cause) - {Cause.CANCEL, Cause.IDLE, Cause.SHUTDOWN}
"""The ends whose following spawn is a restart; after the others the next spawn is for another job, or another supervisor's."""


def start(turn: Turn, worker: Worker) -> None:
    """Spawn the next generation."""
    worker = move(worker, Signal.SPAWN, turn.now_s)
    fresh = replace(worker, process=Process(spawned_at_s=turn.now_s), stop=None, exit=None, note="", last_error="", memory_bytes=None)
    restarts = worker.restarts if worker.ended_by is None else {**worker.restarts, worker.ended_by: worker.restarts.get(worker.ended_by, 0) + 1}
    worker = turn.put_worker(replace(fresh, generation=worker.generation + 1, restarts=restarts, ended_by=None))
    device = turn.device_of(worker) if turn.spec(worker).gpu_bytes else None  # the lease of the one before may still be cooling, and an edit took the need away
    turn.act(Spawn(worker=worker.name, generation=worker.generation, device=device))
    turn.wake_in(turn.spec(worker).watchdog.start_timeout_s)


def spawned(turn: Turn, worker: Worker, event: WorkerSpawned) -> None:
    """The process runs. A program that does not speak to us is ready at once."""
    if worker.process is None:
        return
    worker = turn.put_worker(replace(worker, process=replace(worker.process, pid=event.pid)))
    turn.announce("worker_spawned", worker=worker.name, fields={"pid": event.pid, "generation": worker.generation})
    handover.started(turn, worker)
    if turn.spec(worker).progress not in SAY_READY and worker.state is WorkerState.STARTING:
        ready(turn, worker, "")


def ready(turn: Turn, worker: Worker, note: str) -> None:
    """The worker can take jobs."""
    process = worker.process
    if process is None or not may(worker, Signal.READY):
        return
    worker = move(worker, Signal.READY, turn.now_s)
    worker = turn.put_worker(replace(worker, note=note, process=replace(process, ready_at_s=turn.now_s)))
    if any(turn.fleet.jobs[name].sent_at_s is not None for name in worker.jobs):  # it was taken back in the middle of its work
        worker = turn.put_worker(move(worker, Signal.JOB, turn.now_s))
    took = {} if process.adopted else {"took_s": turn.now_s - process.spawned_at_s}
    turn.announce("worker_ready", worker=worker.name, fields={**took, **({"note": note} if note else {})})
    turn.act(MeasureMemory())  # what it uses is known from here on, not only after the next regular look
    if (device := turn.device_of(worker)) is not None:
        turn.act(MeasureDevice(device=device))


def seen(turn: Turn, worker: Worker, event: ProgramSeen) -> None:
    """A program that does not speak the SDK's language showed something."""
    if event.ready:
        ready(turn, worker, event.status)
        worker = turn.fleet.workers[worker.name]
    if worker.process is None:
        return
    process, now_s = worker.process, turn.now_s
    turn.put_worker(
        replace(
            worker,
            note=event.status or worker.note,
            process=replace(
                process,
                beat_at_s=now_s if event.alive else process.beat_at_s,
                shown_at_s=now_s if event.moved else process.shown_at_s,
                moved=process.moved or event.moved,
                extend_until_s=now_s + event.extend_s if event.extend_s else process.extend_until_s,
            ),
        )
    )


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
    worker = turn.put_worker(replace(move(worker, Signal.EXIT, turn.now_s), exit=event.exit))
    if worker.stop is not None and cause_of(worker) is worker.stop.cause:
        turn.announce("worker_stopped", worker=worker.name, reason=worker.stop.reason, fields={"exit": str(event.exit)})
    else:
        how = f"as it left ({worker.stop.reason})" if worker.stop is not None else "not asked for"
        fields = {"last_error": worker.last_error} if worker.last_error else {}
        turn.announce("worker_exited", worker=worker.name, reason=f"{event.exit}, {how}", fields=fields)
    handover.left(turn)
    turn.act(ProveGone(worker=worker.name, generation=worker.generation, within_s=turn.spec(worker).watchdog.unkillable_after_s))


def gone(turn: Turn, worker: Worker, event: TreeGone) -> None:
    """Nothing of that generation is left: settle its jobs, its lease and its comeback."""
    if not may(worker, Signal.GONE):
        return
    cause = cause_of(worker)
    if event.swept:
        ended = "1 process was ended" if event.swept == 1 else f"{event.swept} processes were ended"
        turn.announce("worker_swept", worker=worker.name, reason=f"{ended} that its leader had left behind")
    settle_jobs(turn, worker, event.log_tail, event.flight)
    was_unkillable = worker.state is WorkerState.UNKILLABLE
    comeback = after_failure(worker, turn.spec(worker).watchdog, turn.now_s)
    reason = worker.stop.reason if worker.stop and worker.stop.cause is cause else str(worker.exit or "gone")
    signal = Signal.GONE
    if cause in PLANNED:
        worker = replace(worker, failures=0, note="")
    elif not was_unkillable and worker.wanted is Wanted.UP:
        signal = Signal.SET_ASIDE if comeback.quarantined else Signal.WAIT
        worker = replace(worker, failures=comeback.failures, retry_at_s=comeback.at_s)
        turn.wake_in(max(0.0, comeback.at_s - turn.now_s))
    worker = move(worker, signal, turn.now_s)
    ended_by = cause if cause in _COUNTED else None
    worker = turn.put_worker(replace(worker, process=None, stop=None, jobs=(), ended_by=ended_by, last_reason=reason, memory_bytes=None))
    if cause is Cause.RECYCLE:
        turn.announce("worker_recycled", worker=worker.name, reason=reason)
    if worker.state is WorkerState.QUARANTINED:
        turn.announce("worker_quarantined", worker=worker.name, reason=f"{worker.failures} failures in a row, the last: {reason}")
    handover.holder_gone(turn, worker)
