"""A device on its way from one holder to the next: asked to leave, gone, measured, granted; or refused with names and numbers."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import generations, sight
from supervisor.core.actions import MeasureDevice
from supervisor.core.events import DeviceMeasured
from supervisor.core.gpu import Begin, leases_on, refusal
from supervisor.core.jobs import failed
from supervisor.core.lifecycle import Sight, advance_device, advance_lease
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.model import (
    Cause,
    Device,
    DeviceSample,
    DeviceState,
    Failure,
    Handover,
    Job,
    Lease,
    LeaseId,
    LeaseState,
    Reason,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.turn import Turn
from supervisor.units import format_size

POLLS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
PROOF_PAUSE_S: Final = 0.1
"""Between the two readings that must both show enough: one alone may fall between a release and a new allocation."""
TIMER_SLACK_S: Final = 0.05
"""By how much a timer may come early; less than the shortest pause between two looks."""


def begin(turn: Turn, device: Device, worker: Worker, job: Job | None, plan: Begin) -> None:
    """Order the device for this worker: a lease that waits, and everyone in its way asked to leave."""
    spec = turn.spec(worker)
    turn.fleet = replace(turn.fleet, serial=turn.fleet.serial + 1)
    lease = Lease(
        id=LeaseId(f"l-{turn.fleet.serial}"),
        device=device.id,
        worker=worker.name,
        need_bytes=spec.gpu_bytes,
        priority=job.priority if job else spec.priority,
        state=LeaseState.WAITING,
        since_s=turn.now_s,
    )
    turn.put_lease(lease)
    leaving = tuple(holder.worker for holder in plan.leaving if turn.fleet.workers[holder.worker].process is not None)
    handover = Handover(lease=lease.id, worker=worker.name, job=job.id if job else None, leaving=leaving, need_bytes=spec.gpu_bytes, ordered_at_s=turn.now_s)
    turn.put_device(replace(device, handover=handover))
    whom = f"{worker.name}{f' ({job.id})' if job else ''}"
    turn.announce(
        "gpu_vacating",
        worker=worker.name,
        job=job.id if job else None,
        reason=f"{device.id} for {whom}: {', '.join(leaving) or 'nobody'} leaves",
        fields={"device": device.id, "need_bytes": spec.gpu_bytes, "leaving": list(leaving)},
    )
    for holder in plan.leaving:
        if holder.state is LeaseState.HELD:
            unused = holder.worker not in leaving  # granted in this very turn: nobody has to be asked
            turn.put_lease(advance_lease(holder, Move.LEAVE if unused else Move.ASK, turn.now_s))
        if turn.fleet.workers[holder.worker].idle:
            generations.order_leave(turn, turn.fleet.workers[holder.worker], Cause.HANDOVER, f"makes room for {whom}")
    turn.wake_in(turn.limits.gpu.vacate_timeout_s)
    left(turn)
    device = turn.fleet.devices[device.id]
    _prove_when_gone(turn, device, device.handover or handover)


def left(turn: Turn) -> None:
    """Note the moment when the last of those who leave was reaped."""
    for device in tuple(turn.fleet.devices.values()):
        handover = device.handover
        if handover is not None and handover.exited_at_s is None:
            states = {turn.fleet.workers[name].state for name in handover.leaving}
            if not states & {WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.UNKILLABLE}:
                turn.put_device(replace(device, handover=replace(handover, exited_at_s=turn.now_s)))


def holder_gone(turn: Turn, worker: Worker) -> None:
    """A holder's tree is proved empty: its lease cools until the memory was seen to be back."""
    lease = turn.fleet.lease_of(worker.name)
    if lease is None or lease.state is LeaseState.COOLING:  # an edit took its need away: the lease of the process before this one still cools
        return
    device = turn.fleet.devices[lease.device]
    if device.state is DeviceState.QUARANTINED:  # it was set aside because of this holder
        device = turn.put_device(advance_device(device, Sight.LET_GO))
    turn.put_lease(advance_lease(lease, Move.LEAVE, turn.now_s))
    if device.handover is None:
        _look(turn, device)
    else:
        _prove_when_gone(turn, device, device.handover)


def _prove_when_gone(turn: Turn, device: Device, handover: Handover) -> None:
    if all(lease.state is LeaseState.COOLING for lease in leases_on(turn.fleet, device)):
        _look(turn, replace(device, handover=replace(handover, gone_at_s=turn.now_s, exited_at_s=handover.exited_at_s or turn.now_s)))


def _look(turn: Turn, device: Device, after_s: float = 0.0) -> None:
    """Keep the device, and have it read after a pause."""
    turn.put_device(replace(device, look_at_s=turn.now_s + after_s))
    turn.act(MeasureDevice(device=device.id, after_s=after_s))


def measured(turn: Turn, event: DeviceMeasured) -> None:
    """Use one reading: it may free what cools, and prove or not prove that the next holder fits."""
    device = turn.fleet.devices.get(event.device)
    if device is None:
        return
    device = sight.seen(turn, device, event)
    if event.sample is not None:
        _free_cooled(turn, device, event.sample)
    if turn.now_s < device.look_at_s - TIMER_SLACK_S or turn.fleet.stopping_since_s is not None:
        return  # somebody else's reading: the next of our own is on its way; and who stops gives nothing away
    handover = device.handover
    if handover is None or handover.gone_at_s is None:
        if handover is None and any(lease.state is LeaseState.COOLING for lease in leases_on(turn.fleet, device)):
            _look(turn, device, min(1.0, turn.limits.gpu.poll_max_s))
        return
    enough = device.state is DeviceState.OK and event.sample is not None and event.sample.free_bytes >= handover.need_bytes + turn.limits.gpu.margin_bytes
    empty = all(lease.state is not LeaseState.COOLING for lease in leases_on(turn.fleet, device))
    if not (enough and empty):
        pause_s = min(POLLS_S[min(handover.polls, len(POLLS_S) - 1)], turn.limits.gpu.poll_max_s)
        _look(turn, replace(device, handover=replace(handover, polls=handover.polls + 1, back_at_s=None)), pause_s)
    elif handover.back_at_s is None:
        _look(turn, replace(device, handover=replace(handover, polls=handover.polls + 1, back_at_s=turn.now_s)), PROOF_PAUSE_S)
    else:
        _grant(turn, device, replace(handover, polls=handover.polls + 1, proved_at_s=turn.now_s))


def _free_cooled(turn: Turn, device: Device, sample: DeviceSample) -> None:
    seen = {holding.worker for holding in sample.holdings if holding.used_bytes != 0}  # None: it is there, and has some
    for lease in leases_on(turn.fleet, device):
        if lease.state is LeaseState.COOLING and lease.worker not in seen:
            turn.drop_lease(advance_lease(lease, Move.RETURN, turn.now_s).id)
            turn.announce("lease_released", worker=lease.worker, fields={"device": device.id, "lease": lease.id, "fence": lease.fence})


def _grant(turn: Turn, device: Device, handover: Handover) -> None:
    fence = turn.fleet.fence + 1
    turn.fleet = replace(turn.fleet, fence=fence)
    lease = advance_lease(turn.fleet.leases[handover.lease], Move.GRANT, turn.now_s)
    turn.put_lease(replace(lease, fence=fence))
    turn.put_device(replace(device, handover=None, last_handover=handover))
    for name in turn.fleet.workers[handover.worker].jobs:
        turn.put_job(replace(turn.fleet.jobs[name], phase="loading"))
    if handover.leaving:
        turn.announce("gpu_vacated", worker=handover.worker, job=handover.job, reason=f"{', '.join(handover.leaving)} left", fields=_evidence(device, handover))
    turn.announce(
        "lease_granted",
        worker=handover.worker,
        job=handover.job,
        reason=f"{format_size(device.sample.free_bytes if device.sample else 0)} free, read twice",
        fields={"device": device.id, "lease": lease.id, "fence": fence, "need_bytes": handover.need_bytes},
    )


def _evidence(device: Device, handover: Handover) -> dict[str, float | int | str]:
    """Return how long each step of a hand-over took since the order, and what was measured at its end."""
    since = handover.ordered_at_s
    steps = {"exit_s": handover.exited_at_s, "gone_s": handover.gone_at_s, "back_s": handover.back_at_s, "proof_s": handover.proved_at_s}
    took: dict[str, float | int | str] = {name: at_s - since for name, at_s in steps.items() if at_s is not None}
    return {"device": device.id, "free_bytes": device.sample.free_bytes if device.sample else 0, "polls": handover.polls, **took}


def started(turn: Turn, worker: Worker) -> None:
    """Note when the worker that a device was handed to was spawned: the end of the hand-over as people see it."""
    for device in tuple(turn.fleet.devices.values()):
        last = device.last_handover
        if last is not None and last.worker == worker.name and last.spawned_at_s is None:
            turn.put_device(replace(device, last_handover=replace(last, spawned_at_s=turn.now_s)))


def withdraw(turn: Turn, worker: WorkerName) -> None:
    """Give up a hand-over that nobody needs any more. Whoever was asked to leave still leaves, and comes back by itself."""
    for device in tuple(turn.fleet.devices.values()):
        if device.handover is not None and device.handover.worker == worker:
            lease = turn.fleet.leases[device.handover.lease]
            turn.drop_lease(advance_lease(lease, Move.WITHDRAW, turn.now_s).id)
            _look(turn, replace(device, handover=None))


def expire(turn: Turn) -> None:
    """Refuse every hand-over that was not proved in time: its job fails with who holds what. Called on every tick."""
    for device in tuple(turn.fleet.devices.values()):
        handover = device.handover
        if handover is None or turn.now_s < handover.ordered_at_s + turn.limits.gpu.vacate_timeout_s:
            continue
        worker = turn.fleet.workers[handover.worker]
        jobs = [turn.fleet.jobs[name] for name in worker.jobs if name in turn.fleet.jobs]
        evidence = refusal(turn.fleet, device, handover, turn.limits.gpu.margin_bytes, turn.now_s)
        withdraw(turn, worker.name)
        turn.put_device(replace(turn.fleet.devices[device.id], hold_off_until_s=turn.now_s + turn.limits.gpu.poll_max_s))
        turn.put_worker(replace(worker, jobs=()))
        turn.announce("gpu_refused", worker=worker.name, job=handover.job, reason=evidence, fields={"device": device.id})
        for job in jobs:
            message = f"the device was not free within {turn.limits.gpu.vacate_timeout_s:g} s: {evidence}; submit it again when the device is free"
            ended = failed(job, Failure(reason=Reason.GPU_REFUSED, message=message, evidence=evidence, phase="vacating"), turn.wall_s)
            turn.save_job(ended, turn.announcement("job_failed", job=job.id, worker=worker.name, reason=message, fields={"kind": job.kind}))
