"""Who gets a device next, and who must leave for it. Pure: it may be asked any number of times."""

from collections.abc import Collection
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.budget import NONE_LOST, Books, Share, leavers
from supervisor.core.limits import MIB, Limits
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Fleet,
    Handover,
    Holding,
    Lease,
    LeaseState,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.units import format_size


class Begin(Struct, frozen=True):
    """A hand-over may begin: these holders leave (some are on their way already)."""

    leaving: tuple[Lease, ...]


class Blocked(Struct, frozen=True):
    """It may not, and this sentence says who is in the way."""

    sentence: str


UNLISTED_BYTES: Final = 256 * MIB
"""What a driver keeps for itself is less, as a rule."""

_ON_ITS_WAY_OUT = frozenset({WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.EXITED, WorkerState.DOWN, WorkerState.BACKOFF, WorkerState.QUARANTINED})


def leases_on(fleet: Fleet, device: Device) -> tuple[Lease, ...]:
    """Return the leases that stand between this device and a newcomer. One for loading alone is in nobody's way."""
    on_it = (lease for lease in fleet.leases.values() if lease.device == device.id and lease.purpose != "load")
    return tuple(lease for lease in on_it if lease.state not in (LeaseState.FREE, LeaseState.WAITING))


def may_begin(fleet: Fleet, device: Device, *, weak: bool, books: Books | None = None) -> Begin | Blocked:  # noqa: C901  # one row per reason
    """Return whether the device may be handed to a newcomer now.

    An idle holder leaves for anyone who waits; a busy one finishes first. A weak claim (a resident that wants to be back, with no job) sends nobody away.
    books: of a device whose holders live together; nobody leaves then whom the newcomer fits beside.
    """
    holders = leases_on(fleet, device)
    stuck = [lease.worker for lease in holders if lease.worker and fleet.workers[lease.worker].state is WorkerState.UNKILLABLE]
    if device.state is not DeviceState.OK or stuck:
        why = f"{', '.join(stuck)} cannot be killed" if stuck else device.trouble
        return Blocked(f"{device.id} is {device.state}{f': {why}' if why else ''}")
    if device.trouble:  # it may be over with the next reading; until then nobody is sent away for a proof that may never come
        return Blocked(f"{device.id} cannot be read just now: {device.trouble}")
    if device.handover is not None and (weak or not may_be_taken_over(fleet, device.handover)):
        return Blocked(f"{device.id} is being handed to {device.handover.to}")
    if books is not None:
        return _beside(fleet, device, holders, books=books, weak=weak)
    for lease in holders:
        if lease.worker is None:  # it is asked by nobody of ours to leave
            if lease.state is LeaseState.COOLING:
                continue
            return Blocked(f"{called(lease)} holds {device.id}{', and does not renew its lease' if lease.state is LeaseState.STALE else ''}")
        holder = fleet.workers[lease.worker]
        if _leaves_already(holder):
            continue
        if not holder.idle:
            return Blocked(f"{holder.name} holds {device.id} and {_work(holder, lease)}")
        if weak:
            return Blocked(f"{holder.name} holds {device.id}")
    return Begin(holders)


def may_be_taken_over(fleet: Fleet, handover: Handover) -> bool:
    """Return whether whoever waits for the device goes before the one that it is being handed to: a resident that comes back, with no job."""
    return handover.worker is not None and not fleet.workers[handover.worker].jobs


def _leaves_already(holder: Worker) -> bool:
    return holder.state in _ON_ITS_WAY_OUT and not holder.jobs


def _work(holder: Worker, lease: Lease) -> str:
    words = f"is busy with {', '.join(holder.jobs)}" if holder.jobs else f"is {holder.state}"
    return words + (", and leaves at its next checkpoint" if lease.state is LeaseState.YIELDING else "")


def _beside(fleet: Fleet, device: Device, holders: tuple[Lease, ...], *, books: Books, weak: bool) -> Begin | Blocked:
    """Return who leaves so that a newcomer fits beside the others, or who it does not fit beside."""
    shares = shares_of(fleet, device, books=books, weak=weak)
    leaving = leavers(shares, books.need_bytes, books.room_bytes)
    if leaving is not None:
        gone = {share.lease for share in leaving}
        return Begin(tuple(lease for lease in holders if lease.id in gone))
    stay = [share for share in shares if share.harm is None]
    left = max(0, books.room_bytes - sum(share.booked_bytes for share in stay))
    beside = ", ".join(f"{share.who} ({format_size(share.booked_bytes)})" for share in stay)
    others = strangers_on(fleet, device, device.sample) + _unlisted(device.sample) if device.sample else []
    first = f"{format_size(books.need_bytes)} do not fit on {device.id}{f' beside {beside}' if beside else ''}: {format_size(left)} left after the margin"
    return Blocked("; ".join([first, *others]))


def fits_without(fleet: Fleet, device: Device, worker: WorkerName, books: Books) -> bool:
    """Return whether a newcomer would fit once this worker, and everybody who is idle, had left."""
    lease = fleet.lease_of(worker)
    shares = [replace(one, harm=NONE_LOST) if lease and one.lease == lease.id else one for one in shares_of(fleet, device, books=books, weak=False)]
    return leavers(shares, books.need_bytes, books.room_bytes) is not None


def shares_of(fleet: Fleet, device: Device, *, books: Books, weak: bool) -> list[Share]:
    """Return what each lease on a device has, and how much is lost if its holder leaves."""
    return [_share(fleet, lease, booked_bytes=books.booked[lease.id], weak=weak) for lease in leases_on(fleet, device)]


def _share(fleet: Fleet, lease: Lease, *, booked_bytes: int, weak: bool) -> Share:
    """Return what a lease has, and how much is lost if its holder leaves."""
    if lease.worker is None:
        harm = NONE_LOST if lease.state is LeaseState.COOLING else None
        return Share(lease=lease.id, who=called(lease), booked_bytes=booked_bytes, harm=harm)
    holder = fleet.workers[lease.worker]
    if _leaves_already(holder):
        return Share(lease=lease.id, who=holder.name, booked_bytes=booked_bytes, harm=NONE_LOST)
    if not holder.idle:
        return Share(lease=lease.id, who=f"{holder.name}, which {_work(holder, lease)}", booked_bytes=booked_bytes, harm=None)
    return Share(lease=lease.id, who=holder.name, booked_bytes=booked_bytes, harm=None if weak else (1, -lease.priority))


def who_leaves(names: tuple[WorkerName, ...]) -> str:
    """Return who is asked to leave, as a half sentence."""
    return f"{', '.join(names) or 'nobody'} {'leave' if len(names) > 1 else 'leaves'}"


def called(lease: Lease) -> str:
    """Return what the owner of a lease is called in a sentence."""
    return lease.outside.words if lease.outside else lease.owner


def lease_fields(lease: Lease, **more: str | int) -> dict[str, str | int]:
    """Return what every line of the log has that is about a lease. more: what this one has as well."""
    return {"device": lease.device, "owner": called(lease), "lease": lease.id, "fence": lease.fence, **more}


def wants_back(worker: Worker, limits: Limits, now_s: float) -> bool:
    """Return whether a resident without a lease should be up again, if nobody waits for the device."""
    spec = limits.workers[worker.model]
    return spec.resident and worker.wanted is Wanted.UP and startable(worker, now_s)


def startable(worker: Worker, now_s: float) -> bool:
    """Return whether a new generation may start now."""
    match worker.state:
        case WorkerState.DOWN:
            return True
        case WorkerState.BACKOFF | WorkerState.QUARANTINED:
            return now_s >= worker.retry_at_s
        case _:
            return False


def device_for(fleet: Fleet, need_bytes: int, margin_bytes: int) -> Device | None:
    """Return the device with the best fit: the smallest total that can ever hold the need, and one that works before one that does not."""
    return next(iter(devices_for(fleet, need_bytes, margin_bytes)), None)


def devices_for(fleet: Fleet, need_bytes: int, margin_bytes: int) -> list[Device]:
    """Return every device that can ever hold the need, the best fit first."""
    fitting = [device for device in fleet.devices.values() if device.total_bytes >= need_bytes + margin_bytes]
    return sorted(fitting, key=lambda device: (device.state is not DeviceState.OK, device.total_bytes, device.id))


def wrong_device(fleet: Fleet, name: str, need_bytes: int, margin_bytes: int) -> str:
    """Return why a job can never have the device that it names; empty where it may."""
    device = fleet.devices.get(DeviceId(name))
    if not need_bytes:
        return f"its worker needs no device, and {name} was named: leave it out"
    if device is None:
        return f"there is no device {name}; there are {', '.join(fleet.devices) or 'none'}"
    if device.total_bytes and device.total_bytes < need_bytes + margin_bytes:
        return f"{name} has {format_size(device.total_bytes)}, {format_size(need_bytes)} and {format_size(margin_bytes)} of margin are needed"
    return ""


def no_device(fleet: Fleet) -> str:
    """Return why `device_for` found none: each device that does not answer has its trouble, and may yet turn out to be large enough."""
    unknown = [f"{device.id} is {device.state}: {device.trouble or 'not read yet'}" for device in fleet.devices.values() if not device.total_bytes]
    return "; ".join(unknown) or "no device is large enough"


def refusal(fleet: Fleet, device: Device, handover: Handover, margin_bytes: int, now_s: float, *, promised_bytes: int = 0) -> str:
    """Return why a hand-over that was not proved in time is refused: who holds what, in which state, since when.

    promised_bytes: what is free and was promised to those who stay.
    """
    need = f"{format_size(handover.need_bytes)} + {format_size(margin_bytes)} margin"
    free = free_words(device) + (f" and {format_size(promised_bytes)} of that promised to others" if promised_bytes else "")
    first = f"{handover.to} needs {need} on {device.id}, {free}, not proved in {now_s - handover.ordered_at_s:.0f} s"
    return "; ".join([first, *held_by(fleet, device, now_s)])


def free_words(device: Device) -> str:
    """Return how much of the device is free, by the last reading."""
    if device.sample is None:
        return f"free memory unknown ({device.trouble or 'not read yet'})"
    return f"{format_size(device.sample.free_bytes)} of {format_size(device.total_bytes)} free"


def held_by(fleet: Fleet, device: Device, now_s: float) -> list[str]:
    """Return who holds how much of the device, in which state, since when; those that are not ours come after, and what nobody answers for is last."""
    sample = device.sample
    holdings = {holding.worker: holding for holding in sample.holdings if holding.worker is not None} if sample else {}
    parts = []
    for lease in leases_on(fleet, device):
        if lease.worker is None:
            parts.append(_held_outside(lease, device, now_s))
            continue
        holder, holding = fleet.workers[lease.worker], holdings.pop(lease.worker, None)
        pid = (holder.process.pid if holder.process else None) or (holding.pid if holding else None)  # after its end the device may still list it
        words = f" (pid {pid})" if pid else ""
        parts.append(f"{holder.name}{words} holds {_size(holding) if holding else '?'}, {holder.state} for {now_s - holder.since_s:.0f} s")
    parts += [f"{holding.worker} (pid {holding.pid}) uses {_size(holding)} without a lease" for holding in holdings.values()]
    return parts + (strangers_on(fleet, device, sample) + _unlisted(sample) if sample else [])


def _held_outside(lease: Lease, device: Device, now_s: float) -> str:
    """Return what a program outside Warden holds, by the pid that it gave."""
    holding = held_outside(device, lease)
    ended = f", {lease.ended}" if lease.ended else ""
    return f"{called(lease)} holds {_size(holding) if holding else '?'}, {lease.state} for {now_s - lease.since_s:.0f} s{ended}"


def held_outside(device: Device, lease: Lease) -> Holding | None:
    """Return what the device lists of the owner of an outside lease and of what it started, None where it lists nothing of them."""
    pid = lease.outside.pid if lease.outside else 0
    seen = [holding for holding in (device.sample.holdings if device.sample else ()) if _is_of(holding, {pid})]
    sizes = [holding.used_bytes for holding in seen]
    return Holding(None, pid, None if None in sizes else sum(size or 0 for size in sizes)) if seen else None


def _is_of(holding: Holding, pids: Collection[int]) -> bool:
    """Return whether a process that is not ours is one of these, or descends from one."""
    return holding.worker is None and any(pid in pids for pid in (holding.pid, *holding.above))


def strangers(fleet: Fleet, device: Device) -> list[Holding]:
    """Return who uses the device by the last reading, is none of our workers, and has no lease nor descends from one that has, or is just given one."""
    pids = {lease.outside.pid for lease in fleet.leases.values() if lease.outside and lease.device == device.id}
    return [holding for holding in (device.sample.holdings if device.sample else ()) if holding.worker is None and not _is_of(holding, pids)]


def strangers_on(fleet: Fleet, device: Device, sample: DeviceSample) -> list[str]:
    """Return who uses the device and is none of our workers, as far as that can be told."""
    whose = "not ours" if sample.by_pid else "as the driver counts, which may be one of ours"
    return [stranger_words(holding, f", {whose},") for holding in strangers(fleet, device)]


def stranger_words(holding: Holding, whose: str = "") -> str:
    """Return what a process that is not ours uses, in words. whose: what can be said of its owner."""
    return f"pid {holding.pid}{f' ({holding.name})' if holding.name else ''}{whose} uses {_size(holding)}"


def _size(holding: Holding) -> str:
    return "an unknown size" if holding.used_bytes is None else format_size(holding.used_bytes)


def _unlisted(sample: DeviceSample) -> list[str]:
    """Return what is in use and belongs to no process that the device lists: the memory of a process that is gone, as a rule."""
    sizes = [holding.used_bytes for holding in sample.holdings]
    rest = sample.used_bytes - sum(size or 0 for size in sizes)
    unlisted = [f"{format_size(rest)} are used by no process that is listed"] if None not in sizes and rest > UNLISTED_BYTES else []
    return unlisted + [_opener(one, sample) for one in sample.openers]


def _opener(one: Holding, sample: DeviceSample) -> str:
    whose = f"of {one.worker}" if one.worker else "not ours"
    return f"pid {one.pid}{f' ({one.name})' if one.name else ''}, {whose}, has {sample.node} open and is not listed"
