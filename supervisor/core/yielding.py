"""Giving way: who at work on a device is asked to leave it at the next checkpoint, for whom; and the programs that are told so."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import ladder, sharing
from supervisor.core.budget import Harm, leavers
from supervisor.core.gpu import called, lease_fields, leases_on, shares_of
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.limits import Limits
from supervisor.core.line import WHOLE_SCALE, Claim, claim_of, level
from supervisor.core.model import Cause, Device, DeviceId, DeviceState, Job, JobStatus, Lease, LeaseId, LeaseState, Waiter, Worker, WorkerState
from supervisor.core.turn import Turn
from supervisor.units import short_duration

_AT_WORK: Final[Harm] = (2, 0)
"""Whoever gives way loses what it did since its last checkpoint: idle ones leave before it."""


class Hold(Struct, frozen=True, kw_only=True):
    """Work that has a device, or the lease of a program outside Warden. waited_s: how long it had waited for it."""

    priority: int
    held_s: float
    waited_s: float = 0.0
    step_s: float = 1.0

    @property
    def kept(self) -> bool:
        """True while it has not held the device for as long as it had waited: it keeps the level that it had come to. The whole scale is the most."""
        return self.held_s < min(self.waited_s, WHOLE_SCALE * self.step_s)

    @property
    def level(self) -> int:
        """How urgent it is."""
        return level(self.priority, self.waited_s, self.step_s) if self.kept else self.priority


def right_of_way(claim: Claim, hold: Hold, max_hold_s: float) -> str:
    """Return why whoever holds a device should give way to a claim, in words; empty: it should not.

    By its own priority, the ages of both counted; or because it has gained the whole scale, which comes before everything but work that had waited as well
    and has not held for as long yet (jobs alone: they come back into the line with their age, and would take turns without end). max_hold_s: 0 for no bound.
    """
    if max_hold_s and hold.held_s >= max_hold_s:
        return f"after {short_duration(hold.held_s)}, max_hold is {short_duration(max_hold_s)}"
    if claim.overdue and not (claim.model and hold.kept):
        return f"which has waited for {short_duration(claim.age_s)}, longer than {WHOLE_SCALE} levels take"
    if claim.priority < hold.priority and claim.level < hold.level:
        return f"which is more urgent, {claim.level} against {hold.level}"
    return ""


def hold_of(job: Job, limits: Limits, now_s: float) -> Hold:
    """Return how a job has the device of its worker."""
    given_at_s = min(now_s, job.given_at_s if job.given_at_s is not None else now_s)
    waited_s = job.waited_s + max(0.0, given_at_s - job.queued_at_s - job.ran_s)
    return Hold(priority=job.priority, held_s=now_s - given_at_s, waited_s=waited_s, step_s=limits.jobs.age_step_s)


def ask(turn: Turn, lines: Mapping[DeviceId, Sequence[Job | Waiter]]) -> None:
    """Ask whoever should give way to those who wait for each device; a program outside Warden is told, and decides itself."""
    for device in tuple(turn.fleet.devices.values()):
        leases, line = leases_on(turn.fleet, device), lines.get(device.id, ())
        if line and device.handover is None and device.state is DeviceState.OK and not device.trouble:
            _ask_workers(turn, device, leases, line)
        for lease in leases:
            if lease.outside is not None and (line or lease.wanted_by):
                _tell_outside(turn, device, lease, line)


def _claims(turn: Turn, device: Device, line: Sequence[Job | Waiter], priority: int) -> Iterator[Claim]:
    """Yield the claims that may have a right against work of this priority, at the cost of a comparison for each of the others."""
    limits = turn.limits
    old_s = turn.now_s - WHOLE_SCALE * min(limits.gpu.age_step_s, limits.jobs.age_step_s)
    for one in line:
        since_s = one.arrived_at_s if isinstance(one, Waiter) else one.queued_at_s - one.waited_s
        if one.priority < priority or since_s <= old_s or limits.gpu.max_hold_s:
            yield claim_of(turn, one, device)


def _ask_workers(turn: Turn, device: Device, leases: Sequence[Lease], line: Sequence[Job | Waiter]) -> None:
    """Ask workers at work on a device, if enough of them can and should give way to the same claim: to ask fewer would be useless."""
    able = [(lease, holder) for lease in leases if (holder := _can_leave(turn, lease))]
    if not able or any(lease.state is LeaseState.YIELDING for lease in leases):
        return
    for claim in _claims(turn, device, line, max(turn.fleet.jobs[name].priority for _, holder in able for name in holder.jobs)):
        ways = {lease.id: reason for lease, holder in able if (reason := _reason(turn, claim, holder))}
        gone = _enough(turn, device, leases, claim, ways) if ways else ()
        asked = [(lease, holder) for lease, holder in able if lease.id in ways and lease in gone]
        for lease, holder in asked:
            _ask(turn, lease, holder, claim, ways[lease.id])
        if asked:
            return


def _enough(turn: Turn, device: Device, leases: Sequence[Lease], claim: Claim, ways: Collection[LeaseId]) -> Sequence[Lease]:
    """Return who must leave for a claim; empty where those who should give way are not enough. ways: the leases of those."""
    books = sharing.books(turn.fleet, turn.limits, device=device, need_bytes=claim.need_bytes, now_s=turn.now_s)
    if books is None:  # all of it is one holder's
        stays = any(lease.id not in ways and _stays(turn, lease) for lease in leases)
        return () if stays else leases
    shares = [replace(share, harm=_AT_WORK) if share.lease in ways else share for share in shares_of(turn.fleet, device, books=books, weak=False)]
    gone = {share.lease for share in leavers(shares, books.need_bytes, books.room_bytes) or ()}
    return [lease for lease in leases if lease.id in gone]


def _stays(turn: Turn, lease: Lease) -> bool:
    """Return whether a holder neither leaves already nor for anyone who waits."""
    if lease.worker is None:
        return lease.state is not LeaseState.COOLING
    return bool(turn.fleet.workers[lease.worker].jobs)


def _can_leave(turn: Turn, lease: Lease) -> Worker | None:
    """Return a worker at work that can be asked, and all of whose work can be gone on with from the next checkpoint."""
    holder = turn.fleet.workers[lease.worker] if lease.worker is not None and lease.state is not LeaseState.COOLING else None
    if holder is None or not holder.jobs or holder.stop is not None or holder.state is not WorkerState.BUSY:
        return None
    jobs = [turn.fleet.jobs[name] for name in holder.jobs]
    return holder if all(job.status is JobStatus.RUNNING and job.resumable for job in jobs) else None


def _reason(turn: Turn, claim: Claim, holder: Worker) -> str:
    """Return why all its jobs should give way; empty: one should not. A job that waits for this very worker is not helped by its end."""
    if claim.model == holder.model:
        return ""
    limits = turn.limits
    found = [right_of_way(claim, hold_of(turn.fleet.jobs[name], limits, turn.now_s), limits.gpu.max_hold_s) for name in holder.jobs]
    return found[0] if all(found) else ""


def _ask(turn: Turn, lease: Lease, holder: Worker, claim: Claim, reason: str) -> None:
    lease = turn.put_lease(replace(advance_lease(lease, Move.ASK, turn.now_s), wanted_by=claim.id))
    words = f"makes room at its next checkpoint for {claim.words}, {reason}"
    turn.announce("lease_yielding", worker=holder.name, job=holder.jobs[0], reason=words, fields=lease_fields(lease, wanted_by=claim.words))
    ladder.order_leave(turn, holder, Cause.HANDOVER, words, boundary=True)


def _tell_outside(turn: Turn, device: Device, lease: Lease, line: Sequence[Job | Waiter]) -> None:
    """Keep who should have it instead: the owner hears so with its next renewal. Said once, as often as somebody comes."""
    if lease.state not in (LeaseState.HELD, LeaseState.STALE, LeaseState.CONTAMINATED):
        return
    gpu = turn.limits.gpu
    hold, max_hold_s = Hold(priority=lease.priority, held_s=turn.now_s - lease.since_s, waited_s=lease.waited_s, step_s=gpu.age_step_s), gpu.max_hold_s
    claims = _claims(turn, device, line, lease.priority)
    found = next(((claim, reason) for claim in claims if (reason := right_of_way(claim, hold, max_hold_s))), None)
    wanted_by = found[0].id if found else ""
    too_long = found is not None and bool(max_hold_s) and hold.held_s >= max_hold_s
    if (wanted_by, too_long) == (lease.wanted_by, lease.overheld):
        return
    if found is not None and (not lease.wanted_by or (too_long and not lease.overheld)):
        claim, reason = found
        event = "lease_overheld" if too_long else "lease_wanted"
        turn.announce(event, reason=f"{called(lease)} should give {lease.device} to {claim.words}, {reason}", fields=lease_fields(lease, wanted_by=claim.words))
    turn.put_lease(replace(lease, wanted_by=wanted_by, overheld=too_long))
