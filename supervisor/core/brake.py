"""The emergency brake: who of ours ends when the machine runs out of memory, one at a time, and nobody where that would not help."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import admission, ladder, memory, notices
from supervisor.core.actions import NameOutsiders, SendBrake
from supervisor.core.events import GuardActed, MemoryMeasured, MemorySampled, OutsidersNamed
from supervisor.core.jobs import BUDGET_OF_CAUSE
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.limits import MIB, Limits
from supervisor.core.memory import BAND, lines
from supervisor.core.model import WITH_PROCESS, Brake, Cause, Fleet, Job, JobId, JobStatus, Stop, Worker, WorkerName, WorkerState, Zone
from supervisor.core.turn import Turn
from supervisor.units import format_size

MESSAGE: Final = "EMERGENCY BRAKE"
API: Final = "api"
"""The model of the HTTP front: what people look through when the machine is in need is no victim."""

_LARGE_BYTES: Final = 256 * MIB
"""What an idle worker must have for its end to be worth a load; and what one must have gained in a second for any other end to be in vain."""
WORTH_BYTES: Final = 64 * MIB
"""Less than this is no use to end anybody for."""
HELP_SHARE: Final = 10
"""All of ours together must have this part of what is missing: else the trouble is not ours."""
_AHEAD_S: Final = 5
"""A job is asked to end where, at the pace of the last second, the line would be passed within this: its next step may be seconds away."""
_DYING: Final = frozenset({WorkerState.STOPPING, WorkerState.EXITED})
_FLOOR_PAUSE_S: Final = 0.3
"""Below the hard floor the end of one is waited for no longer than this before the next is ended as well."""


class Candidate(Struct, frozen=True, kw_only=True):
    """One worker that could be ended, and what counts for and against it."""

    worker: WorkerName
    size_bytes: int
    grown_bytes: int
    grower: bool
    idle: bool
    critical: bool
    retriable: bool
    age_s: float

    def rank(self, *, spares: bool) -> tuple[bool, bool, bool, bool, bool, int, float]:
        """Return its place in the line of victims, the first the lowest. spares: critical sections are spared for as long as there is anybody else."""
        racing = self.grower and self.grown_bytes >= _LARGE_BYTES
        cheap = self.idle and self.size_bytes >= _LARGE_BYTES
        return (spares and self.critical, not racing, not cheap, not self.grower, not self.retriable, -self.size_bytes, self.age_s)


def candidates(fleet: Fleet, limits: Limits, event: MemorySampled, now_s: float, *, spares: bool, least_bytes: int = WORTH_BYTES) -> list[Candidate]:
    """Return the workers that could be ended, the first victim first. Only those that we started are among them, and none that is being ended already.

    spares: critical sections are spared for as long as there is anybody else; least_bytes: whoever has less is left out.
    """
    found = [_candidate(fleet, limits, worker, event, now_s) for worker in fleet.workers.values() if _may_end(worker)]
    found = [one for one in found if one.size_bytes >= least_bytes]
    return sorted(found, key=lambda one: (one.rank(spares=spares), one.worker))


def _may_end(worker: Worker) -> bool:
    ending = worker.stop is not None and worker.stop.killed_at_s is not None
    return worker.model != API and worker.state in WITH_PROCESS and worker.process is not None and worker.process.pid is not None and not ending


def _candidate(fleet: Fleet, limits: Limits, worker: Worker, event: MemorySampled, now_s: float) -> Candidate:
    jobs = [fleet.jobs[name] for name in worker.jobs]
    grown = event.grown.get(worker.name, 0)
    return Candidate(
        worker=worker.name,
        size_bytes=event.workers.get(worker.name, worker.memory_bytes or 0),
        grown_bytes=grown,
        grower=grown > 0 and 2 * grown >= event.fell_bytes,
        idle=not jobs,
        critical=any(job.critical for job in jobs),
        retriable=all(_retriable(job, limits) for job in jobs),
        age_s=now_s - min((job.begun_at_s for job in jobs if job.begun_at_s is not None), default=now_s),
    )


def _retriable(job: Job, limits: Limits) -> bool:
    budget = BUDGET_OF_CAUSE[Cause.MEMORY]
    return job.failures + 1 < job.max_attempts and job.tries.get(budget, 0) < limits.jobs.retries.for_cause(budget)


def take(turn: Turn, event: MemorySampled | OutsidersNamed | GuardActed) -> bool:
    """Take in what is seen of the machine's memory, or of who has it. Return whether policies need to look again."""
    match event:
        case MemoryMeasured():
            memory.measured(turn, event)
            admission.looked(turn)
            notices.disk(turn, event.disk_free_bytes)
            return bool(turn.actions)
        case MemorySampled():
            memory.sampled(turn, event)
            _brake(turn, event)
            return bool(turn.actions) or turn.fleet.zone is not turn.before.zone
        case OutsidersNamed():
            _outsiders_named(turn, event)
        case GuardActed():
            _guard_acted(turn, event)
    return False


def matters(event: MemorySampled, line_bytes: int) -> bool:
    """Return whether somebody may have to end for a reading: below the emergency line, or just over it where it would soon be passed."""
    near = event.available_bytes < line_bytes + line_bytes // BAND
    return near and event.available_bytes - _AHEAD_S * event.fell_bytes < line_bytes


def _brake(turn: Turn, event: MemorySampled) -> None:
    """Look whether somebody must end, after what was ordered before has been looked at."""
    _settle(turn, event)
    line_bytes = lines(turn.limits.memory, event.total_bytes).emergency_bytes
    if event.available_bytes >= line_bytes:
        if matters(event, line_bytes):
            _ask(turn, event, line_bytes)
        return
    under_way = _ends_under_way(turn.fleet)
    if under_way and (turn.fleet.zone is not Zone.FLOOR or turn.now_s - max(under_way) < _FLOOR_PAUSE_S):
        return
    found = candidates(turn.fleet, turn.limits, event, turn.now_s, spares=turn.fleet.zone is not Zone.FLOOR)
    missing = line_bytes + line_bytes // BAND - event.available_bytes
    if not found or sum(one.size_bytes for one in found) * HELP_SHARE < missing:
        if not under_way:
            _not_ours(turn)
        return
    _end(turn, found[0], event, line_bytes)


def _ends_under_way(fleet: Fleet) -> list[float]:
    """Return when each process was killed that is not gone yet, by whomever of us: what it had is on its way back."""
    dying = [worker.stop for worker in fleet.workers.values() if worker.process is not None and worker.stop is not None and worker.state in _DYING]
    killed_s = [stop.killed_at_s for stop in dying if stop.killed_at_s is not None]
    return killed_s + [one.ordered_at_s for one in fleet.brakes.values() if one.kills]


def _ask(turn: Turn, event: MemorySampled, line_bytes: int) -> None:
    """Just over the line: ask the job that takes the memory to end before its next step. Its worker and its model then live."""
    line = candidates(turn.fleet, turn.limits, event, turn.now_s, spares=True)
    first = next((one for one in line if one.grower and not one.idle and not one.critical), None)
    if first is None or first.worker in turn.fleet.brakes:
        return
    worker = turn.fleet.workers[first.worker]
    running = [job for name in worker.jobs if (job := turn.fleet.jobs[name]).status is JobStatus.RUNNING]
    if turn.spec(worker).progress != "sdk" or not running:
        return
    job = max(running, key=lambda job: job.begun_at_s or 0.0)
    why = f"{_numbers(event.available_bytes, line_bytes)}, and {worker.name} took {format_size(first.grown_bytes)} in the last second"
    turn.act(SendBrake(worker=worker.name, generation=worker.generation, job=job.id, attempt=job.attempt, why=why))
    held, available = first.size_bytes, event.available_bytes
    _note(turn, Brake(generation=worker.generation, job=job.id, ordered_at_s=turn.now_s, held_bytes=held, available_bytes=available), worker.name)


def _end(turn: Turn, victim: Candidate, event: MemorySampled, line_bytes: int) -> None:
    """End one worker with all that it started, at once."""
    worker = turn.fleet.workers[victim.worker]
    gained = f", {format_size(victim.grown_bytes)} of it in the last second" if victim.grower else ""
    reason = f"{_numbers(event.available_bytes, line_bytes)}; {worker.name} had {format_size(victim.size_bytes)}{gained}"
    if may(worker, Signal.STOP):
        worker = move(worker, Signal.STOP, turn.now_s)
    stop = replace(worker.stop or Stop(cause=Cause.MEMORY, reason=reason, ordered_at_s=turn.now_s), cause=Cause.MEMORY, reason=reason, job=None, brake=True)
    stop = replace(stop, term_at_s=stop.term_at_s or turn.now_s)
    job = worker.jobs[0] if worker.jobs else None
    ladder.kill(turn, turn.put_worker(replace(worker, stop=stop)), stop, MESSAGE)
    held, available = victim.size_bytes, event.available_bytes
    _note(turn, Brake(generation=worker.generation, job=job, kills=True, ordered_at_s=turn.now_s, held_bytes=held, available_bytes=available), worker.name)


def _numbers(available_bytes: int, line_bytes: int) -> str:
    return f"{format_size(available_bytes)} of memory available, emergency_below is {format_size(line_bytes)}"


def _note(turn: Turn, one: Brake, name: WorkerName) -> None:
    turn.fleet = replace(turn.fleet, brakes={**turn.fleet.brakes, name: one})


def _settle(turn: Turn, event: MemorySampled) -> None:
    """Say what came of earlier orders: whose process is gone, and whose job has ended."""
    left = {}
    for name, one in turn.fleet.brakes.items():
        worker = turn.fleet.workers.get(name)
        there = worker is not None and worker.generation == one.generation and worker.process is not None
        if one.kills:
            over = not there or (worker is not None and worker.state is WorkerState.UNKILLABLE)
        else:
            over = not there or one.ended or (worker is not None and one.job not in worker.jobs)
        if not over:
            left[name] = one
        elif one.kills or one.ended:  # else its job came to its end by itself before it heard the order
            freed = (0 if there else one.held_bytes) if one.kills else max(0, one.held_bytes - event.workers.get(name, one.held_bytes))
            _say(turn, name, one, freed)
    if len(left) != len(turn.fleet.brakes):
        turn.fleet = replace(turn.fleet, brakes=left)


def _say(turn: Turn, name: WorkerName, one: Brake, freed_bytes: int) -> None:
    line_bytes = lines(turn.limits.memory, turn.fleet.memory_bytes).emergency_bytes
    fields = {
        **({"killed": name} if one.kills else {"stopped": one.job, "layer": "sdk", "action": "stop"}),
        "available_bytes": one.available_bytes,
        "emergency_below_bytes": line_bytes,
        "freed_bytes": freed_bytes,
        "took_s": turn.now_s - one.ordered_at_s,
        "message": MESSAGE,
    }
    turn.announce("emergency_brake", worker=name, job=one.job, fields=fields)


def _not_ours(turn: Turn) -> None:
    """Nothing that we could end would help: find out whose the memory is, once in a while."""
    if turn.now_s - turn.fleet.outsiders_named_at_s >= turn.limits.memory.check_every_s:
        turn.fleet = replace(turn.fleet, outsiders_named_at_s=turn.now_s)
        turn.act(NameOutsiders())


def _outsiders_named(turn: Turn, event: OutsidersNamed) -> None:
    """Say who has the memory that no worker of ours has."""
    available, total = turn.fleet.available_bytes or 0, turn.fleet.memory_bytes
    line_bytes = lines(turn.limits.memory, total).emergency_bytes
    words = f"{_numbers(available, line_bytes)}; the workers have too little for their end to help, so none was ended. Most have: {', '.join(event.names)}"
    turn.announce("memory_outside", reason=words, fields={"available_bytes": available, "emergency_below_bytes": line_bytes})


def _guard_acted(turn: Turn, event: GuardActed) -> None:
    fields = {
        "killed": event.worker,
        "layer": "guard",
        "available_bytes": event.available_bytes,
        "hard_floor_bytes": event.floor_bytes,
        "freed_bytes": event.freed_bytes,
        "took_s": event.took_s,
        "message": MESSAGE,
    }
    turn.announce("emergency_brake", worker=event.worker, fields=fields)


def job_ended(turn: Turn, worker: WorkerName, job: JobId) -> None:
    """A job says that it ended because it was asked to."""
    one = turn.fleet.brakes.get(worker)
    if one is not None and one.job == job and not one.kills:
        _note(turn, replace(one, ended=True), worker)
