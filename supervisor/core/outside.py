"""Programs outside Warden: they ask for a device, wait for it in the same queue as jobs, hold it, and give it back, by a word or by their end."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from supervisor.core import handover, sharing, tickets
from supervisor.core.actions import ForgetOwner, Reply, SaveLeases, WatchOwner
from supervisor.core.claims import GIVEN_BACK
from supervisor.core.events import LockRequested, LockWithdrawn, OwnerGone, RenewRequested, UnlockRequested
from supervisor.core.gpu import Blocked, called, device_for, no_device, refusal
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.line import Claim, choose
from supervisor.core.model import Device, DeviceId, Lease, LeaseState, Ticket, Waiter
from supervisor.core.turn import Turn
from supervisor.units import format_size

_HOLDS = frozenset({LeaseState.HELD, LeaseState.YIELDING, LeaseState.STALE})


def in_line(waiters: Iterable[Waiter]) -> list[Waiter]:
    """Return those whose hand-over has not begun."""
    return [waiter for waiter in waiters if waiter.lease is None]


def take(turn: Turn, event: LockRequested | RenewRequested | UnlockRequested | LockWithdrawn | OwnerGone) -> None:
    """Take in an event about a program outside Warden."""
    match event:
        case LockRequested():
            _asked(turn, event)
        case RenewRequested():
            _renewed(turn, event)
        case UnlockRequested():
            _unlocked(turn, event)
        case LockWithdrawn():
            _withdrawn(turn, event.ticket)
        case OwnerGone():
            _owner_gone(turn, event.ticket)


def _asked(turn: Turn, event: LockRequested) -> None:
    who, fleet = event.outside, turn.fleet
    granted = next((lease for lease in fleet.leases.values() if lease.outside and lease.outside.ticket == who.ticket and lease.state in _HOLDS), None)
    if granted is not None:  # its answer was lost
        turn.act(SaveLeases(then=(Reply(request=event.request, lease=granted.id),)))
        return
    if refused := _refused(turn, event):
        turn.act(refused)
        return
    before = fleet.waiters.get(who.ticket)
    if before is not None:
        turn.act(Reply(request=before.request, error="conflict", message=f"it was asked for again with the same ticket, {who.ticket}"))
    arrived_at_s = tickets.arrival(turn, who.ticket)
    turn.put_waiter(
        Waiter(
            outside=who,
            request=event.request,
            priority=event.priority,
            need_bytes=event.need_bytes,
            arrived_at_s=arrived_at_s,
            deadline_at_s=turn.now_s + event.timeout_s,
            timeout_s=event.timeout_s,
            device=event.device,
            lease=before.lease if before else None,
            message=before.message if before else "",
        )
    )
    if who.pid:
        turn.act(WatchOwner(outside=who))
    turn.wake_in(event.timeout_s)


def _refused(turn: Turn, event: LockRequested) -> Reply | None:
    """Return the answer to what can never be granted, or not before its own end; None for what may wait."""
    fleet, margin_bytes = turn.fleet, turn.limits.gpu.margin_bytes
    if fleet.stopping_since_s is not None:
        return Reply(request=event.request, error="stopping", message="the supervisor is stopping: it gives no device away")
    if event.device is not None and event.device not in fleet.devices:
        known = ", ".join(fleet.devices) or "none"
        return Reply(request=event.request, error="unknown", message=f"there is no device {event.device}; there are {known}")
    device = fleet.devices[event.device] if event.device else device_for(fleet, event.need_bytes, margin_bytes)
    if device is None or (device.total_bytes and device.total_bytes < event.need_bytes + margin_bytes):
        need = f"{format_size(event.need_bytes)} and {format_size(margin_bytes)} of margin"
        if not fleet.devices:
            return Reply(request=event.request, error="invalid", message='there is no device: gpu.backend is "none"')
        if all(one.total_bytes for one in fleet.devices.values()):
            sizes = ", ".join(f"{one.id} has {format_size(one.total_bytes)}" for one in fleet.devices.values())
            return Reply(request=event.request, error="invalid", message=f"{need} can never be granted: {sizes}")
        return None
    for lease in fleet.leases.values():
        if lease.device == device.id and lease.state in _HOLDS and _own(turn, lease, event):
            waits = f"{called(lease)} holds {device.id} itself, or started what asks for it: it would wait on itself"
            return Reply(request=event.request, error="conflict", message=waits)
    return None


def _own(turn: Turn, lease: Lease, event: LockRequested) -> bool:
    """Return whether the lease belongs to whoever asks, or to one that it descends from: such a wait would have no end."""
    if lease.worker is not None:
        process = turn.fleet.workers[lease.worker].process
        return process is not None and process.pid in event.kin
    holder, who = lease.outside, event.outside
    if holder is None:
        return False
    return holder.pid in event.kin if holder.pid else not who.pid and holder.name == who.name


def place(turn: Turn, waiter: Waiter, first: Mapping[DeviceId, Claim]) -> tuple[str, DeviceId | None]:
    """Begin the hand-over to a waiter, or return the sentence that says who is in the way, and the device in whose line it stands.

    first: who waits first for each device, before it.
    """
    offers = sharing.offers_to(turn, waiter)
    if not offers:
        return no_device(turn.fleet), None
    (device, _), plan = choose(turn.fleet, turn.limits, offers, first, turn.now_s)
    if isinstance(plan, Blocked):
        return plan.sentence, device.id
    handover.begin_outside(turn, device, waiter, plan)
    return "", None


def wants(turn: Turn, device: Device) -> bool:
    """Return whether a program waits that this device could be given to."""
    best = (sharing.offers_to(turn, waiter)[:1] for waiter in in_line(turn.fleet.waiters.values()))
    return any(offer.device.id == device.id for offers in best for offer in offers)


def _renewed(turn: Turn, event: RenewRequested) -> None:
    lease = turn.fleet.leases.get(event.lease)
    if lease is None or lease.outside is None or lease.state not in _HOLDS or lease.fence != event.fence:
        turn.act(_too_old(event, lease))
        return
    owner = lease.outside
    ttl_s = owner.ttl_s if event.ttl_s is None else event.ttl_s
    if lease.state is LeaseState.STALE:
        lease = advance_lease(lease, Move.CLEAR, turn.now_s)
        turn.announce("lease_renewed", reason=f"{called(lease)} is heard of again", fields=_fields(lease))
    turn.put_lease(replace(lease, outside=replace(owner, ttl_s=ttl_s), expires_at_s=turn.now_s + ttl_s if ttl_s else None))
    turn.act(SaveLeases(then=(Reply(request=event.request, lease=lease.id),)))
    if ttl_s:
        turn.wake_in(ttl_s)


def _too_old(event: RenewRequested | UnlockRequested, lease: Lease | None) -> Reply:
    found = f"it has fence {lease.fence} and is {lease.state}" if lease is not None else "it was given back, or its owner's time was over"
    return Reply(request=event.request, error="conflict", message=f"lease {event.lease} with fence {event.fence} holds no more: {found}")


def _unlocked(turn: Turn, event: UnlockRequested) -> None:
    lease = turn.fleet.leases.get(event.lease)
    if lease is None or lease.outside is None or lease.fence != event.fence or lease.state is LeaseState.WAITING:
        turn.act(_too_old(event, lease))
        return
    if lease.state is not LeaseState.COOLING:
        _end(turn, lease, GIVEN_BACK)
    turn.act(SaveLeases(then=(Reply(request=event.request, lease=lease.id),)))


def _end(turn: Turn, lease: Lease, why: str) -> None:
    """A lease is over: the device is measured before anybody else gets it."""
    lease = turn.put_lease(replace(lease, ended=why))
    if lease.outside is not None:
        turn.act(ForgetOwner(ticket=lease.outside.ticket))
    handover.cool(turn, lease)


def _of(turn: Turn, ticket: Ticket) -> Lease | None:
    held = (lease for lease in turn.fleet.leases.values() if lease.outside is not None and lease.outside.ticket == ticket)
    return next((lease for lease in held if lease.state in _HOLDS), None)


def _withdrawn(turn: Turn, ticket: Ticket) -> None:
    waiter, lease = turn.fleet.waiters.get(ticket), _of(turn, ticket)
    if waiter is not None:
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message="nobody waits for the answer any more"))
    elif lease is not None:  # granted as it went away
        _end(turn, lease, "nobody heard that it was granted")


def _owner_gone(turn: Turn, ticket: Ticket) -> None:
    waiter, lease = turn.fleet.waiters.get(ticket), _of(turn, ticket)
    if waiter is not None:
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="failed", message=f"{waiter.outside.words} is gone"))
    elif lease is not None:
        _end(turn, lease, "its process is gone")


def expire(turn: Turn) -> None:
    """Tell those whose time to wait is over, and end or name the leases that were not renewed. Called on every tick."""
    for waiter in tuple(turn.fleet.waiters.values()):
        if turn.now_s >= waiter.deadline_at_s:
            message = f"the device was not free within {waiter.timeout_s:g} s: {_in_the_way(turn, waiter)}"
            handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message=message))
    for lease in tuple(turn.fleet.leases.values()):
        if lease.outside is None or lease.state is not LeaseState.HELD or lease.expires_at_s is None or turn.now_s < lease.expires_at_s:
            continue
        silence = f"{called(lease)} has not renewed its lease for {lease.outside.ttl_s:g} s"
        if lease.outside.pid:
            turn.put_lease(advance_lease(lease, Move.EXPIRE, turn.now_s))
            turn.announce("lease_stale", reason=f"{silence}; its process lives, so it keeps {lease.device}", fields=_fields(lease))
        else:
            turn.announce("lease_stale", reason=f"{silence}, and nothing else shows that it lives: {lease.device} is taken back", fields=_fields(lease))
            _end(turn, lease, f"not renewed for {lease.outside.ttl_s:g} s")


def _in_the_way(turn: Turn, waiter: Waiter) -> str:
    for device in turn.fleet.devices.values():
        if device.handover is not None and device.handover.waiter == waiter.outside.ticket:
            return refusal(turn.fleet, device, device.handover, turn.limits.gpu.margin_bytes, turn.now_s)
    return waiter.message or "it was not looked at yet"


def _fields(lease: Lease) -> dict[str, str | int]:
    return {"device": lease.device, "owner": called(lease), "lease": lease.id, "fence": lease.fence}


def stop(turn: Turn) -> None:
    """The supervisor stops: nobody waits any longer. Whoever holds a device keeps it, and the next supervisor takes that over."""
    for waiter in tuple(turn.fleet.waiters.values()):
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="stopping", message="the supervisor is stopping: ask again when it is back"))


def take_back(turn: Turn, leases: Iterable[Lease]) -> None:
    """Take over what programs outside Warden held under the supervisor before: each is watched again, and one that is gone is found out at once."""
    for lease in leases:
        if lease.outside is None or lease.state in {LeaseState.WAITING, LeaseState.FREE}:
            continue
        if lease.device not in turn.fleet.devices:
            turn.announce("lease_released", reason=f"there is no {lease.device} any more", fields=_fields(lease))
            continue
        ttl_s = lease.outside.ttl_s
        left_s = ttl_s if lease.expires_at_s is None else min(ttl_s, lease.expires_at_s - turn.now_s)  # an instant of another boot may lie far ahead
        lease = turn.put_lease(replace(lease, since_s=min(lease.since_s, turn.now_s), expires_at_s=turn.now_s + left_s if ttl_s else None))  # noqa: PLW2901  # as it now is
        if lease.state is LeaseState.COOLING:
            handover.look(turn, turn.fleet.devices[lease.device])
            continue
        turn.announce("lease_adopted", reason=f"{called(lease)} holds {lease.device}", fields=_fields(lease))
        if lease.outside is not None and lease.outside.pid:
            turn.act(WatchOwner(outside=lease.outside))
