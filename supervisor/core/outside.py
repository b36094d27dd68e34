"""Programs outside Warden: they ask for a device, wait for it in the same queue as jobs, hold it, and give it back, by a word or by their end."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from supervisor.core import handover, loading, sharing, tickets
from supervisor.core.actions import ForgetOwner, Reply, SaveLeases, WatchOwner
from supervisor.core.circles import circle, is_of
from supervisor.core.claims import GIVEN_BACK
from supervisor.core.events import LockRequested, LockWithdrawn, OwnerGone, RenewRequested, UnlockRequested
from supervisor.core.gpu import Blocked, called, device_for, no_device, refusal
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.line import Claim, choose, rank_outside
from supervisor.core.model import Device, DeviceId, Lease, LeaseState, Ticket, Waiter
from supervisor.core.turn import Turn
from supervisor.units import format_size

_HOLDS = frozenset({LeaseState.HELD, LeaseState.YIELDING, LeaseState.STALE, LeaseState.CONTAMINATED})

_RENEWED = frozenset({LeaseState.HELD, LeaseState.CONTAMINATED})


def in_line(waiters: Iterable[Waiter]) -> list[Waiter]:
    """Return those who wait for a device to use, and whose hand-over has not begun."""
    return [waiter for waiter in waiters if waiter.lease is None and waiter.purpose == "inference"]


def loaders(turn: Turn) -> list[Waiter]:
    """Return those who wait to load a model, the next first."""
    line = (waiter for waiter in turn.fleet.waiters.values() if waiter.purpose == "load")
    return sorted(line, key=lambda waiter: rank_outside(waiter, turn.limits.gpu, turn.now_s))


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
    before = fleet.waiters.get(who.ticket)
    known = granted or before
    if known is not None and known.purpose != event.purpose:
        message = f"ticket {who.ticket} is that of a {'lease' if granted else 'wait'} for {known.purpose}: leave it out to ask for {event.purpose}"
        turn.act(Reply(request=event.request, error="conflict", message=message))
        return
    if granted is not None:  # its answer was lost
        turn.act(SaveLeases(then=(Reply(request=event.request, lease=granted.id),)))
        return
    if event.purpose == "load" and event.device is None:
        event = replace(event, device=_place_to_load(turn, event))
    if refused := _refused(turn, event):
        turn.act(refused)
        return
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
            purpose=event.purpose,
            kin=event.kin,
            keep_free_s=event.keep_free_s,
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
    no = _out_of_order(turn, event, device) or ("" if event.purpose == "load" else circle(fleet, device, event.outside, event.kin, margin_bytes))
    return Reply(request=event.request, error="conflict", message=no) if no else None


def _out_of_order(turn: Turn, event: LockRequested, device: Device) -> str:
    """Return why somebody who loads on the device may ask for nothing more of it; empty for all others. The device comes first, then loading on it."""
    for lease in turn.fleet.leases.values():
        if lease.purpose == "load" and lease.device == device.id and is_of(turn.fleet, lease, event.outside, event.kin):
            more = "it does already" if event.purpose == "load" else "the device is asked for first, then the lock for loading on it"
            return f"{called(lease)} has the lock for loading on {device.id}: {more}"
    return ""


def _place_to_load(turn: Turn, event: LockRequested) -> DeviceId | None:
    """Return where somebody loads who names no device: on the one that it holds, else on the first that comes."""
    mine = (lease.device for lease in turn.fleet.leases.values() if lease.state in _HOLDS and is_of(turn.fleet, lease, event.outside, event.kin))
    first = device_for(turn.fleet, 0, turn.limits.gpu.margin_bytes)
    return next(mine, first.id if first is not None else None)


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
        end(turn, lease, GIVEN_BACK)
    turn.act(SaveLeases(then=(Reply(request=event.request, lease=lease.id),)))


def end(turn: Turn, lease: Lease, why: str) -> None:
    """A lease is over: the device is measured before anybody else gets it."""
    if lease.purpose == "load":
        loading.end(turn, replace(lease, ended=why))
        return
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
        end(turn, lease, "nobody heard that it was granted")


def _owner_gone(turn: Turn, ticket: Ticket) -> None:
    waiter, lease = turn.fleet.waiters.get(ticket), _of(turn, ticket)
    if waiter is not None:
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="failed", message=f"{waiter.outside.words} is gone"))
    elif lease is not None:
        end(turn, lease, "its process is gone")


def expire(turn: Turn) -> None:
    """Tell those whose time to wait is over, and end or name the leases that were not renewed, and who loads for too long. Called on every tick."""
    loading.expire(turn)
    for waiter in tuple(turn.fleet.waiters.values()):
        if turn.now_s >= waiter.deadline_at_s:
            message = f"the device was not free within {waiter.timeout_s:g} s: {_in_the_way(turn, waiter)}"
            handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message=message))
    for lease in tuple(turn.fleet.leases.values()):
        if lease.outside is None or lease.state not in _RENEWED or lease.expires_at_s is None or turn.now_s < lease.expires_at_s:
            continue
        silence = f"{called(lease)} has not renewed its lease for {lease.outside.ttl_s:g} s"
        if lease.outside.pid:
            turn.put_lease(advance_lease(lease, Move.EXPIRE, turn.now_s))
            turn.announce("lease_stale", reason=f"{silence}; its process lives, so it keeps {lease.device}", fields=_fields(lease))
        else:
            what = f"loading on {lease.device}" if lease.purpose == "load" else lease.device
            turn.announce("lease_stale", reason=f"{silence}, and nothing else shows that it lives: {what} is taken back", fields=_fields(lease))
            end(turn, lease, f"not renewed for {lease.outside.ttl_s:g} s")


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
        lease = replace(lease, since_s=min(lease.since_s, turn.now_s), expires_at_s=turn.now_s + left_s if ttl_s else None, idle_since_s=None)  # noqa: PLW2901  # as it now is
        if lease.until_s is not None:
            lease = replace(lease, until_s=min(lease.until_s, turn.now_s + turn.limits.gpu.load_timeout_s))  # noqa: PLW2901
        turn.put_lease(lease)
        if lease.state is LeaseState.COOLING:
            handover.look(turn, turn.fleet.devices[lease.device])
            continue
        does = "loads on" if lease.purpose == "load" else "holds"
        turn.announce("lease_adopted", reason=f"{called(lease)} {does} {lease.device}", fields=_fields(lease))
        if lease.outside is not None and lease.outside.pid:
            turn.act(WatchOwner(outside=lease.outside))
