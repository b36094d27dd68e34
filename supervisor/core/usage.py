"""Who uses a device, compared with who has a right to it: programs without a lease, and leases of programs that use nothing."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.gpu import called, held_outside, lease_fields, leases_on, stranger_words, strangers
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.model import Device, Fleet, Holding, Lease, LeaseState
from supervisor.core.turn import Turn

IDLE_AFTER_S: Final = 600.0
"""A program that loads its data first uses nothing for minutes; one that uses nothing for as long as a job may stand still has forgotten its lease."""


SETTLED_S: Final = 5.0
"""What a program had is gone so long after it gave its lease back or ended (0.5 to 4 s were seen); one that is there for longer means it."""


def compare(turn: Turn, device: Device) -> Device:
    """Compare a good reading of a device with the leases on it, and return the device. Nobody is ended for what is seen here: it is named, once."""
    device = _contaminated(turn, device)
    for lease in leases_on(turn.fleet, device):
        _idle(turn, device, lease)
    return device


def _contaminated(turn: Turn, device: Device) -> Device:
    seen = suspects(turn.fleet, device, turn.limits.gpu.margin_bytes)
    since = {one.pid: device.suspects.get(one.pid, turn.now_s) for one in seen or ()}
    found = tuple(one for one in seen or () if one.pid in device.named or turn.now_s - since[one.pid] >= SETTLED_S)
    listed = {holding.pid for holding in (device.sample.holdings if device.sample else ())}
    fresh = [one for one in found if one.pid not in device.named]
    for one in fresh:
        fields = {"device": device.id, "pid": one.pid, "name": one.name, "used_bytes": one.used_bytes, "owner": ", ".join(_holders(turn.fleet, device))}
        turn.announce("device_contaminated", reason=f"{stranger_words(one)} of {device.id} without a lease: it is waited for, not ended", fields=fields)
    if device.intruders and seen == ():
        turn.announce("device_clean", reason=f"nobody uses {device.id} without a lease any more", fields={"device": device.id})
    for lease in leases_on(turn.fleet, device):
        if lease.state is (LeaseState.HELD if found else LeaseState.CONTAMINATED):
            moved = advance_lease(lease, Move.INTRUDE if found else Move.CLEAR, turn.now_s)
            turn.put_lease(replace(moved, since_s=lease.since_s))  # it is held for as long as before
    named = tuple(pid for pid in (*device.named, *(one.pid for one in fresh)) if pid in listed)
    return turn.put_device(replace(device, intruders=found, named=named, suspects=since))


def suspects(fleet: Fleet, device: Device, margin_bytes: int) -> tuple[Holding, ...] | None:
    """Return who uses the device without a lease while it is held or is on its way to somebody; None where nobody can tell.

    What fits into gpu.margin is in nobody's way (the screen of a desktop), and a process that is listed and is not there is a program no more. Whoever was
    named stays one until it is gone, or has a lease.
    """
    sample = device.sample
    if sample is None or not sample.by_pid or not sample.others:
        return None
    others = (lease for lease in fleet.leases.values() if lease.device == device.id and lease.outside and lease.state is not LeaseState.WAITING)
    if any(lease.outside and not lease.outside.pid for lease in others):
        return None  # each of them may be that one's
    if not leases_on(fleet, device) and device.handover is None and not device.intruders:
        return ()
    there = (one for one in strangers(fleet, device) if one.name)
    return tuple(one for one in there if one.pid in device.named or one.used_bytes is None or one.used_bytes > margin_bytes)


def _holders(fleet: Fleet, device: Device) -> list[str]:
    return [called(lease) for lease in leases_on(fleet, device)]


def _idle(turn: Turn, device: Device, lease: Lease) -> None:
    """Name the lease of a program that uses nothing of its device for long, once until it uses some."""
    sample, owner = device.sample, lease.outside
    if sample is None or not (sample.by_pid and sample.others) or owner is None or not owner.pid or lease.state is LeaseState.COOLING:
        return
    holding = held_outside(device, lease)
    if holding is not None and holding.used_bytes != 0:  # None: it has some
        if lease.idle_since_s is not None:
            turn.put_lease(replace(lease, idle_since_s=None, idle_said=False))
    elif lease.idle_since_s is None:
        turn.put_lease(replace(lease, idle_since_s=turn.now_s))
    elif not lease.idle_said and turn.now_s - lease.idle_since_s >= IDLE_AFTER_S:
        turn.put_lease(replace(lease, idle_said=True))
        reason = f"{called(lease)} holds {device.id}, and has used nothing of it for {IDLE_AFTER_S:g} s"
        turn.announce("lease_idle", reason=reason, fields=lease_fields(lease))
