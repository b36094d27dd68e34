"""A device on its way from one holder to the next: asked to leave, gone, measured, granted; or refused with names and numbers."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import ladder, sharing, sight, tickets, usage
from supervisor.core.actions import ForgetOwner, MeasureDevice, Reply, SaveLeases
from supervisor.core.claims import LIVES_ON
from supervisor.core.events import DeviceMeasured
from supervisor.core.gpu import Begin, held_outside, lease_fields, leases_on, who_leaves
from supervisor.core.lifecycle import Sight, advance_device, advance_lease
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.model import (
    Cause,
    Device,
    DeviceSample,
    DeviceState,
    Handover,
    Job,
    Lease,
    LeaseId,
    LeaseState,
    Ticket,
    Waiter,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.states import GRANTED
from supervisor.core.turn import Turn
from supervisor.units import format_size

POLLS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
PROOF_PAUSE_S: Final = 0.1
"""Between the two readings that must both show enough: one alone may fall between a release and a new allocation."""
TIMER_SLACK_S: Final = 0.05
"""By how much a timer may come early; less than the shortest pause between two looks."""


def begin(turn: Turn, device: Device, worker: Worker, job: Job | None, plan: Begin, *, need_bytes: int) -> None:
    """Order so much of the device for this worker: a lease that waits, and everyone in its way asked to leave."""
    spec, name = turn.spec(worker), job.id if job else None
    lease = new_lease(turn, device, need_bytes, job.priority if job else spec.priority)
    turn.put_lease(replace(lease, worker=worker.name))
    handover = Handover(lease=lease.id, worker=worker.name, job=name, leaving=_leaving(turn, plan), need_bytes=need_bytes, ordered_at_s=turn.now_s)
    _order(turn, device, handover, plan, f"{worker.name}{f' ({name})' if name else ''}")


def begin_outside(turn: Turn, device: Device, waiter: Waiter, plan: Begin) -> None:
    """Order the device for a program outside Warden, in the same way."""
    lease = new_lease(turn, device, waiter.need_bytes, waiter.priority)
    turn.put_lease(replace(lease, outside=waiter.outside, waited_s=turn.now_s - waiter.arrived_at_s))
    turn.put_waiter(
        replace(
            waiter,
            lease=lease.id,
            message=f"{device.id} is being handed to it: {who_leaves(_leaving(turn, plan))}, and its memory is measured",
        )
    )
    who = waiter.outside
    handover = Handover(lease=lease.id, waiter=who.ticket, name=who.words, leaving=_leaving(turn, plan), need_bytes=waiter.need_bytes, ordered_at_s=turn.now_s)
    _order(turn, device, handover, plan, who.words)


def new_lease(turn: Turn, device: Device, need_bytes: int, priority: int) -> Lease:
    """Return a lease that waits, under a name that was never used."""
    turn.fleet = replace(turn.fleet, serial=turn.fleet.serial + 1)
    name = LeaseId(f"l-{turn.fleet.serial}")
    return Lease(id=name, device=device.id, need_bytes=need_bytes, priority=priority, state=LeaseState.WAITING, since_s=turn.now_s)


def _leaving(turn: Turn, plan: Begin) -> tuple[WorkerName, ...]:
    return tuple(holder.worker for holder in plan.leaving if holder.worker is not None and turn.fleet.workers[holder.worker].process is not None)


def _order(turn: Turn, device: Device, handover: Handover, plan: Begin, whom: str) -> None:
    if device.handover is not None:  # to a resident that nobody waits for
        give_up(turn, device, device.handover)
        device = turn.fleet.devices[device.id]
    handover = replace(handover, awaits=tuple(lease.id for lease in plan.leaving))
    turn.put_device(replace(device, handover=handover))
    turn.announce(
        "gpu_vacating",
        worker=handover.worker,
        job=handover.job,
        reason=f"{device.id} for {whom}: {who_leaves(handover.leaving)}",
        fields={"device": device.id, "need_bytes": handover.need_bytes, "leaving": list(handover.leaving)},
    )
    for holder in plan.leaving:
        if holder.worker is None:  # its program is gone, its memory is still to be seen back
            continue
        if holder.state in GRANTED:
            unused = holder.worker not in handover.leaving  # granted in this very turn: nobody has to be asked
            turn.put_lease(advance_lease(holder, Move.LEAVE if unused else Move.ASK, turn.now_s))
        if turn.fleet.workers[holder.worker].idle:
            ladder.order_leave(turn, turn.fleet.workers[holder.worker], Cause.HANDOVER, f"makes room for {whom}")
    turn.wake_in(turn.limits.gpu.vacate_timeout_s)
    left(turn)
    device = turn.fleet.devices[device.id]
    _prove_when_gone(turn, device, device.handover or handover)


def left(turn: Turn) -> None:
    """Note the moment when the last of those who leave was reaped."""
    for device in tuple(turn.fleet.devices.values()):
        handover = device.handover
        if handover is not None and handover.exited_at_s is None:
            states = {turn.fleet.workers[name].state for name in handover.leaving if name in turn.fleet.workers}
            if not states & {WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.UNKILLABLE}:
                turn.put_device(replace(device, handover=replace(handover, exited_at_s=turn.now_s)))


def holder_gone(turn: Turn, worker: Worker) -> None:
    """A holder's tree is proved empty: its lease cools until the memory was seen to be back."""
    lease = turn.fleet.lease_of(worker.name)
    if lease is None or lease.state is LeaseState.COOLING:  # an edit took its need away: the lease of the process before this one still cools
        return
    device = turn.fleet.devices[lease.device]
    if device.state is DeviceState.QUARANTINED:  # it was set aside because of this holder
        device = advance_device(device, Sight.LET_GO)
        turn.put_device(advance_device(device, Sight.LOSE) if device.fault else device)
    cool(turn, lease)


def cool(turn: Turn, lease: Lease) -> None:
    """Whoever had the lease has it no more: it cools until the memory was seen to be back."""
    turn.put_lease(advance_lease(lease, Move.LEAVE, turn.now_s))
    device = turn.fleet.devices[lease.device]
    if device.handover is None:
        look(turn, device)
    else:
        _prove_when_gone(turn, device, device.handover)


def _prove_when_gone(turn: Turn, device: Device, handover: Handover) -> None:
    if handover.gone_at_s is None and all(lease.state is LeaseState.COOLING for lease in _awaited(turn, device, handover)):
        look(turn, replace(device, handover=replace(handover, gone_at_s=turn.now_s, exited_at_s=handover.exited_at_s or turn.now_s)))


def _awaited(turn: Turn, device: Device, handover: Handover) -> list[Lease]:
    """Return the leases that have to be over before the device is given away, and are not."""
    return [lease for lease in leases_on(turn.fleet, device) if lease.id in handover.awaits]


def look(turn: Turn, device: Device, after_s: float = 0.0, *, watch: bool = False) -> None:
    """Keep the device, and have it read after a pause; watch: sooner, where something came back meanwhile."""
    at_s = turn.now_s + after_s
    turn.put_device(replace(device, look_at_s=at_s))
    turn.act(MeasureDevice(device=device.id, after_s=after_s, watch=at_s if watch else None))


def measured(turn: Turn, event: DeviceMeasured) -> None:
    """Use one reading: it may free what cools, and prove or not prove that the next holder fits."""
    device = turn.fleet.devices.get(event.device)
    if device is None:
        return
    device = sight.seen(turn, device, event)
    if event.sample is not None:
        _free_cooled(turn, device, event.sample)
        device = usage.compare(turn, turn.fleet.devices[device.id])
    too_early = turn.now_s < device.look_at_s - TIMER_SLACK_S and event.watch != device.look_at_s
    if too_early or turn.fleet.stopping_since_s is not None:
        return  # somebody else's reading: the next of our own is on its way; and who stops gives nothing away
    handover = device.handover
    if handover is None or handover.gone_at_s is None:
        if handover is None and any(lease.state is LeaseState.COOLING for lease in leases_on(turn.fleet, device)):
            look(turn, device, min(1.0, turn.limits.gpu.poll_max_s))
        return
    needed_bytes = handover.need_bytes + turn.limits.gpu.margin_bytes + promised(turn, device, handover)
    enough = device.state is DeviceState.OK and event.sample is not None and event.sample.free_bytes >= needed_bytes
    if not enough or _awaited(turn, device, handover):
        pause_s = min(POLLS_S[min(handover.polls, len(POLLS_S) - 1)], turn.limits.gpu.poll_max_s)
        look(turn, replace(device, handover=replace(handover, polls=handover.polls + 1, back_at_s=None)), pause_s, watch=True)
    elif handover.back_at_s is None:
        look(turn, replace(device, handover=replace(handover, polls=handover.polls + 1, back_at_s=turn.now_s)), PROOF_PAUSE_S)
    elif handover.waiter is not None and not turn.fleet.waiters[handover.waiter].request:  # it is to ask again
        look(turn, device, POLLS_S[2])
    else:
        _grant(turn, device, replace(handover, polls=handover.polls + 1, proved_at_s=turn.now_s))


def promised(turn: Turn, device: Device, handover: Handover) -> int:
    """Return how much of what is free belongs to those who stay beside the newcomer."""
    return sharing.promised(turn.fleet, turn.limits, device=device, awaits=handover.awaits)


def _free_cooled(turn: Turn, device: Device, sample: DeviceSample) -> None:
    seen = {holding.worker for holding in (*sample.holdings, *sample.openers) if holding.worker is not None and holding.used_bytes != 0}  # None: it is there
    for lease in leases_on(turn.fleet, device):
        if lease.state is not LeaseState.COOLING or lease.worker in seen:
            continue
        if lease.outside is not None and lease.ended not in LIVES_ON and held_outside(device, lease) is not None:
            continue  # the driver still lists the process that ended; one that lives on may keep a context, and the next holder's proof decides
        turn.drop_lease(advance_lease(lease, Move.RETURN, turn.now_s).id)
        turn.put_device(replace(turn.fleet.devices[device.id], freed_at_s=turn.now_s))
        turn.announce("lease_released", worker=lease.worker, reason=lease.ended, fields=lease_fields(lease))


def _grant(turn: Turn, device: Device, handover: Handover) -> None:
    waiter = turn.fleet.waiters[handover.waiter] if handover.waiter is not None else None
    if waiter is not None and waiter.purpose == "vacate":
        _keep_free(turn, device, handover, waiter)
        return
    fence = turn.fleet.fence + 1
    turn.fleet = replace(turn.fleet, fence=fence)
    lease = advance_lease(turn.fleet.leases[handover.lease], Move.GRANT, turn.now_s)
    lease = turn.put_lease(replace(lease, fence=fence))
    turn.put_device(replace(device, handover=None, last_handover=handover))
    for name in turn.fleet.workers[handover.worker].jobs if handover.worker else ():
        turn.put_job(replace(turn.fleet.jobs[name], phase="loading"))
    if waiter is not None:
        answer(turn, waiter, lease)
    if handover.leaving:
        turn.announce("gpu_vacated", worker=handover.worker, job=handover.job, reason=f"{', '.join(handover.leaving)} left", fields=_evidence(device, handover))
    turn.announce(
        "lease_granted",
        worker=handover.worker,
        job=handover.job,
        reason=f"{format_size(device.sample.free_bytes if device.sample else 0)} free, read twice",
        fields=lease_fields(lease, need_bytes=handover.need_bytes),
    )


def _keep_free(turn: Turn, device: Device, handover: Handover, waiter: Waiter) -> None:
    """The device is proved empty for somebody who wants it so: nobody is granted it, and residents stay away for a while unless somebody waits for them."""
    turn.drop_lease(advance_lease(turn.fleet.leases[handover.lease], Move.WITHDRAW, turn.now_s).id)
    turn.drop_waiter(waiter.outside.ticket)
    tickets.forget(turn, waiter.outside.ticket)
    turn.put_device(replace(device, handover=None, last_handover=handover, hold_off_until_s=turn.now_s + waiter.keep_free_s))
    turn.wake_in(waiter.keep_free_s)
    who = f"{', '.join(handover.leaving)} left" if handover.leaving else "nobody had to leave"
    turn.announce("gpu_vacated", reason=f"{who}, for {waiter.outside.words}", fields=_evidence(device, handover))
    turn.act(Reply(request=waiter.request, message=who))


def answer(turn: Turn, waiter: Waiter, lease: Lease) -> None:
    """Tell a program outside Warden that it has the device, once that is on disk: a supervisor that is killed meanwhile must not grant it to another."""
    ttl_s = waiter.outside.ttl_s
    turn.put_lease(replace(lease, expires_at_s=turn.now_s + ttl_s if ttl_s else None))
    turn.drop_waiter(waiter.outside.ticket)
    tickets.forget(turn, waiter.outside.ticket)
    turn.act(SaveLeases(then=(Reply(request=waiter.request, lease=lease.id),)))
    if ttl_s:
        turn.wake_in(ttl_s)


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
            give_up(turn, device, device.handover)
    lease = turn.fleet.lease_of(worker)
    if lease is not None and lease.state in GRANTED and turn.fleet.workers[worker].process is None:
        cool(turn, lease)  # it waited for its turn to load


def withdraw_outside(turn: Turn, ticket: Ticket) -> None:
    """Give up the hand-over to a program that does not want it so any more."""
    for device in tuple(turn.fleet.devices.values()):
        if device.handover is not None and device.handover.waiter == ticket:
            give_up(turn, device, device.handover)


def give_up(turn: Turn, device: Device, handover: Handover) -> None:
    """End a hand-over without a grant, and look at what is there."""
    turn.drop_lease(advance_lease(turn.fleet.leases[handover.lease], Move.WITHDRAW, turn.now_s).id)
    look(turn, replace(device, handover=None))


def send_away(turn: Turn, waiter: Waiter, reply: Reply | None) -> None:
    """Let a program wait no longer. Its ticket keeps its age for a while; reply: None where nobody is there to hear it."""
    ticket = waiter.outside.ticket
    withdraw_outside(turn, ticket)
    turn.drop_waiter(ticket)
    tickets.keep(turn, waiter)
    turn.act(ForgetOwner(ticket=ticket))
    if reply is not None:
        turn.act(reply)
