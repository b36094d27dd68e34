"""What a program outside Warden asks for: the same question again, another one with the same ticket, and what can never be."""

from msgspec.structs import replace

from supervisor.core import handover, tickets
from supervisor.core.actions import Reply, SaveLeases, WatchOwner
from supervisor.core.circles import circle, is_of
from supervisor.core.events import LockRequested
from supervisor.core.gpu import called, device_for, devices_for
from supervisor.core.model import Device, DeviceId, Lease, LeaseId, Outside, Waiter
from supervisor.core.states import HOLDING
from supervisor.core.turn import Turn
from supervisor.units import format_size


def asked(turn: Turn, event: LockRequested) -> None:
    """Let a program wait, say why it cannot, or tell it again what it has."""
    who, fleet = event.outside, turn.fleet
    granted = next((lease for lease in fleet.leases.values() if lease.outside and lease.outside.ticket == who.ticket and lease.state in HOLDING), None)
    before = fleet.waiters.get(who.ticket)
    if (another := _another(granted, before, event)) is not None:
        turn.act(Reply(request=event.request, error="conflict", message=f"ticket {who.ticket} is that of {another}: leave it out to ask for something else"))
        return
    if granted is not None:  # its answer was lost
        turn.act(SaveLeases(then=(Reply(request=event.request, lease=granted.id),)))
        return
    if event.purpose == "load" and event.device is None:
        event = replace(event, device=place_to_load(turn, event.outside, event.kin))
    if refused := _refused(turn, event):
        turn.act(refused)
        return
    if before is not None and before.request:
        turn.act(Reply(request=before.request, error="conflict", message=f"it was asked for again with the same ticket, {who.ticket}"))
    arrived_at_s = tickets.arrival(turn, who.ticket)
    under_way = _under_way(turn, before, event)
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
            lease=under_way,
            message=before.message if before and under_way else "",
            purpose=event.purpose,
            kin=event.kin,
            keep_free_s=event.keep_free_s,
        )
    )
    if who.pid:
        turn.act(WatchOwner(outside=who))
    turn.wake_in(event.timeout_s)


def _another(granted: Lease | None, before: Waiter | None, event: LockRequested) -> str | None:
    """Return what a ticket is that comes with another question than before, in words; None where it is the same one, or may be changed."""
    known = granted or before
    if known is not None and known.purpose != event.purpose:
        return f"a {'lease' if granted else 'wait'} for {known.purpose}"
    if granted is None or granted.outside is None:
        return None
    holder, who = granted.outside, event.outside
    if (holder.pid, holder.start_ticks) != (who.pid, who.start_ticks):
        return f"a lease of {called(granted)}, which is another process"
    same = granted.need_bytes == event.need_bytes and event.device in {None, granted.device}
    return None if same else f"a lease of {format_size(granted.need_bytes)} on {granted.device}"


def _under_way(turn: Turn, before: Waiter | None, event: LockRequested) -> LeaseId | None:
    """Return the lease that is on its way to a program that asks again: it is given up where something else is asked for, and is that of who asks now."""
    if before is None or before.lease is None:
        return None
    if (before.need_bytes, before.device) != (event.need_bytes, event.device):
        handover.withdraw_outside(turn, before.outside.ticket)
        return None
    turn.put_lease(replace(turn.fleet.leases[before.lease], outside=event.outside))
    return before.lease


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
    no = _out_of_order(turn, event, device) or ("" if event.purpose == "load" else _back_to_itself(turn, event))
    return Reply(request=event.request, error="conflict", message=no) if no else None


def _back_to_itself(turn: Turn, event: LockRequested) -> str:
    """Return how a wait would come back to whoever asks, in words: on every device that would do."""
    fleet, margin_bytes = turn.fleet, turn.limits.gpu.margin_bytes
    fitting = [fleet.devices[event.device]] if event.device else devices_for(fleet, event.need_bytes, margin_bytes)
    ways = [circle(fleet, device, event.outside, event.kin, margin_bytes) for device in fitting]
    return ways[0] if all(ways) else ""


def _out_of_order(turn: Turn, event: LockRequested, device: Device) -> str:
    """Return why somebody who loads on the device may ask for nothing more of it; empty for all others. The device comes first, then loading on it."""
    for lease in turn.fleet.leases.values():
        if lease.purpose == "load" and lease.device == device.id and is_of(turn.fleet, lease, event.outside, event.kin):
            more = "it does already" if event.purpose == "load" else "the device is asked for first, then the lock for loading on it"
            return f"{called(lease)} has the lock for loading on {device.id}: {more}"
    return ""


def place_to_load(turn: Turn, who: Outside, kin: tuple[int, ...]) -> DeviceId | None:
    """Return where somebody loads who names no device: on the one that it holds, else on the first that comes."""
    mine = (lease.device for lease in turn.fleet.leases.values() if lease.state in HOLDING and is_of(turn.fleet, lease, who, kin))
    first = device_for(turn.fleet, 0, turn.limits.gpu.margin_bytes)
    return next(mine, first.id if first is not None else None)
