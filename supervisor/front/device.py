"""Who is in the way: the holder of a device in words and numbers, for the answers that must name it."""

from typing import Any

import msgspec
from msgspec import Struct

from supervisor.control import Refused, Unreachable
from supervisor.front.parts import Caller
from supervisor.shapes import DeviceView, JobView, KindView, StatusView
from supervisor.units import say_duration


class InTheWay(Struct, frozen=True, kw_only=True):
    """A holder: since when, and until when by the pace of its job; None where nobody can tell."""

    owner: str
    device: str
    since_s: float
    job: str | None
    until_s: float | None
    used_bytes: int | None

    def __str__(self) -> str:
        """Return it in words."""
        doing = f" for job {self.job}" if self.job else ""
        until = f", about {say_duration(round(self.until_s))} left" if self.until_s is not None else ", nobody can tell for how long"
        return f"{self.owner} has {self.device}{doing} since {say_duration(round(self.since_s))} ago{until}"


async def model_of(caller: Caller, kind: str) -> str:
    """Return which model serves a kind: the supervisor knows; else it is named as in the shipped configuration."""
    try:
        kinds: list[KindView] = await caller.view("kinds", list[KindView])
    except Refused:
        kinds = []
    return next((one.worker for one in kinds if one.kind == kind), kind.partition(".")[0])


async def in_the_way(caller: Caller, status: StatusView, model: str) -> InTheWay | None:
    """Return who has a device that workers of this model would need; None where nobody has."""
    ours = {worker.name for worker in status.workers if model in {worker.model, worker.name}}
    for device in status.devices:
        for holder in device.holders:
            if holder.owner not in ours and holder.state != "waiting":
                job = await _job_of(caller, status, holder.owner)
                return InTheWay(
                    owner=holder.owner,
                    device=device.name or device.id,
                    since_s=holder.since_s,
                    job=job.id if job else None,
                    until_s=job.eta_s if job else None,
                    used_bytes=holder.used_bytes,
                )
    return None


async def _job_of(caller: Caller, status: StatusView, owner: str) -> JobView | None:
    jobs = [job for worker in status.workers if worker.name == owner for job in worker.jobs]
    try:
        return await caller.job("jobs.show", {"job": jobs[0]}) if jobs else None
    except (Refused, Unreachable):
        return None


def evidence(found: InTheWay | None) -> dict[str, Any]:
    """Return the holder as members of a problem."""
    return {"holder": msgspec.to_builtins(found)} if found else {}


def hand_over_of(devices: list[DeviceView], job: str) -> str:
    """Return how the hand-over for a job is: "none", "under way" or "proved"."""
    for device in devices:
        for handover in (device.handover, device.last_handover):
            if handover is not None and handover.job == job:
                return "proved" if handover.proof_s is not None else "under way"
    return "none"
