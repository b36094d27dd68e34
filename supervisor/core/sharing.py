"""Several holders of one device, where gpu.sharing is "budget": what is booked for each, what strangers use, and what is left to promise.

Where it is "exclusive" a need is what was declared, and nothing is promised to anybody beside.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from supervisor.core.budget import HEADROOM_BYTES, Books, learned_bytes
from supervisor.core.gpu import Begin, Blocked, devices_for, fits_without, held_outside, leases_on, may_begin, strangers
from supervisor.core.limits import Limits
from supervisor.core.model import Device, DeviceId, DeviceState, Fleet, Job, Lease, LeaseId, LeaseState, Waiter, Worker
from supervisor.core.peaks import peak_of
from supervisor.core.turn import Turn

SETTLES_S: Final = 10.0
"""So long after a lease is free, what nobody is listed for may be its memory on the way back (0.1 to 4 s were seen): nobody is sent away for it."""


def shared(limits: Limits) -> bool:
    """Return whether holders may live together on a device."""
    return limits.gpu.sharing == "budget"


def asked_of(fleet: Fleet, limits: Limits, *, model: str, job: Job | None) -> int:
    """Return what a worker of the model should be given: its declared need, or more where its work was seen to take more.

    One that comes for a single job is given what that takes; a resident, what any of its work does.
    """
    spec = limits.workers[model]
    if not shared(limits):
        return spec.gpu_bytes
    return max(spec.gpu_bytes, learned_bytes(peak_of(fleet, model, None if spec.resident else job)))


class Offer(NamedTuple):
    """A device that could be a newcomer's, and what would be booked there for it."""

    device: Device
    need_bytes: int


def offers(fleet: Fleet, limits: Limits, *, declared_bytes: int, asked_bytes: int, now_s: float, only_on: DeviceId | None = None) -> list[Offer]:
    """Return every device that can ever hold what was declared, the best first: with what is asked, but never more than could be had there.

    The best is one where nobody has to leave; then one that can give all that is asked; then the smallest. only_on: no other will do.
    """
    fitting = [device for device in devices_for(fleet, declared_bytes, limits.gpu.margin_bytes) if only_on in {None, device.id}]
    if not shared(limits):
        return [Offer(device, declared_bytes) for device in fitting]
    rooms = {device.id: room_on(fleet, limits, device=device, now_s=now_s) for device in fitting}

    def worse(device: Device) -> tuple[bool, bool, bool]:
        room_bytes = rooms[device.id]
        return device.state is not DeviceState.OK, room_bytes - sum(booked(fleet, device).values()) < asked_bytes, room_bytes < asked_bytes

    return [Offer(device, _cut(declared_bytes, asked_bytes, rooms[device.id])) for device in sorted(fitting, key=worse)]


def _cut(declared_bytes: int, asked_bytes: int, room_bytes: int) -> int:
    return max(declared_bytes, min(asked_bytes, room_bytes))


def need_of(turn: Turn, one: Job | Waiter, model: str | None, device: Device) -> int:
    """Return what would be booked on a device for a job, or for a program outside Warden. model: of the job."""
    if isinstance(one, Waiter) or model is None:
        return one.need_bytes if isinstance(one, Waiter) else 0
    asked_bytes, declared_bytes = asked_of(turn.fleet, turn.limits, model=model, job=one), turn.limits.workers[model].gpu_bytes
    return _cut(declared_bytes, asked_bytes, room_on(turn.fleet, turn.limits, device=device, now_s=turn.now_s)) if shared(turn.limits) else declared_bytes


def wanted(fleet: Fleet, limits: Limits, job: Job, now_s: float) -> tuple[Device | None, int]:
    """Return the device that a job waits for, the best that could be its, and how much it is to be given of it; 0 for one that needs none."""
    model = limits.model_for(job.kind)
    declared_bytes = limits.workers[model].gpu_bytes if model else 0
    if model is None or not declared_bytes:
        return None, 0
    asked_bytes = asked_of(fleet, limits, model=model, job=job)
    found = offers(fleet, limits, declared_bytes=declared_bytes, asked_bytes=asked_bytes, now_s=now_s, only_on=job.only_on)
    return found[0] if found else (None, declared_bytes)


def offers_for(turn: Turn, worker: Worker, job: Job | None) -> list[Offer]:
    """Return the devices for a worker that is to start."""
    asked_bytes = asked_of(turn.fleet, turn.limits, model=worker.model, job=job)
    return offers(
        turn.fleet, turn.limits, declared_bytes=turn.spec(worker).gpu_bytes, asked_bytes=asked_bytes, now_s=turn.now_s, only_on=job.only_on if job else None
    )


def offers_to(turn: Turn, waiter: Waiter) -> list[Offer]:
    """Return the devices for a program outside Warden: the one that it names, or any that fits."""
    if waiter.device is not None:
        return [Offer(device, waiter.need_bytes) for device in turn.fleet.devices.values() if device.id == waiter.device]
    return offers(turn.fleet, turn.limits, declared_bytes=waiter.need_bytes, asked_bytes=waiter.need_bytes, now_s=turn.now_s)


def plan(fleet: Fleet, limits: Limits, offer: Offer, *, weak: bool, now_s: float) -> Begin | Blocked:
    """Return whether a newcomer may have what it is offered now, and who leaves for it."""
    return may_begin(fleet, offer.device, weak=weak, books=books(fleet, limits, device=offer.device, need_bytes=offer.need_bytes, now_s=now_s))


def books(fleet: Fleet, limits: Limits, *, device: Device, need_bytes: int, now_s: float) -> Books | None:
    """Return the device as a newcomer finds it; None where it is one holder's at a time, as it is for a newcomer that says no need."""
    if not shared(limits) or not need_bytes:
        return None
    return Books(need_bytes=need_bytes, room_bytes=room_on(fleet, limits, device=device, now_s=now_s), booked=booked(fleet, device))


def booked(fleet: Fleet, device: Device) -> dict[LeaseId, int]:
    """Return what each lease on the device has: its need, or more where more is used. One without a need has all of it."""
    return {lease.id: max(lease.need_bytes or device.total_bytes, used(device, lease)) for lease in leases_on(fleet, device)}


def used(device: Device, lease: Lease) -> int:
    """Return what the holder of a lease uses by the last reading; 0 where that is not told."""
    if device.sample is None or not device.sample.by_process:
        return 0
    if lease.worker is None:
        seen = held_outside(device, lease)
        return (seen.used_bytes or 0) if seen is not None else 0
    return sum(holding.used_bytes or 0 for holding in device.sample.holdings if holding.worker == lease.worker)


def room_on(fleet: Fleet, limits: Limits, *, device: Device, now_s: float) -> int:
    """Return how much there is for all leases together: what strangers use, and the margin, are taken off."""
    sample = device.sample
    if sample is None:
        return device.total_bytes - limits.gpu.margin_bytes
    return min(device.total_bytes, sample.used_bytes + sample.free_bytes) - _foreign(fleet, device, now_s) - limits.gpu.margin_bytes


def _foreign(fleet: Fleet, device: Device, now_s: float) -> int:
    """Return what is used by nobody who has a lease. Where only totals are told, the holders are taken to use what they were given."""
    sample, leases = device.sample, leases_on(fleet, device)
    if sample is None:
        return 0
    if not sample.by_process:
        return max(0, sample.used_bytes - sum(lease.need_bytes for lease in leases))
    listed = sum(holding.used_bytes or 0 for holding in strangers(fleet, device))
    if device.freed_at_s is not None and now_s < device.freed_at_s + SETTLES_S:
        return listed
    # what cools may be listed no more and be in use all the same: it is booked for its lease
    return max(listed, sample.used_bytes - sum(max(used(device, lease), _cools(lease)) for lease in leases))


def _cools(lease: Lease) -> int:
    return lease.need_bytes if lease.state is LeaseState.COOLING else 0


def promised(fleet: Fleet, limits: Limits, *, device: Device, awaits: Iterable[LeaseId]) -> int:
    """Return how much of what is free was promised to those who stay beside a newcomer, and is not used by them yet. awaits: those who do not stay."""
    sample = device.sample
    if not shared(limits) or sample is None:
        return 0
    gone = set(awaits)
    staying = [lease for lease in leases_on(fleet, device) if lease.id not in gone]
    if not sample.by_process:
        return max(0, sum(lease.need_bytes for lease in staying) - sample.used_bytes)
    return sum(max(0, lease.need_bytes - used(device, lease)) for lease in staying)


def covers(fleet: Fleet, limits: Limits, *, worker: Worker, job: Job, now_s: float) -> bool:
    """Return whether what a worker was given is enough for a job, by what such work was seen to take.

    Also where it is not, but a fresh process would be given hardly more.
    """
    lease = fleet.lease_of(worker.name)
    if not shared(limits) or lease is None or peak_of(fleet, worker.model, job) <= lease.need_bytes:
        return True
    room_bytes = room_on(fleet, limits, device=fleet.devices[lease.device], now_s=now_s)
    return min(asked_of(fleet, limits, model=worker.model, job=job), room_bytes) < lease.need_bytes + HEADROOM_BYTES


def holds_up(turn: Turn, worker: Worker, device: Device, need_bytes: int) -> bool:
    """Return whether more work for a worker on the device would keep whoever is first in line for it waiting: nobody else is in its way who works."""
    found = books(turn.fleet, turn.limits, device=device, need_bytes=need_bytes, now_s=turn.now_s)
    return found is None or fits_without(turn.fleet, device, worker.name, found)


def may_stay(fleet: Fleet, limits: Limits, lease: Lease) -> bool:
    """Return whether a holder that was taken over from an earlier supervisor may stay beside those that are there already."""
    device = fleet.devices[lease.device]
    others = leases_on(fleet, device)
    if not others or not (shared(limits) and lease.need_bytes):
        return not others
    return lease.need_bytes + sum(booked(fleet, device).values()) + limits.gpu.margin_bytes <= device.total_bytes
