"""Giving way: who at work on a device is asked to leave it at the next checkpoint, for whom; and the programs that are told so."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import generations
from supervisor.core.gpu import called, leases_on
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.limits import Limits
from supervisor.core.line import WHOLE_SCALE, Claim, claim_of, level
from supervisor.core.model import Cause, DeviceId, DeviceState, Job, JobStatus, Lease, LeaseState, Waiter, Worker, WorkerState
from supervisor.core.turn import Turn
from supervisor.units import short_duration


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
            _ask_workers(turn, leases, line)
        for lease in leases:
            if lease.outside is not None and (line or lease.wanted_by):
                _tell_outside(turn, lease, line)


def _claims(turn: Turn, line: Sequence[Job | Waiter], priority: int) -> Iterator[Claim]:
    """Yield the claims that may have a right against work of this priority, at the cost of a comparison for each of the others."""
    limits = turn.limits
    old_s = turn.now_s - WHOLE_SCALE * min(limits.gpu.age_step_s, limits.jobs.age_step_s)
    for one in line:
        since_s = one.arrived_at_s if isinstance(one, Waiter) else one.queued_at_s - one.waited_s
        if one.priority < priority or since_s <= old_s or limits.gpu.max_hold_s:
            yield claim_of(one, limits, turn.now_s)


def _ask_workers(turn: Turn, leases: Sequence[Lease], line: Sequence[Job | Waiter]) -> None:
    """Ask the workers at work on a device, if all of them can and should give way to the same claim: one that stays would make it useless."""
    still = [lease for lease in leases if lease.state is not LeaseState.COOLING]
    holders = [turn.fleet.workers[lease.worker] for lease in still if lease.worker is not None and turn.fleet.workers[lease.worker].jobs]
    if not holders or any(lease.outside is not None or lease.state is LeaseState.YIELDING for lease in still):
        return
    if not all(_can_leave(turn, holder) for holder in holders):
        return
    for claim in _claims(turn, line, max(turn.fleet.jobs[name].priority for holder in holders for name in holder.jobs)):
        reasons = [_reason(turn, claim, holder) for holder in holders]
        if all(reasons):
            for holder, reason in zip(holders, reasons, strict=True):
                _ask(turn, holder, claim, reason)
            return


def _can_leave(turn: Turn, holder: Worker) -> bool:
    """Return whether it can be asked, and all its work can be gone on with from the next checkpoint."""
    jobs = [turn.fleet.jobs[name] for name in holder.jobs]
    return holder.stop is None and holder.state is WorkerState.BUSY and all(job.status is JobStatus.RUNNING and job.resumable for job in jobs)


def _reason(turn: Turn, claim: Claim, holder: Worker) -> str:
    """Return why all its jobs should give way; empty: one should not. A job that waits for this very worker is not helped by its end."""
    if claim.model == holder.model:
        return ""
    limits = turn.limits
    found = [right_of_way(claim, hold_of(turn.fleet.jobs[name], limits, turn.now_s), limits.gpu.max_hold_s) for name in holder.jobs]
    return found[0] if all(found) else ""


def _ask(turn: Turn, holder: Worker, claim: Claim, reason: str) -> None:
    lease = turn.fleet.lease_of(holder.name)
    if lease is None:
        return
    lease = turn.put_lease(replace(advance_lease(lease, Move.ASK, turn.now_s), wanted_by=claim.id))
    words = f"makes room at its next checkpoint for {claim.words}, {reason}"
    turn.announce("lease_yielding", worker=holder.name, job=holder.jobs[0], reason=words, fields=_fields(lease, claim))
    generations.order_leave(turn, holder, Cause.HANDOVER, words, boundary=True)


def _tell_outside(turn: Turn, lease: Lease, line: Sequence[Job | Waiter]) -> None:
    """Keep who should have it instead: the owner hears so with its next renewal. Said once, as often as somebody comes."""
    if lease.state not in (LeaseState.HELD, LeaseState.STALE):
        return
    gpu = turn.limits.gpu
    hold, max_hold_s = Hold(priority=lease.priority, held_s=turn.now_s - lease.since_s, waited_s=lease.waited_s, step_s=gpu.age_step_s), gpu.max_hold_s
    found = next(((claim, reason) for claim in _claims(turn, line, lease.priority) if (reason := right_of_way(claim, hold, max_hold_s))), None)
    wanted_by = found[0].id if found else ""
    too_long = found is not None and bool(max_hold_s) and hold.held_s >= max_hold_s
    if (wanted_by, too_long) == (lease.wanted_by, lease.overheld):
        return
    if found is not None and (not lease.wanted_by or (too_long and not lease.overheld)):
        claim, reason = found
        event = "lease_overheld" if too_long else "lease_wanted"
        turn.announce(event, reason=f"{called(lease)} should give {lease.device} to {claim.words}, {reason}", fields=_fields(lease, claim))
    turn.put_lease(replace(lease, wanted_by=wanted_by, overheld=too_long))


def _fields(lease: Lease, claim: Claim) -> dict[str, str | int]:
    return {"device": lease.device, "owner": called(lease), "lease": lease.id, "fence": lease.fence, "wanted_by": claim.words}
