"""Jobs on their way into the queue: taken, on disk, in line."""

from itertools import islice
from typing import Final

from msgspec.structs import replace

from supervisor.core.actions import Admit, Reply, SaveJob
from supervisor.core.endings import said
from supervisor.core.events import JobStored, JobSubmitted, SaveFailed
from supervisor.core.jobs import BY_AGE, rests
from supervisor.core.model import Job, JobId, JobStatus, Reason
from supervisor.core.turn import Turn
from supervisor.units import format_size

_IN_LINE: Final = frozenset({Reason.WAITING_FOR_WORKER, Reason.WAITING_FOR_GPU})
"""For the machine's memory each waits for itself: another job may need less."""


def submitted(turn: Turn, event: JobSubmitted) -> None:
    """Take a job into the queue; whoever asked hears so once it is on disk."""
    free, floor = turn.fleet.disk_free_bytes, turn.limits.supervisor.disk_floor_bytes
    if turn.fleet.stopping_since_s is not None:
        turn.act(Reply(request=event.request, error="stopping", message="the supervisor is stopping: submit again when it runs"))
    elif free is not None and free < floor:
        sentence = f"{format_size(free)} free on the disk of state_dir, disk_floor is {format_size(floor)}: make room, or lower supervisor.disk_floor"
        turn.act(Reply(request=event.request, error="full", message=sentence))
    elif _is_full(turn):
        turn.act(Reply(request=event.request, error="busy", message=f"the queue is full, jobs.max_queued is {turn.limits.jobs.max_queued}: try later"))
    else:
        job = replace(event.job, queued_at_s=turn.now_s, created_wall=turn.wall_s)
        turn.fleet = replace(turn.fleet, arriving={**turn.fleet.arriving, job.id: job})
        then = (Admit(job=job.id), Reply(request=event.request, job=job.id), said(turn, job, "job_queued"))
        turn.act(SaveJob(job=job, then=then, refuse_to=event.request))


def _is_full(turn: Turn) -> bool:
    jobs, arriving, limit = turn.fleet.jobs, len(turn.fleet.arriving), turn.limits.jobs.max_queued
    return len(jobs) + arriving >= limit and len([job for job in jobs.values() if job.status is JobStatus.QUEUED]) + arriving >= limit


def stored(turn: Turn, event: JobStored) -> bool:
    """Let a job into the queue that is on disk: before that nobody works on it, for it may still have to be refused. Return whether it may find a place."""
    job = turn.fleet.arriving.get(event.job)
    if job is None:
        return False
    _arrived(turn, event.job)
    neighbour = _neighbour(turn, job)
    turn.put_job(job if neighbour is None else replace(job, reason=neighbour.reason, message=neighbour.message))
    return neighbour is None


def _neighbour(turn: Turn, job: Job) -> Job | None:
    """Return a job that hears what this one would: both wait for the same behind another of their kind, for which there was no place. None: look for one.

    So a job costs the same however many wait already. What time alone has changed since is seen at the next tick.
    """
    if turn.fleet.stopping_since_s is not None or rests(job, turn.now_s, turn.wall_s):
        return None
    alike = (
        other
        for other in reversed(tuple(turn.fleet.jobs.values()))
        if other.kind == job.kind and other.priority == job.priority and other.status is JobStatus.QUEUED and other.reason in _IN_LINE
    )
    two = tuple(islice(alike, 2))  # what the first in line hears is about itself
    return max(two, key=BY_AGE) if two[1:] else None


def save_failed(turn: Turn, event: SaveFailed) -> None:
    """A write failed: a new job is refused, every other write is tried again by the runtime."""
    turn.announce("store_failed", job=event.job, reason=event.error)
    if event.refuse_to:
        _arrived(turn, event.job)
        turn.act(Reply(request=event.refuse_to, error="failed", message=f"the job could not be written down, so it was not taken: {event.error}"))


def _arrived(turn: Turn, name: JobId) -> None:
    turn.fleet = replace(turn.fleet, arriving={other: job for other, job in turn.fleet.arriving.items() if other != name})
