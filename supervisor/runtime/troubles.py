"""What is not as it should be, in sentences."""

from supervisor.core.gpu import called, held_by, stranger_words
from supervisor.core.health import clocks
from supervisor.core.limits import Limits
from supervisor.core.memory import lines
from supervisor.core.model import Device, DeviceState, Fleet, Lease, LeaseState, Wanted, Worker, WorkerState, Zone
from supervisor.units import format_size

_IN = {WorkerState.BACKOFF: "in backoff"}
_LINE_KEYS = {Zone.EMERGENCY: "emergency_below", Zone.FLOOR: "hard_floor"}


def _helpless(worker: Worker) -> bool:
    return worker.process is not None and worker.process.memory.helpless


def unwell(fleet: Fleet, limits: Limits, now_s: float) -> list[str]:
    """Return what is not as it should be, one sentence each; empty when all is well."""
    found = []
    for worker in fleet.workers.values():
        if worker.wanted is Wanted.DOWN:
            continue
        if worker.state in (WorkerState.BACKOFF, WorkerState.QUARANTINED, WorkerState.UNKILLABLE):
            found.append(f"{worker.name} is {_IN.get(worker.state, worker.state)}: {worker.last_reason or 'no reason known'}")
        over = (clock for clock in clocks(worker, fleet.jobs, limits.workers[worker.model]) if clock.over_s(now_s) > 0)
        found += [f"{worker.name}: its {clock.cause} clock is over its limit of {clock.limit_s:g} s" for clock in over]
    for device in fleet.devices.values():
        found += device_unwell(device, fleet=fleet, limits=limits, now_s=now_s)
    if fleet.zone in (Zone.EMERGENCY, Zone.FLOOR) and fleet.available_bytes is not None:
        line = lines(limits.memory, fleet.memory_bytes).of(fleet.zone)
        found.append(f"memory: {format_size(fleet.available_bytes)} available, {_LINE_KEYS[fleet.zone]} is {format_size(line)}")
    found += [f"{worker.name} uses more than the limits of [memory] by being there at all" for worker in fleet.workers.values() if _helpless(worker)]
    if fleet.disk_low:
        free, floor = format_size(fleet.disk_free_bytes or 0), format_size(limits.supervisor.disk_floor_bytes)
        found.append(f"no job is taken: {free} free on the disk of state_dir, disk_floor is {floor}")
    if fleet.stopping_since_s is not None:
        found.append("the supervisor is stopping")
    return found


def device_unwell(device: Device, *, fleet: Fleet, limits: Limits, now_s: float) -> list[str]:
    """Return what is not as it should be with one device and whoever has it, one sentence each; empty when all is well."""
    found = [f"{device.id} is {device.state}{f': {device.trouble}' if device.trouble else ''}"] if device.state is not DeviceState.OK else []
    on_it = [lease for lease in fleet.leases.values() if lease.device == device.id]
    for lease in on_it:
        if lease.state is LeaseState.STALE:
            over_s = now_s - (lease.expires_at_s or now_s)
            found.append(f"{called(lease)} holds {device.id}{_to_load(lease)}, and does not renew its lease, {over_s:.0f} s over its time")
    late = [lease for lease in on_it if lease.state is LeaseState.COOLING and now_s >= lease.since_s + limits.gpu.vacate_timeout_s]
    there = "; ".join(held_by(fleet, device, now_s)) if late else ""
    found += [f"the memory of {called(lease)} on {device.id} is not back {now_s - lease.since_s:.0f} s after its end: {there}" for lease in late]
    found += [f"{device.id} is contaminated: {stranger_words(one)} without a lease; it is waited for, not ended" for one in device.intruders]
    return found


def _to_load(lease: Lease) -> str:
    return " to load a model" if lease.purpose == "load" else ""
