"""Whether the machine has the memory for one more job: what it is taken to need, what was promised to others, and what has to stay free. Pure.

A job needs what the processes of its worker have at the most while it runs, in bytes of PSS, the loaded model and all: what memory.worker_limit is held
against as well. What its worker has already of that is needed no more.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core.limits import MIB, Limits
from supervisor.core.line import age_s, overdue
from supervisor.core.memory import lines
from supervisor.core.model import Fleet, Job, Reason, Source, Worker, WorkerName
from supervisor.core.peaks import memory_of
from supervisor.core.turn import Turn
from supervisor.units import format_size

SMALL_BYTES: Final = 256 * MIB
"""Who needs less on top of what its worker has is not kept waiting: it brings no machine down, and one that is just under the line would do nothing at all."""
UNREAD: Final = "what the machine has of memory is not read yet"
"""After a start: what waited under the supervisor before does not begin all at once."""


class Estimate(Struct, frozen=True):
    """What a job is taken to need, and who says so. No bytes: nothing is known."""

    used_bytes: int = 0
    source: Source = Source.NONE

    def __str__(self) -> str:
        """Return it in words."""
        return f"{format_size(self.used_bytes)} of the machine's memory ({self.source})"


class Shortage(Struct, frozen=True, kw_only=True):
    """The numbers of one that cannot begin: more_bytes is what it still needs of those that are available, of which line_bytes have to stay."""

    estimate: Estimate
    more_bytes: int
    available_bytes: int
    line_bytes: int
    back_bytes: int = 0  # what those give back who leave for it
    promised_bytes: int  # to jobs that were given to a worker, and have not grown to their size yet
    kept_bytes: int = 0  # for those before it that have waited for too long

    @property
    def missing_bytes(self) -> int:
        """Return how much more must be available; 0 or less: it may begin."""
        return self.more_bytes + self.line_bytes + self.promised_bytes + self.kept_bytes - self.available_bytes - self.back_bytes


def estimate(fleet: Fleet, model: str, job: Job) -> Estimate:
    """Return what is known of a job's need: by whoever submitted it, by its worker's own reckoning, or by what such work took before."""
    if job.memory_from in {Source.DECLARED, Source.COMPUTED}:
        return Estimate(job.memory_bytes, job.memory_from)
    seen_bytes = memory_of(fleet, model, job)
    return Estimate(seen_bytes, Source.OBSERVED) if seen_bytes else Estimate()


def never(limits: Limits, total_bytes: int, wanted: Estimate) -> str:
    """Return why so much can never be had on this machine; empty where it may. total_bytes: 0 where it is not known."""
    limit_bytes, line_bytes = limits.memory.worker_limit_bytes, lines(limits.memory, total_bytes).warn_bytes
    if 0 < limit_bytes < wanted.used_bytes:
        return f"it needs {wanted}, and memory.worker_limit is {format_size(limit_bytes)}: its worker would be ended for it; raise memory.worker_limit"
    if wanted.used_bytes and 0 < total_bytes < wanted.used_bytes + line_bytes:
        has = f"this machine has {format_size(total_bytes)}, of which {format_size(line_bytes)} stay free (memory.warn_below)"
        return f"it needs {wanted}, and {has}: {format_size(max(0, total_bytes - line_bytes))} at the most can be given"
    return ""


def promised(fleet: Fleet) -> dict[WorkerName, int]:
    """Return what the jobs of each worker are taken to need beyond what its processes have already."""
    found = {}
    for name, worker in fleet.workers.items():
        if wanted_bytes := _together(worker, _needs(fleet, worker)):
            found[name] = max(0, wanted_bytes - _has(worker))
    return found


def _needs(fleet: Fleet, worker: Worker) -> list[int]:
    """Return what is known of the needs of a worker's jobs."""
    return [job.memory_bytes for one in worker.jobs if (job := fleet.jobs.get(one)) is not None and job.memory_bytes]


def _together(worker: Worker, needs: Sequence[int]) -> int:
    """Return what jobs need that a worker does at the same time: the model that it has loaded, once."""
    model_bytes = (worker.process.memory.first_bytes or 0) if worker.process is not None else 0
    others = sorted(needs)[:-1]
    return max(needs, default=0) + sum(max(0, need_bytes - model_bytes) for need_bytes in others)


def _has(worker: Worker) -> int:
    return (worker.memory_bytes or 0) if worker.process is not None else 0


def shortage(
    fleet: Fleet, limits: Limits, wanted: Estimate, worker: Worker | None, *, leaving: Collection[Worker] = (), kept_bytes: int = 0
) -> Shortage | None:
    """Return the numbers by which a job may begin, or not; None where nobody knows enough to say.

    worker: who would do it; None for one that is not up. leaving: those who leave before it begins, and give back what they have.
    """
    if not wanted.used_bytes or fleet.available_bytes is None:
        return None
    given, gone = promised(fleet), {one.name for one in leaving}
    more_bytes = wanted.used_bytes
    if worker is not None:
        needs = _needs(fleet, worker)
        more_bytes = max(0, _together(worker, [*needs, wanted.used_bytes]) - max(_has(worker), _together(worker, needs)))
    return Shortage(
        estimate=wanted,
        more_bytes=more_bytes,
        available_bytes=fleet.available_bytes,
        line_bytes=lines(limits.memory, fleet.memory_bytes).warn_bytes,
        back_bytes=sum(_has(one) for one in leaving),
        promised_bytes=sum(size for name, size in given.items() if name not in gone),
        kept_bytes=kept_bytes,
    )


def room_bytes(turn: Turn, worker: Worker, job: Job) -> int | None:
    """Return by how much a worker may grow for a job whose need it is to reckon itself; None where that need is known, or the machine's memory is not."""
    fleet = turn.fleet
    if job.memory_from in {Source.DECLARED, Source.COMPUTED} or fleet.available_bytes is None:
        return None
    others_bytes = sum(size for name, size in promised(fleet).items() if name != worker.name)
    return max(SMALL_BYTES, fleet.available_bytes - lines(turn.limits.memory, fleet.memory_bytes).warn_bytes - others_bytes)


def at_work(fleet: Fleet) -> bool:
    """Return whether some worker has a job: its end may give memory back."""
    return any(worker.jobs for worker in fleet.workers.values())


class Room:
    """What of the machine's memory is left to those who are placed in one pass over the queue."""

    def __init__(self, turn: Turn) -> None:
        """Begin a pass."""
        self._turn = turn
        self._kept: dict[str, int] = {}

    def missing(self, job: Job, worker: Worker, leaving: Collection[Worker] = ()) -> str:
        """Return why the machine has too little memory for a job of this worker now, in words that stay the same while it waits; empty where it has enough.

        Who has waited for as long as anybody has to keeps what there is from those behind it, while the end of some work of ours may help it. What was only
        observed holds nobody up whom nothing but programs of others are in the way of: they may be there for ever, and such work has been done before.
        """
        turn, fleet = self._turn, self._turn.fleet
        wanted = estimate(fleet, worker.model, job)
        if wanted.used_bytes and fleet.available_bytes is None:
            return UNREAD
        found = shortage(fleet, turn.limits, wanted, worker, leaving=leaving, kept_bytes=sum(self._kept.values()))
        alone = wanted.source is Source.OBSERVED and not self._kept and not at_work(fleet)
        if found is None or found.more_bytes < SMALL_BYTES or found.missing_bytes <= 0 or alone:
            if found is not None and job.reason is Reason.WAITING_FOR_MEMORY:
                turn.announce("job_admitted", job=job.id, fields=_fields(found))
            return ""
        words = never(turn.limits, fleet.memory_bytes, wanted) if wanted.source is not Source.OBSERVED else ""
        if not words and is_overdue(turn, job) and at_work(fleet):
            self._kept[job.id] = found.more_bytes
        words = words or f"it needs {wanted}, and too little is available"
        if job.reason is not Reason.WAITING_FOR_MEMORY:
            turn.announce("job_waiting", job=job.id, reason=words, fields=_fields(found))
        return words


def _fields(found: Shortage) -> Mapping[str, int]:
    return {
        "need_bytes": found.more_bytes,
        "available_bytes": found.available_bytes,
        "warn_below_bytes": found.line_bytes,
        "promised_bytes": found.promised_bytes + found.kept_bytes,
    }


def is_overdue(turn: Turn, job: Job) -> bool:
    """Return whether a job has waited for as long as anybody has to."""
    return overdue(job.priority, age_s(job, turn.now_s), turn.limits.jobs.age_step_s)


def looked(turn: Turn) -> None:
    """Keep the most that was seen of the memory of each worker that does one job alone: it is that job's."""
    risen = {}
    for worker in turn.fleet.workers.values():
        job = turn.fleet.jobs.get(worker.jobs[0]) if len(worker.jobs) == 1 else None
        if job is not None and job.begun_at_s is not None and _has(worker) > job.memory_peak_bytes:
            risen[job.id] = replace(job, memory_peak_bytes=_has(worker))
    if risen:
        turn.put_jobs(risen)
