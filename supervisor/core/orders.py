"""What an operator orders of the devices: to take leases back, and to have a device empty. Nothing is assumed free: each device is measured first."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import handover, ladder, outside
from supervisor.core.actions import MeasureDevice, Reply, SaveLeases
from supervisor.core.claims import RELEASED
from supervisor.core.events import ReleaseRequested
from supervisor.core.gpu import Begin, Blocked, called, device_for, held_by, lease_fields, may_begin, no_device
from supervisor.core.model import Cause, Lease, LeaseState
from supervisor.core.states import HOLDING
from supervisor.core.turn import Turn
from supervisor.core.wishes import give_back

_STALE: Final = frozenset({LeaseState.STALE})


def release(turn: Turn, event: ReleaseRequested) -> None:
    """Take back the leases that are stale, or every one: their fences are old from here on, workers leave and come back, programs are left alone.

    A reset also says that a card which was out of service for a fault of its own was reset: it is in service again, once it is read.

    Who did it and why is said of each lease, and of the order as a whole, also where there was nothing to take back.
    """
    found = tuple(lease for lease in turn.fleet.leases.values() if lease.state in (HOLDING if event.every else _STALE))
    for lease in found:
        turn.fleet = replace(turn.fleet, fence=turn.fleet.fence + 1)
        turn.put_lease(replace(lease, fence=turn.fleet.fence))
    who = f"by {event.by}: {event.why}"
    for lease in found:
        _take(turn, turn.fleet.leases[lease.id], lease, who)
    for device in tuple(turn.fleet.devices.values()):
        if device.fault and not event.every:  # whoever orders it says that the card was reset: the next good reading brings it back
            turn.put_device(replace(device, fault="", fault_failed=False))
        turn.act(MeasureDevice(device=device.id))
    owners = ", ".join(f"{called(lease)} on {lease.device}" for lease in found) or "there was nothing to take back"
    turn.announce("gpu_force_released" if event.every else "gpu_reset", reason=f"{who}; {owners}", fields={"by": event.by, "leases": len(found)})
    turn.act(SaveLeases(then=(Reply(request=event.request, released=found),)))


def _take(turn: Turn, lease: Lease, before: Lease, who: str) -> None:
    turn.announce("lease_forced", worker=lease.worker, reason=who, fields=lease_fields(lease, old_fence=before.fence))
    if lease.worker is None:
        outside.end(turn, lease, RELEASED)
        return
    worker = turn.fleet.workers[lease.worker]
    if worker.process is not None:
        ladder.order_stop(turn, worker, Cause.OPERATOR, f"its device was released {who}")
    else:  # it has the device, and waits for its turn to load
        give_back(turn, worker, f"its device was released {who}")


def empty(turn: Turn) -> None:
    """Begin to empty a device for whoever has just asked for that; where one is in the way who is at work, say so at once."""
    for waiter in [waiter for waiter in turn.fleet.waiters.values() if waiter.purpose == "vacate" and waiter.lease is None]:
        fleet, margin_bytes = turn.fleet, turn.limits.gpu.margin_bytes
        device = fleet.devices.get(waiter.device) if waiter.device else device_for(fleet, waiter.need_bytes, margin_bytes)
        plan = may_begin(fleet, device, weak=False) if device is not None else Blocked(no_device(fleet))
        if device is not None and isinstance(plan, Begin):
            handover.begin_outside(turn, device, waiter, plan)
        elif isinstance(plan, Blocked):
            held = held_by(fleet, device, turn.now_s) if device is not None else []
            message = f"it is not emptied now, for nobody at work is sent away: {'; '.join((plan.sentence, *held))}"
            handover.send_away(turn, waiter, Reply(request=waiter.request, error="busy", message=message))
