"""Programs outside Warden: they ask for a device, wait for it in the same queue as jobs, hold it, and give it back, by a word or by their end."""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from supervisor.core import handover, loading, questions, sharing
from supervisor.core.actions import ForgetOwner, Reply, SaveLeases, WatchOwner
from supervisor.core.claims import GIVEN_BACK
from supervisor.core.events import LockRequested, LockWithdrawn, OwnerGone, RenewRequested, UnlockRequested
from supervisor.core.gpu import Blocked, called, lease_fields, no_device, refusal
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.line import Claim, choose, in_line, rank_outside
from supervisor.core.model import Device, DeviceId, Lease, LeaseState, Ticket, Waiter
from supervisor.core.states import GRANTED, HOLDING
from supervisor.core.turn import Turn

SENDS_AWAY_S: Final = 1.0
"""A program that waits for less only tries whether the device is free: no resident is ended for what could not be proved in time."""
KEPT_S: Final = 5.0
"""So long a device on its way is kept for a program whose time to wait was over: far longer than it takes to ask again."""


def loaders(turn: Turn) -> list[Waiter]:
    """Return those who wait to load a model, the next first."""
    asked = [waiter for waiter in turn.fleet.waiters.values() if waiter.purpose == "load"]
    line = [waiter if waiter.device else replace(waiter, device=questions.place_to_load(turn, waiter.outside, waiter.kin)) for waiter in asked]
    return sorted(line, key=lambda waiter: rank_outside(waiter, turn.limits.gpu, turn.now_s))


def take(turn: Turn, event: LockRequested | RenewRequested | UnlockRequested | LockWithdrawn | OwnerGone) -> None:
    """Take in an event about a program outside Warden."""
    match event:
        case LockRequested():
            questions.asked(turn, event)
        case RenewRequested():
            _renewed(turn, event)
        case UnlockRequested():
            _unlocked(turn, event)
        case LockWithdrawn():
            _withdrawn(turn, event.ticket)
        case OwnerGone():
            _owner_gone(turn, event.ticket)


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
    away = [lease.owner for lease in plan.leaving if lease.worker is not None and lease.state is not LeaseState.COOLING]
    if away and waiter.timeout_s < SENDS_AWAY_S:
        return f"{', '.join(away)} holds {device.id}, and whoever waits for less than {SENDS_AWAY_S:g} s sends nobody away", None
    handover.begin_outside(turn, device, waiter, plan)
    return "", None


def wants(turn: Turn, device: Device) -> bool:
    """Return whether a program waits that this device could be given to."""
    best = (sharing.offers_to(turn, waiter)[:1] for waiter in in_line(turn.fleet.waiters.values()))
    return any(offer.device.id == device.id for offers in best for offer in offers)


def _renewed(turn: Turn, event: RenewRequested) -> None:
    lease = turn.fleet.leases.get(event.lease)
    if lease is None or lease.outside is None or lease.state not in HOLDING or lease.fence != event.fence:
        turn.act(_too_old(event, lease))
        return
    owner = lease.outside
    ttl_s = owner.ttl_s if event.ttl_s is None else event.ttl_s
    if lease.state is LeaseState.STALE:
        lease = replace(advance_lease(lease, Move.CLEAR, turn.now_s), since_s=lease.since_s)
        turn.announce("lease_renewed", reason=f"{called(lease)} is heard of again", fields=lease_fields(lease))
    turn.put_lease(replace(lease, outside=replace(owner, ttl_s=ttl_s), expires_at_s=turn.now_s + ttl_s if ttl_s else None))
    turn.act(SaveLeases(then=(Reply(request=event.request, lease=lease.id),)))
    if ttl_s:
        turn.wake_in(ttl_s)


def _too_old(event: RenewRequested | UnlockRequested, lease: Lease | None) -> Reply:
    no = f"lease {event.lease} with fence {event.fence}"
    if lease is None:
        why = f"{no} is over: it was given back, or its owner's time was over"
    elif lease.fence != event.fence:
        why = f"{no} is over: {lease.id} has fence {lease.fence} by now, and is {lease.state}"
    else:
        why = f"{no} is over: {lease.ended or 'it ended'}, and its memory is being measured" if lease.state is LeaseState.COOLING else f"{no} is {lease.state}"
    return Reply(request=event.request, error="conflict", message=why)


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
    return next((lease for lease in held if lease.state in HOLDING), None)


def _withdrawn(turn: Turn, ticket: Ticket) -> None:
    waiter, lease = turn.fleet.waiters.get(ticket), _of(turn, ticket)
    if waiter is not None:
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message="nobody waits for the answer any more"))
    elif lease is not None:  # granted as it went away
        end(turn, lease, "nobody heard that it was granted")


def _owner_gone(turn: Turn, ticket: Ticket) -> None:
    waiter, lease = turn.fleet.waiters.get(ticket), _of(turn, ticket)
    if waiter is not None:
        reply = Reply(request=waiter.request, error="failed", message=f"{waiter.outside.words} is gone") if waiter.request else None
        handover.send_away(turn, waiter, reply)
    elif lease is not None:
        end(turn, lease, "its process is gone")


def expire(turn: Turn) -> None:
    """Tell those whose time to wait is over, and end or name the leases that were not renewed, and who loads for too long. Called on every tick."""
    loading.expire(turn)
    for waiter in tuple(turn.fleet.waiters.values()):
        if turn.now_s >= waiter.deadline_at_s:
            _out_of_time(turn, waiter)
    for lease in tuple(turn.fleet.leases.values()):
        if lease.outside is None or lease.state not in GRANTED or lease.expires_at_s is None or turn.now_s < lease.expires_at_s:
            continue
        silence = f"{called(lease)} has not renewed its lease for {lease.outside.ttl_s:g} s"
        if lease.outside.pid:
            turn.put_lease(replace(advance_lease(lease, Move.EXPIRE, turn.now_s), since_s=lease.since_s))  # it is held for as long as before
            turn.announce("lease_stale", reason=f"{silence}; its process lives, so it keeps {lease.device}", fields=lease_fields(lease))
        else:
            what = f"loading on {lease.device}" if lease.purpose == "load" else lease.device
            turn.announce("lease_stale", reason=f"{silence}, and nothing else shows that it lives: {what} is taken back", fields=lease_fields(lease))
            end(turn, lease, f"not renewed for {lease.outside.ttl_s:g} s")


def _out_of_time(turn: Turn, waiter: Waiter) -> None:
    """Tell a waiter that its time is over. A device that is on its way to it is kept for it: else whoever asks for short times would never have any."""
    message = f"the device was not free within {waiter.timeout_s:g} s: {_in_the_way(turn, waiter)}"
    if waiter.lease is None or not waiter.request or waiter.purpose != "inference":
        handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message=message) if waiter.request else None)
        return
    turn.act(Reply(request=waiter.request, error="busy", message=f"{message}; it is kept for {KEPT_S:g} s for whoever asks again with this ticket"))
    turn.put_waiter(replace(waiter, request="", deadline_at_s=turn.now_s + KEPT_S))
    turn.wake_in(KEPT_S)


def _in_the_way(turn: Turn, waiter: Waiter) -> str:
    for device in turn.fleet.devices.values():
        if device.handover is not None and device.handover.waiter == waiter.outside.ticket:
            return refusal(turn.fleet, device, device.handover, turn.limits.gpu.margin_bytes, turn.now_s)
    return waiter.message or "it was not looked at yet"


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
            turn.announce("lease_released", reason=f"there is no {lease.device} any more", fields=lease_fields(lease))
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
        turn.announce("lease_adopted", reason=f"{called(lease)} {does} {lease.device}", fields=lease_fields(lease))
        if lease.outside is not None and lease.outside.pid:
            turn.act(WatchOwner(outside=lease.outside))
