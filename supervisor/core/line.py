"""The line for a device: who stands where in it, how urgent each is by now, and which device it takes or waits for. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import jobs
from supervisor.core.gpu import Begin, Blocked
from supervisor.core.jobs import rank
from supervisor.core.limits import GpuLimits, Limits
from supervisor.core.model import Device, DeviceId, DeviceState, Fleet, Job, Lease, Ticket, Waiter
from supervisor.core.sharing import Offer, need_of, plan
from supervisor.core.turn import Turn

WHOLE_SCALE: Final = 20
"""Levels, from the least urgent of the usual priorities to the most urgent one: whoever has gained as many has waited as long as anybody has to."""


class Claim(Struct, frozen=True, kw_only=True):
    """Whoever stands in line for a device. id: of the job, or the ticket; model: of a job, empty for a program outside Warden."""

    id: str
    words: str
    priority: int
    age_s: float
    step_s: float
    need_bytes: int = 0
    model: str = ""

    @property
    def level(self) -> int:
        """Its priority after it gained one level for each step that it waited. 0 is the most urgent."""
        return level(self.priority, self.age_s, self.step_s)

    @property
    def overdue(self) -> bool:
        """True once it has gained the whole scale: it has waited long enough for a holder that can give way to do so, whoever that is."""
        return overdue(self.priority, self.age_s, self.step_s)


def overdue(priority: int, age_s: float, step_s: float) -> bool:
    """Return whether so much waiting is the whole scale."""
    return age_s >= max(WHOLE_SCALE, priority) * step_s


def age_s(job: Job, now_s: float) -> float:
    """Return how long a job has waited. What it has run is no part of that."""
    return job.waited_s + now_s - job.queued_at_s - job.ran_s


def level(priority: int, age_s: float, step_s: float) -> int:
    """Return a priority after so much waiting, one level less for each whole step. 0 is the most urgent."""
    return max(0, priority - math.floor(max(0.0, age_s) / step_s))


def claim_of(turn: Turn, one: Job | Waiter, device: Device) -> Claim:
    """Return what a job or a program outside Warden claims of a device."""
    limits, model = turn.limits, turn.limits.model_for(one.kind) if isinstance(one, Job) else None
    need_bytes = need_of(turn, one, model, device)
    if isinstance(one, Waiter):
        who, waited_s = one.outside, turn.now_s - one.arrived_at_s
        return Claim(id=who.ticket, words=who.words, priority=one.priority, age_s=waited_s, step_s=limits.gpu.age_step_s, need_bytes=need_bytes)
    waited_s, step_s = age_s(one, turn.now_s), limits.jobs.age_step_s
    return Claim(id=one.id, words=one.id, priority=one.priority, age_s=waited_s, step_s=step_s, need_bytes=need_bytes, model=model or "?")


def aged(waiter: Waiter, limits: GpuLimits, now_s: float) -> int:
    """Return how urgent a program outside Warden is by now: it gains one level for each gpu.age_step that it waits. 0 is the most urgent."""
    return level(waiter.priority, now_s - waiter.arrived_at_s, limits.age_step_s)


def rank_outside(waiter: Waiter, limits: GpuLimits, now_s: float) -> tuple[int, float, str]:
    """Return its place among jobs and other waiters, as `jobs.rank` does for a job."""
    return aged(waiter, limits, now_s), waiter.arrived_at_s, waiter.outside.ticket


def merged(queued: Sequence[Job], waiters: Iterable[Waiter], limits: Limits, now_s: float) -> list[Job | Waiter]:
    """Return jobs, in their order already, and programs outside Warden in one line: each ages by its own step, ties go by arrival.

    A job that gave way stands behind whoever it gave way to for as long as that one waits, whatever their ages.
    """
    waiting = list(waiters)
    line: list[Job | Waiter] = list(queued)
    if waiting:
        ranked = [(rank(job, limits.jobs, now_s), job) for job in queued] + [(rank_outside(waiter, limits.gpu, now_s), waiter) for waiter in waiting]
        line = [one for _, one in sorted(ranked, key=lambda pair: pair[0])]
    for job in [job for job in queued if job.gave_way]:
        here, first = line.index(job), next((place for place, one in enumerate(line) if _id(one) == job.gave_way), -1)
        if first > here:
            line.insert(first, line.pop(here))
    return line


def in_line(waiters: Iterable[Waiter]) -> list[Waiter]:
    """Return those who wait for a device to use, and whose hand-over has not begun."""
    return [waiter for waiter in waiters if waiter.lease is None and waiter.purpose == "inference"]


def standing(fleet: Fleet, limits: Limits, now_s: float, wall_s: float) -> list[Job | Waiter]:
    """Return the whole line, the next first: the jobs that stand in the queue, and the programs that wait for a device to use."""
    return merged(jobs.in_line(fleet.jobs.values(), limits.jobs, now_s, wall_s), in_line(fleet.waiters.values()), limits, now_s)


def named(fleet: Fleet, name: str) -> str:
    """Return what a job or the owner of a ticket is called in a sentence; empty for nobody."""
    waiter = fleet.waiters.get(Ticket(name))
    return waiter.outside.words if waiter is not None else name


def _id(one: Job | Waiter) -> str:
    return one.id if isinstance(one, Job) else one.outside.ticket


def choose(fleet: Fleet, limits: Limits, offers: Sequence[Offer], taken: Mapping[DeviceId, Claim], now_s: float) -> tuple[Offer, Begin | Blocked]:
    """Return the device to take, with who leaves it; or the one to wait for, with who is in the way.

    offers: at least one, the best fit first; one that does not work is waited for only where none does. taken: the devices that somebody before it waits
    for, and who that is. It takes the best that can be handed over, one that is nobody's before one that somebody must leave; else it waits for the best that
    nobody before it waits for, and has that one's line.
    """
    offers = [offer for offer in offers if offer.device.state is DeviceState.OK] or offers  # to wait for one that is lost may be for ever
    free = [offer for offer in offers if offer.device.id not in taken]
    plans = [(offer, plan(fleet, limits, offer, weak=False, now_s=now_s)) for offer in free]
    ready = [(offer, found) for offer, found in plans if isinstance(found, Begin)]
    if ready:
        return min(ready, key=lambda pair: bool(pair[1].leaving))
    if plans:
        return plans[0]
    return offers[0], Blocked(behind(taken[offers[0].device.id]))


def behind(first: Claim) -> str:
    """Return what somebody hears who is not the first in a line."""
    return f"{first.words} is before it in the queue for the device"


def came_back(job: Job, lease: Lease | None, now_s: float) -> Job:
    """Return a job that is in the line again. lease: of the worker that left.

    Where that gave way the job keeps the age that it had waited, and its turn is over: among those that are as urgent it comes after all who wait already.
    """
    if lease is None or not lease.wanted_by:
        return job
    return replace(job, queued_at_s=now_s, waited_s=job.waited_s + max(0.0, now_s - job.queued_at_s - job.ran_s), ran_s=0.0, gave_way=lease.wanted_by)
