"""What readings say of a device: whether it can be given to anyone, which proof there is of its memory, and which devices there are."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import peaks
from supervisor.core.events import DeviceMeasured, DevicesFound
from supervisor.core.gpu import leases_on
from supervisor.core.lifecycle import DEVICE, Sight, advance_device
from supervisor.core.model import Device, DeviceState
from supervisor.core.turn import Turn
from supervisor.core.xids import back_in_service

_SIGHTS: Final = {DeviceState.LOST: Sight.LOSE, DeviceState.UNVERIFIABLE: Sight.DOUBT, DeviceState.UNRESPONSIVE: Sight.HANG}
EVENTS: Final = {
    DeviceState.OK: "device_back",
    DeviceState.LOST: "device_lost",
    DeviceState.UNVERIFIABLE: "device_unverifiable",
    DeviceState.UNRESPONSIVE: "device_unresponsive",
}
"""What is said when a device comes into a state by a reading."""


def seen(turn: Turn, device: Device, event: DeviceMeasured) -> Device:
    """Keep one reading of a device, or why there was none. A good one brings back a device that had failed; what it was that failed is said once."""
    before = device.state
    device = replace(device, sample=event.sample, trouble=event.error)
    sample = event.sample
    if sample is not None:
        device = replace(device, total_bytes=sample.total_bytes or device.total_bytes, proof=sample.proof or device.proof)
    sight = Sight.READ if sample is not None else _SIGHTS.get(event.state) if event.state is not None else None
    device, sight = back_in_service(device, sight)
    if sight is not None and sight in DEVICE[before]:
        device = advance_device(device, sight)
    if device.state is not before:
        reason = device.trouble or f"it is read again, after it was {before}"
        turn.announce(EVENTS[device.state], reason=reason, fields={"device": device.id})
    peaks.measured(turn, device)
    return turn.put_device(device)


def found(turn: Turn, event: DevicesFound) -> None:
    """Take in devices that answer by now; what stood for them goes, unless somebody has a lease on it."""
    known = turn.fleet.devices
    for device in event.devices:
        before = known.get(device.id)
        if before is not None and not before.total_bytes:  # it was held, and its driver did not answer at the start
            turn.put_device(replace(before, name=device.name, total_bytes=device.total_bytes, proof=device.proof))
        if before is None:
            turn.put_device(device)
            turn.announce("device_found", reason=f"{device.name} answers", fields={"device": device.id, "total_bytes": device.total_bytes})
    stand_in = known.get(event.instead_of)
    if stand_in is not None and stand_in.handover is None and not leases_on(turn.fleet, stand_in):
        turn.fleet = replace(turn.fleet, devices={name: device for name, device in turn.fleet.devices.items() if name != stand_in.id})
