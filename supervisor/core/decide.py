"""The one place where Warden decides: an event comes in, the new fleet and the actions come out. Pure, so that every run can be replayed."""

from collections.abc import Mapping
from typing import assert_never

from msgspec.structs import replace

from supervisor.core import adoption, arrivals, generations, gpu_faults, handover, outside, reload, rests, sight, wishes, work, xids
from supervisor.core.actions import Decision, MeasureDevice, MeasureMemory, Reply, SendWelcome
from supervisor.core.events import (
    AnyEvent,
    BeatHeard,
    CancelRequested,
    ConfigChanged,
    DeviceFaulted,
    DeviceMeasured,
    DevicesFound,
    EvidenceGathered,
    FleetEvent,
    HelloHeard,
    HoldChanged,
    JobAccepted,
    JobEnded,
    JobFinished,
    JobStored,
    JobSubmitted,
    LevelMeasured,
    LockRequested,
    LockWithdrawn,
    MemoryMeasured,
    NoteHeard,
    OfWorker,
    OwnerGone,
    PauseRequested,
    ProgramSeen,
    ReadyHeard,
    RecycleRequested,
    ReleaseMeasured,
    RenewRequested,
    ResumeRequested,
    SaveFailed,
    ShutdownRequested,
    SpawnFailed,
    StartRequested,
    SupervisorStarted,
    Tick,
    TreeGone,
    TreeStuck,
    UnlockRequested,
    WantedChanged,
    WorkerEvent,
    WorkerExited,
    WorkerSpawned,
)
from supervisor.core.health import judge
from supervisor.core.lag import forgive
from supervisor.core.limits import Limits
from supervisor.core.model import Device, Fleet, LeaseState, Peak, Process, Reason, Stop, Wanted, Work, Worker, WorkerName, WorkerState
from supervisor.core.recycle import EARLIEST, due_at_s, insist, is_overdue, recycle
from supervisor.core.settle import may_follow, settle
from supervisor.core.turn import Turn
from supervisor.units import format_size


def first_fleet(
    limits: Limits,
    devices: tuple[Device, ...],
    *,
    fence: int = 0,
    generations: Mapping[str, int] | None = None,
    wanted: Mapping[WorkerName, Wanted] | None = None,
    peaks: Mapping[Work, Peak] | None = None,
) -> Fleet:
    """Return the fleet before the first event: every worker down. Replicas are named sam-0, sam-1.

    fence: the last number ever given to one, or to a lease; generations: the last of each worker, so that none is ever used twice; wanted: the operator's
    last word on workers; peaks: what was learned before.
    """
    last, words = generations or {}, wanted or {}
    workers = {
        name: Worker(
            name=name, model=model, wanted=words.get(name, Wanted.UP if limits.workers[model].autostart else Wanted.DOWN), generation=last.get(name, 0)
        )
        for name, model in reload.places(limits).items()
    }
    forgotten = {WorkerName(name): generation for name, generation in last.items() if name not in workers}
    return Fleet(workers=workers, devices={device.id: device for device in devices}, fence=fence, serial=fence, forgotten=forgotten, peaks=peaks or {})


def decide(fleet: Fleet, event: AnyEvent, limits: Limits, now_s: float) -> Decision:
    """Return the fleet after the event, and what to do. now_s: monotonic seconds, read once for this turn."""
    turn = Turn(fleet, limits, now_s)
    if isinstance(event, OfWorker):
        worker = fleet.workers.get(event.worker)
        if worker is None or worker.generation != event.generation:
            turn.fleet = replace(fleet, dropped=fleet.dropped + 1)
            return turn.end()
        if _of_worker(turn, worker, event):
            settle(turn)
        return turn.end()
    if _of_fleet(turn, event):
        settle(turn, whole=isinstance(event, ConfigChanged))
    return turn.end()


def _of_worker(turn: Turn, worker: Worker, event: WorkerEvent) -> bool:  # noqa: C901, PLR0912  # one row per event
    """Take in an event about one worker. Return whether policies need to look again: a beat touches one worker only."""
    match event:
        case BeatHeard():
            work.beat(turn, worker, event)
            return False
        case LevelMeasured():
            work.level_measured(turn, event)
            return False
        case NoteHeard():
            turn.put_worker(replace(worker, last_error=event.text) if event.level == "error" else worker)
            turn.announce("worker_note", worker=worker.name, reason=event.text)
            if event.reason == Reason.GPU_OOM:
                gpu_faults.while_loading(turn, worker, event.text)
            return False
        case HelloHeard():
            if worker.process is not None:
                process: Process = replace(worker.process, hello_at_s=turn.now_s, beat_at_s=turn.now_s)
                turn.put_worker(replace(worker, process=process))
                if process.adopted:
                    adoption.resynced(turn, worker, event)
            turn.act(SendWelcome(worker=worker.name, generation=worker.generation))
            return worker.process is not None and worker.process.adopted
        case ProgramSeen():
            generations.seen(turn, worker, event)
            return event.ready
        case WorkerSpawned():
            generations.spawned(turn, worker, event)
        case SpawnFailed():
            generations.spawn_failed(turn, worker, event)
        case WorkerExited():
            generations.exited(turn, worker, event)
        case TreeGone():
            generations.gone(turn, worker, event)
        case TreeStuck():
            generations.stuck_reported(turn, worker, event)
        case EvidenceGathered():
            generations.evidence_gathered(turn, worker, event)
        case ReadyHeard():
            generations.ready(turn, worker, event.note)
        case JobAccepted():
            work.accepted(turn, worker, event)
        case JobFinished():
            work.finished(turn, worker, event)
        case JobEnded():
            work.ended(turn, worker, event)
        case ReleaseMeasured():
            work.released(turn, worker, event)
        case _:
            assert_never(event)
    return True


def _of_fleet(turn: Turn, event: FleetEvent) -> bool:  # noqa: C901, PLR0912  # one row per event
    """Take in an event about the whole fleet. Return whether policies need to look again."""
    match event:
        case Tick():
            return _tick(turn, event)
        case SupervisorStarted():
            adoption.take_over(turn, event)
        case DeviceMeasured():
            handover.measured(turn, event)
        case DevicesFound():
            sight.found(turn, event)
        case DeviceFaulted():
            xids.faulted(turn, event)
        case MemoryMeasured():
            _memory(turn, event)
            return False
        case JobSubmitted():
            arrivals.submitted(turn, event)
            return False  # it is nobody's before it is on disk
        case CancelRequested():
            work.cancel(turn, event)
        case PauseRequested():
            rests.pause(turn, event)
        case ResumeRequested():
            rests.resume(turn, event)
        case StartRequested():
            rests.start(turn, event)
        case HoldChanged():
            rests.hold(turn, event)
        case WantedChanged():
            wishes.wanted_changed(turn, event)
        case RecycleRequested():
            wishes.recycle_requested(turn, event)
        case ShutdownRequested():
            turn.fleet = replace(turn.fleet, stopping_since_s=turn.fleet.stopping_since_s or turn.now_s, stopping_now=event.at_once or turn.fleet.stopping_now)
            turn.announce("supervisor_stopping", reason="at once" if event.at_once else f"within {turn.limits.supervisor.shutdown_grace_s:g} s")
            turn.act(Reply(request=event.request))
            outside.stop(turn)
            turn.wake_in(turn.limits.supervisor.shutdown_grace_s)
        case LockRequested() | RenewRequested() | UnlockRequested() | LockWithdrawn() | OwnerGone():
            outside.take(turn, event)
        case ConfigChanged():
            turn.announce("config_reloaded", reason="; ".join(event.changed) or "nothing that counts", fields={"generation": event.generation})
            reload.apply(turn, event)
        case JobStored():
            return arrivals.stored(turn, event)
        case SaveFailed():
            arrivals.save_failed(turn, event)
        case _:
            assert_never(event)
    return True


def _tick(turn: Turn, event: Tick) -> bool:
    """Time passed: judge the workers' clocks, go down the ladders, refuse what was not proved. Return whether something came of it."""
    turn.fleet = replace(turn.fleet, wall_offset_s=event.wall_s - turn.now_s)
    if event.lag_s > 0:
        forgive(turn, event.lag_s)
    old: list[Worker] = []
    resting: list[Worker] = []
    jobs, specs, now_s = turn.fleet.jobs, turn.limits.workers, turn.now_s
    for worker in turn.fleet.workers.values():
        process = worker.process
        if process is None:
            resting.append(worker)
            continue
        spec = specs[worker.model]
        if worker.stop is not None:
            _leaving(turn, worker, worker.stop)
        elif (verdict := judge(worker, jobs, spec, now_s)) is not None:
            generations.condemn(turn, worker, verdict)
        elif process.recycle_asked or now_s - process.spawned_at_s >= EARLIEST * spec.watchdog.recycle_after_s:
            old.append(worker)
    if turn.fleet.stopping_since_s is None:
        if old:
            recycle(turn, old)
        handover.expire(turn)
        outside.expire(turn)
    follows = bool(turn.actions) or event.lag_s > 0 or may_follow(turn, resting)
    if now_s - turn.fleet.health_said_at_s >= turn.limits.supervisor.health_every_s:
        turn.fleet = replace(turn.fleet, health_said_at_s=now_s)
        _say_health(turn)
    return follows


def _leaving(turn: Turn, worker: Worker, stop: Stop) -> None:
    """Take the next step with a worker that was told to leave. One that drains may stall over its last job."""
    verdict = judge(worker, turn.fleet.jobs, turn.spec(worker), turn.now_s) if worker.state is WorkerState.DRAINING and worker.jobs else None
    if verdict is not None:
        generations.condemn(turn, worker, verdict)
    elif is_overdue(turn, worker, stop):
        insist(turn, worker, stop)
    else:
        generations.climb_down(turn, worker, stop)


def _say_health(turn: Turn) -> None:
    """One line for each worker that runs: silence in the log means trouble."""
    for worker in turn.fleet.workers.values():
        process = worker.process
        if process is None or process.pid is None:
            continue
        fields = {"state": worker.state, "pid": process.pid, "age_s": turn.now_s - process.spawned_at_s}
        moved = [job.progress_at_s for job in (turn.fleet.jobs.get(name) for name in worker.jobs) if job is not None and job.progress_at_s is not None]
        readings = {
            "mem_bytes": worker.memory_bytes,
            "beat_s": turn.now_s - process.beat_at_s if process.beat_at_s is not None else None,
            "progress_s": turn.now_s - min(moved) if moved else None,
            "recycle_in_s": max(0.0, due - turn.now_s) if (due := due_at_s(worker, turn.spec(worker).watchdog)) is not None else None,
        }
        known = {name: value for name, value in readings.items() if value is not None}
        turn.announce("worker_healthy", worker=worker.name, job=worker.jobs[0] if worker.jobs else None, fields={**fields, **known})


def _memory(turn: Turn, event: MemoryMeasured) -> None:
    """Keep the readings; one of a worker whose process is gone already says nothing."""
    read = {name: event.workers[name] for name, worker in turn.fleet.workers.items() if worker.process is not None and name in event.workers}
    workers = {name: replace(worker, memory_bytes=read[name]) if name in read else worker for name, worker in turn.fleet.workers.items()}
    turn.fleet = replace(turn.fleet, available_bytes=event.available_bytes, disk_free_bytes=event.disk_free_bytes, workers=workers)
    _disk(turn, event.disk_free_bytes)


def _disk(turn: Turn, free_bytes: int | None) -> None:
    """Say once that the disk is nearly full, and once that it no longer is."""
    floor = turn.limits.supervisor.disk_floor_bytes
    if free_bytes is None or turn.fleet.disk_low is (free_bytes < floor):
        return
    turn.fleet = replace(turn.fleet, disk_low=free_bytes < floor)
    if turn.fleet.disk_low:
        words = f"{format_size(free_bytes)} free on the disk of state_dir, disk_floor is {format_size(floor)}: no new jobs are taken until there is room"
        turn.announce("disk_low", reason=words, fields={"free_bytes": free_bytes})
    else:
        turn.announce("disk_enough", reason=f"{format_size(free_bytes)} free: new jobs are taken again", fields={"free_bytes": free_bytes})


def look(fleet: Fleet) -> tuple[MeasureMemory | MeasureDevice, ...]:
    """Return the readings that are due each look_every: every tree, and every device that nobody polls just now."""
    cooling = {lease.device for lease in fleet.leases.values() if lease.state is LeaseState.COOLING}
    proving = {device.id for device in fleet.devices.values() if device.handover is not None and device.handover.gone_at_s is not None}
    quiet = (device for device in fleet.devices.values() if device.id not in cooling | proving)
    return (MeasureMemory(), *(MeasureDevice(device=device.id) for device in quiet))
