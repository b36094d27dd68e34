"""What follows once something changed: jobs find workers, workers find devices, whoever is needed starts and whoever is not leaves."""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from supervisor.core import brake, generations, handover, ladder, loading, outside, sharing
from supervisor.core.actions import SendJob
from supervisor.core.admission import room_bytes
from supervisor.core.gpu import Begin, startable, wants_back
from supervisor.core.jobs import rests
from supervisor.core.leaving import leave
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import (
    BRAKING,
    WITH_PROCESS,
    Cause,
    Device,
    Job,
    JobStatus,
    Reason,
    Wanted,
    Worker,
    WorkerState,
)
from supervisor.core.placing import assign, behind_others
from supervisor.core.reload import forget_retired
from supervisor.core.states import GRANTED
from supervisor.core.turn import Turn


def settle(turn: Turn, *, whole: bool = False) -> None:
    """Apply every policy to the fleet as it now is.

    A worker with a process that this turn did not change was settled when it was changed last, and is left out; whole: nobody is, for the limits are new.
    """
    if turn.fleet.stopping_since_s is not None:
        leave(turn)
        return
    forget_retired(turn)
    assign(turn)
    _bring_residents_back(turn)
    loading.serve(turn, outside.loaders(turn))
    before = turn.before.workers
    for name, worker in turn.fleet.workers.items():
        if whole or worker.process is None or before.get(name) is not worker:
            _start_or_retire(turn, worker)
            _send(turn, turn.fleet.workers[name])


def may_follow(turn: Turn, resting: Iterable[Worker]) -> bool:
    """Return whether time alone may have brought something that `settle` has to see: a place in the queue, a comeback, the end of a refusal's pause.

    resting: the workers without a process.
    """
    fleet, now_s = turn.fleet, turn.now_s
    if fleet.stopping_since_s is not None or fleet.waiters or any(job.status is JobStatus.QUEUED for job in fleet.jobs.values()):
        return True
    if any(worker.state in _WAITING and now_s >= worker.retry_at_s for worker in resting):
        return True
    held_off = [device for device in fleet.devices.values() if device.hold_off_until_s and now_s >= device.hold_off_until_s]
    for device in held_off:
        turn.put_device(replace(device, hold_off_until_s=0.0))
    return bool(held_off)


_WAITING: Final = frozenset({WorkerState.BACKOFF, WorkerState.QUARANTINED})


def _bring_residents_back(turn: Turn) -> None:
    """Give a device that nobody waits for to the most urgent resident that is away."""
    gone = [worker for worker in turn.fleet.workers.values() if worker.process is None and turn.spec(worker).gpu_bytes]
    away = [
        worker
        for worker in gone
        if wants_back(worker, turn.limits, turn.now_s) and turn.fleet.lease_of(worker.name) is None and not behind_others(turn, worker)
    ]
    for worker in sorted(away, key=lambda worker: (turn.spec(worker).priority, worker.name)):
        for offer in sharing.offers_for(turn, worker, None):
            device = offer.device
            if turn.now_s < device.hold_off_until_s or _somebody_waits(turn, device) or outside.wants(turn, device):
                continue
            plan = sharing.plan(turn.fleet, turn.limits, offer, weak=True, now_s=turn.now_s)
            if isinstance(plan, Begin):
                handover.begin(turn, device, worker, None, plan, need_bytes=offer.need_bytes)
                break


def _somebody_waits(turn: Turn, device: Device) -> bool:
    """Return whether a queued job needs a device, could use this one, and some worker could do it soon."""
    models = {
        worker.model
        for worker in turn.fleet.workers.values()
        if 0 < turn.spec(worker).gpu_bytes <= device.total_bytes - turn.limits.gpu.margin_bytes
        and worker.wanted is Wanted.UP
        and worker.state not in (WorkerState.QUARANTINED, WorkerState.UNKILLABLE)
        and not behind_others(turn, worker)
        and (not worker.jobs or turn.device_of(worker) in {None, device.id})
    }
    kinds = {kind for model in models for kind in turn.limits.workers[model].serves}
    queued = (job for job in turn.fleet.jobs.values() if job.status is JobStatus.QUEUED and job.only_on in {None, device.id})
    return any(job.kind in kinds and _stands(turn, job) for job in queued)


def _stands(turn: Turn, job: Job) -> bool:
    """Return whether a queued job will be placed as soon as it can be. After a failure it is back so soon that nobody should come in between.

    One that waits for the machine's memory has no use for a device: whoever comes meanwhile leaves for it again, and its memory counts as available then.
    """
    if job.reason is Reason.WAITING_FOR_MEMORY and turn.fleet.zone not in BRAKING:
        return False
    return not turn.fleet.held and rests(job, turn.now_s, turn.wall_s) in (Reason.NONE, Reason.RETRY_BACKOFF)


def _start_or_retire(turn: Turn, worker: Worker) -> None:
    spec = turn.spec(worker)
    if worker.wanted is Wanted.DOWN:
        coming_back = (
            worker.state is WorkerState.STARTING and worker.process is not None and worker.process.adopted
        )  # its work is saved when it can be asked to
        if worker.state in WITH_PROCESS and worker.stop is None and not coming_back:
            why = "the configuration no longer names it" if worker.retired else "the operator wants it down"
            ladder.order_leave(turn, worker, Cause.OPERATOR, why, boundary=True)
        elif may(worker, Signal.REST):
            turn.put_worker(replace(move(worker, Signal.REST, turn.now_s), failures=0))
        return
    needed = spec.resident or not spec.serves or bool(worker.jobs)
    if startable(worker, turn.now_s):
        if turn.fleet.zone in BRAKING and worker.model != brake.API:
            return  # it would eat what the brake is about to free
        if needed and (_granted(turn, worker) if spec.gpu_bytes else bool(worker.jobs) or not behind_others(turn, worker)):
            generations.start(turn, worker)
        elif not needed and may(worker, Signal.REST):
            turn.put_worker(move(worker, Signal.REST, turn.now_s))
    elif worker.state is WorkerState.READY and not needed:
        ladder.order_leave(turn, worker, Cause.IDLE, "no job is left for it, and it is not resident")


def _granted(turn: Turn, worker: Worker) -> bool:
    lease = turn.fleet.lease_of(worker.name)
    return lease is not None and lease.state in GRANTED and loading.may_load(turn, worker)


def _send(turn: Turn, worker: Worker) -> None:
    """Send the jobs that waited for the worker to be ready."""
    if worker.state not in (WorkerState.READY, WorkerState.BUSY) or worker.stop is not None:
        return
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is JobStatus.PREPARING and job.sent_at_s is None:
            if worker.state is WorkerState.READY:
                worker = turn.put_worker(move(worker, Signal.JOB, turn.now_s))
            job = replace(job, sent_at_s=turn.now_s, phase="starting", device=turn.device_of(worker))
            room = room_bytes(turn, worker, job)
            order = SendJob(
                worker=worker.name, generation=worker.generation, job=job.id, attempt=job.attempt, kind=job.kind, params=job.params, memory_room_bytes=room
            )
            turn.save_job(job, order)
