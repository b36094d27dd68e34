"""Which readings are due each look_every."""

from supervisor.core.actions import MeasureDevice, MeasureMemory
from supervisor.core.model import Fleet, LeaseState


def look(fleet: Fleet) -> tuple[MeasureMemory | MeasureDevice, ...]:
    """Return them: every tree, and every device that nobody polls just now."""
    cooling = {lease.device for lease in fleet.leases.values() if lease.state is LeaseState.COOLING and fleet.devices[lease.device].handover is None}
    proving = {device.id for device in fleet.devices.values() if device.handover is not None and device.handover.gone_at_s is not None}
    quiet = (device for device in fleet.devices.values() if device.id not in cooling | proving)
    return (MeasureMemory(), *(MeasureDevice(device=device.id) for device in quiet))
