"""The one place where Warden decides: an event comes in, the new fleet and the actions come out. Pure, so that every run can be replayed."""

from collections.abc import Mapping
from typing import assert_never

from msgspec.structs import replace

from supervisor.core import (
    adoption,
    arrivals,
    brake,
    generations,
    gpu_faults,
    guarding,
    handover,
    ladder,
    notices,
    orders,
    outside,
    refusals,
    reload,
    rests,
    sight,
    wishes,
    work,
    xids,
)
from supervisor.core.actions import Decision, Reply, SendWelcome
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
    GuardActed,
    GuardKilled,
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
    MemorySampled,
    NoteHeard,
    OfWorker,
    OutsidersNamed,
    OwnerGone,
    PauseRequested,
    ProgramSeen,
    ReadyHeard,
    RecycleRequested,
    ReleaseMeasured,
    ReleaseRequested,
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
from supervisor.core.model import Device, Fleet, Peak, Process, Reason, Stop, Wanted, Work, Worker, WorkerName, WorkerState
from supervisor.core.recycle import EARLIEST, insist, is_overdue, recycle
from supervisor.core.settle import may_follow, settle
from supervisor.core.turn import Turn


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
            ladder.stuck_reported(turn, worker, event)
        case EvidenceGathered():
            ladder.evidence_gathered(turn, worker, event)
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
        case MemorySampled() | OutsidersNamed() | GuardActed():
            return brake.take(turn, event)
        case GuardKilled():
            guarding.killed(turn, event)
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
            orders.empty(turn)
        case ReleaseRequested():
            orders.release(turn, event)
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
            ladder.condemn(turn, worker, verdict)
        elif process.recycle_asked or now_s - process.spawned_at_s >= EARLIEST * spec.watchdog.recycle_after_s:
            old.append(worker)
    if turn.fleet.stopping_since_s is None:
        if old:
            recycle(turn, old)
        refusals.expire(turn)
        outside.expire(turn)
    follows = bool(turn.actions) or event.lag_s > 0 or may_follow(turn, resting)
    if now_s - turn.fleet.health_said_at_s >= turn.limits.supervisor.health_every_s:
        turn.fleet = replace(turn.fleet, health_said_at_s=now_s)
        notices.health(turn)
    return follows


def _leaving(turn: Turn, worker: Worker, stop: Stop) -> None:
    """Take the next step with a worker that was told to leave. One that drains may stall over its last job."""
    verdict = judge(worker, turn.fleet.jobs, turn.spec(worker), turn.now_s) if worker.state is WorkerState.DRAINING and worker.jobs else None
    if verdict is not None:
        ladder.condemn(turn, worker, verdict)
    elif is_overdue(turn, worker, stop):
        insist(turn, worker, stop)
    else:
        ladder.climb_down(turn, worker, stop)
