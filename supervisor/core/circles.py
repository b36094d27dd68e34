"""Waits that would have no end: whoever asks for a device that it holds itself, or that another holds who waits for one of its own."""

from supervisor.core.gpu import called, devices_for, leases_on
from supervisor.core.model import Device, DeviceId, Fleet, Lease, LeaseState, Outside, Waiter


def circle(fleet: Fleet, device: Device, who: Outside, kin: tuple[int, ...], margin_bytes: int) -> str:
    """Return how a wait for this device would come back to whoever asks, in words; empty where it does not. kin: its pid and those of its ancestors."""
    ahead = [(lease, "") for lease in _held(fleet, device.id)]
    seen = set()
    while ahead:
        lease, way = ahead.pop()
        if lease.id in seen:
            continue
        seen.add(lease.id)
        if is_of(fleet, lease, who, kin):
            return f"{way}{called(lease)} holds {lease.device} itself, or started what asks for it: it would wait on itself"
        for waiter in fleet.waiters.values():
            wanted = _wanted(fleet, waiter, margin_bytes)
            if wanted is not None and is_of(fleet, lease, waiter.outside, waiter.kin):
                ahead += [(other, f"{way}{called(lease)} holds {lease.device} and waits for {wanted}; ") for other in _held(fleet, wanted)]
    return ""


def is_of(fleet: Fleet, lease: Lease, who: Outside, kin: tuple[int, ...]) -> bool:
    """Return whether the lease belongs to a program, or to one that it descends from."""
    if lease.worker is not None:
        process = fleet.workers[lease.worker].process
        return process is not None and process.pid in kin
    holder = lease.outside
    if holder is None:
        return False
    return holder.pid in kin if holder.pid else not who.pid and holder.name == who.name


def _held(fleet: Fleet, device: DeviceId) -> list[Lease]:
    """Return what must be given back before the device is anybody else's."""
    return [lease for lease in leases_on(fleet, fleet.devices[device]) if lease.state is not LeaseState.COOLING]


def _wanted(fleet: Fleet, waiter: Waiter, margin_bytes: int) -> DeviceId | None:
    """Return the only device that a program waits for; None where any of several would do, or it waits to load, which ends with gpu.load_timeout."""
    if waiter.purpose != "inference":
        return None
    fitting = [device.id for device in devices_for(fleet, waiter.need_bytes, margin_bytes)]
    return waiter.device if waiter.device in fleet.devices else fitting[0] if len(fitting) == 1 else None
