"""What a job waits for that the machine has too little memory for: the numbers, who has the memory, and what would help."""

from msgspec import Struct

from supervisor.core.admission import SMALL_BYTES, Shortage, at_work, estimate, promised, shortage
from supervisor.core.brake import API
from supervisor.core.gpu import leases_on
from supervisor.core.limits import Limits
from supervisor.core.line import WHOLE_SCALE, age_s, overdue, standing
from supervisor.core.memory import lines
from supervisor.core.model import BRAKING, Device, Fleet, Job, Reason, Worker
from supervisor.shapes import MemoryWaitView
from supervisor.units import format_size, short_duration


class Scene(Struct, frozen=True, kw_only=True):
    """What an answer is made of: everything at one instant."""

    fleet: Fleet
    limits: Limits
    now_s: float
    wall_s: float


def memory_view(job: Job, device: Device | None, scene: Scene) -> MemoryWaitView | None:
    """Return the numbers of the wait; None where nothing is known of the job's need. device: the one that it waits for as well."""
    found = _numbers(job, device, scene)
    if found is None:
        return None
    return MemoryWaitView(
        need_bytes=found.estimate.used_bytes,
        memory_from=found.estimate.source,
        more_bytes=found.more_bytes,
        available_bytes=found.available_bytes,
        back_bytes=found.back_bytes,
        warn_below_bytes=found.line_bytes,
        promised_bytes=found.promised_bytes,
        kept_bytes=found.kept_bytes,
        missing_bytes=max(0, found.missing_bytes),
    )


def memory_sentences(job: Job, device: Device | None, scene: Scene) -> list[str]:
    """Return who has the memory, in numbers, and when the job begins. device: as for `memory_view`."""
    fleet, found = scene.fleet, _numbers(job, device, scene)
    who = f"now: {', '.join(_who_has(fleet))}"
    if fleet.available_bytes is None:  # the first sentence has said so
        return []
    if fleet.zone in BRAKING or found is None:
        line_bytes = lines(scene.limits.memory, fleet.memory_bytes).emergency_bytes
        return [f"now: {format_size(fleet.available_bytes)} available, memory.emergency_below is {format_size(line_bytes)}", who]
    taken = [f"{format_size(found.line_bytes)} of which stay free (memory.warn_below)"] if found.line_bytes else []
    taken += [f"{format_size(size)} more is promised to {', '.join(fleet.workers[name].jobs)} on {name}" for name, size in promised(fleet).items() if size]
    taken += [f"{format_size(size)} is kept for {name}, which has waited for longer" for name, size in _kept(job, scene).items()]
    back = f", and {format_size(found.back_bytes)} that those give back who leave for it" if found.back_bytes else ""
    has = found.estimate.used_bytes - found.more_bytes
    return [
        f"needs: {found.estimate}{f', {format_size(has)} of which its worker has already' if has else ''}",
        f"now: {format_size(found.available_bytes)} available{back}{', '.join(['', *taken])}",
        who,
        f"then: {_then(job, found, scene)}",
    ]


def memory_remedies(scene: Scene) -> list[str]:
    """Return what a person can do, as commands: let idle workers go."""
    idle = [worker for worker in scene.fleet.workers.values() if worker.idle and worker.model != API and (worker.memory_bytes or 0) >= SMALL_BYTES]
    return ["warden status", *(f"warden workers stop {worker.name}" for worker in idle)]


def _numbers(job: Job, device: Device | None, scene: Scene) -> Shortage | None:
    """Return the numbers as the queue reckons them: by the largest worker that could do it, or by a fresh one and who leaves the device for that."""
    fleet, model = scene.fleet, scene.limits.model_for(job.kind)
    if model is None:
        return None
    worker = _largest(fleet, model)
    holders = leases_on(fleet, device) if device is not None and worker is None else ()
    leaving = [one for lease in holders if lease.worker and (one := fleet.workers[lease.worker]).idle]
    return shortage(fleet, scene.limits, estimate(fleet, model, job), worker, leaving=leaving, kept_bytes=sum(_kept(job, scene).values()))


def _largest(fleet: Fleet, model: str) -> Worker | None:
    up = [worker for worker in fleet.workers.values() if worker.model == model and worker.process is not None and worker.stop is None]
    return max(up, key=lambda one: one.memory_bytes or 0, default=None)


def _kept(job: Job, scene: Scene) -> dict[str, int]:
    """Return what is kept for each job before this one that has waited for memory for as long as anybody has to."""
    kept: dict[str, int] = {}
    for other in standing(scene.fleet, scene.limits, scene.now_s, scene.wall_s):
        if isinstance(other, Job) and other.id == job.id:
            break
        if isinstance(other, Job) and other.reason is Reason.WAITING_FOR_MEMORY and _overdue_in_s(other, scene) <= 0 and at_work(scene.fleet):
            model = scene.limits.model_for(other.kind)
            found = shortage(scene.fleet, scene.limits, estimate(scene.fleet, model, other), _largest(scene.fleet, model)) if model else None
            kept.update({other.id: found.more_bytes} if found is not None else {})
    return kept


def _overdue_in_s(job: Job, scene: Scene) -> float:
    step_s, age = scene.limits.jobs.age_step_s, age_s(job, scene.now_s)
    return 0.0 if overdue(job.priority, age, step_s) else max(WHOLE_SCALE, job.priority) * step_s - age


def _then(job: Job, found: Shortage, scene: Scene) -> str:
    if found.missing_bytes <= 0:
        return "there is enough just now: it is about to be placed"
    begins = f"it begins once {format_size(found.missing_bytes)} more are available"
    left_s = _overdue_in_s(job, scene)
    if left_s <= 0:
        return f"{begins}; nobody behind it takes what it needs"
    return f"{begins}; those that need less may go before it, for {short_duration(left_s)} more at the most"


def _who_has(fleet: Fleet) -> list[str]:
    """Return who has the machine's memory: our workers, the largest first, and all others together."""
    ours = sorted((worker for worker in fleet.workers.values() if worker.memory_bytes), key=lambda one: -(one.memory_bytes or 0))
    words = [_worker_has(worker) for worker in ours]
    rest = fleet.memory_bytes - (fleet.available_bytes or 0) - sum(worker.memory_bytes or 0 for worker in ours)
    return [*words, f"all else on the machine {format_size(rest)}"] if rest > 0 else words or ["no worker has any"]


def _worker_has(worker: Worker) -> str:
    doing = f"at work on {', '.join(worker.jobs)}" if worker.jobs else "idle" if worker.idle else worker.state
    return f"{worker.name} has {format_size(worker.memory_bytes or 0)} ({doing})"
