"""What follows once something changed: jobs find workers, workers find devices, whoever is needed starts and whoever is not leaves."""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from supervisor.core import generations, handover
from supervisor.core.actions import SendJob
from supervisor.core.gpu import Begin, Blocked, device_for, may_begin, no_device, startable, wants_back
from supervisor.core.jobs import Step, advance, in_order, rests
from supervisor.core.leaving import leave
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import (
    AT_WORK,
    WITH_PROCESS,
    Cause,
    Job,
    JobId,
    JobStatus,
    LeaseState,
    Reason,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.reload import forget_retired
from supervisor.core.turn import Turn


def settle(turn: Turn, *, whole: bool = False) -> None:
    """Apply every policy to the fleet as it now is.

    A worker with a process that this turn did not change was settled when it was changed last, and is left out; whole: nobody is, for the limits are new.
    """
    if turn.fleet.stopping_since_s is not None:
        leave(turn)
        return
    forget_retired(turn)
    _assign(turn)
    _bring_residents_back(turn)
    before = turn.before.workers
    for name, worker in turn.fleet.workers.items():
        if whole or worker.process is None or before.get(name) is not worker:
            _start_or_retire(turn, worker)
            _send(turn, turn.fleet.workers[name])


def may_follow(turn: Turn, resting: Iterable[Worker]) -> bool:
    """Return whether time alone may have brought something that `settle` has to see: a place in the queue, a comeback, the end of a refusal's pause.

    resting: the workers without a process.
    """
    fleet, now_s = turn.fleet, turn.now_s
    if fleet.stopping_since_s is not None or any(job.status is JobStatus.QUEUED for job in fleet.jobs.values()):
        return True
    if any(worker.state in _WAITING and now_s >= worker.retry_at_s for worker in resting):
        return True
    held_off = [device for device in fleet.devices.values() if device.hold_off_until_s and now_s >= device.hold_off_until_s]
    for device in held_off:
        turn.put_device(replace(device, hold_off_until_s=0.0))
    return bool(held_off)


_WAITING: Final = frozenset({WorkerState.BACKOFF, WorkerState.QUARANTINED})


def _assign(turn: Turn) -> None:
    """Give each queued job, the most urgent first, to a worker that can take it or be started for it."""
    queued = [job for job in turn.fleet.jobs.values() if job.status is JobStatus.QUEUED]
    if not queued:
        return
    others = [job for job in turn.fleet.jobs.values() if job.status is not JobStatus.QUEUED]
    running = sum(1 for job in others if job.status in AT_WORK)
    limit = turn.limits.jobs.max_running
    model_of = {kind: name for name, spec in turn.limits.workers.items() for kind in spec.serves}
    device_wanted_by: Job | None = None  # a job that waits for a device another model holds: nobody behind it may prolong that hold
    known: dict[str, _NoPlace] = {}  # by kind: what one job heard, the next of its kind hears too, until a worker or the device is taken
    told: dict[JobId, Job] = {}
    now_s, wall_s, held = turn.now_s, turn.wall_s, _HELD_QUEUE if turn.fleet.held else None
    for job in in_order(queued, turn.limits.jobs, now_s) if running < limit else queued:
        rest = rests(job, now_s, wall_s) if job.held or job.retry_at_s > now_s or job.run_at_wall is not None else None
        waits = _resting(job, rest) if rest else held or known.get(job.kind)
        if waits is None:
            model = model_of.get(job.kind)
            waits = _no_room(turn, model, job, running, device_wanted_by) or _place(turn, job, model or "")
            if waits is None:
                running += 1
                known.clear()
                continue
            known[job.kind] = waits
            if waits.reason is Reason.WAITING_FOR_GPU and device_wanted_by is None:
                device_wanted_by = job
                known.clear()
        if job.message != waits.sentence or job.reason is not waits.reason:
            told[job.id] = replace(job, reason=waits.reason, message=waits.sentence)
    if told:
        turn.put_jobs(told)


class _NoPlace(Blocked, frozen=True):
    """Why a job cannot be placed now."""

    reason: Reason = Reason.WAITING_FOR_WORKER


_HELD_QUEUE: Final = _NoPlace("the queue is held (warden jobs release)", Reason.HELD)


def _resting(job: Job, reason: Reason) -> _NoPlace:
    """Return why a job does not stand in the queue at all just now. After a failure that is what went wrong, which it says already."""
    match reason:
        case Reason.HELD:
            return _NoPlace(f"held since it was submitted (warden jobs start {job.id})", Reason.HELD)
        case Reason.SCHEDULED:
            return _NoPlace("its time has not come", Reason.SCHEDULED)
        case _:
            return _NoPlace(job.message, Reason.RETRY_BACKOFF)


def _no_room(turn: Turn, model: str | None, job: Job, running: int, device_wanted_by: Job | None) -> _NoPlace | None:
    """Return why no worker has to be looked for, or None."""
    if model is None:
        return _NoPlace(f"no worker in supervisor.toml serves {job.kind} any more")
    if running >= turn.limits.jobs.max_running:
        return _NoPlace(f"{running} at work already, jobs.max_running is {turn.limits.jobs.max_running}")
    if turn.limits.workers[model].gpu_bytes and device_wanted_by is not None:
        return _NoPlace(f"{device_wanted_by.id} is before it in the queue for the device", Reason.WAITING_FOR_GPU)
    return None


def _place(turn: Turn, job: Job, model: str) -> _NoPlace | None:
    """Assign the job to the best worker of its model, or return why none can take it."""
    spec = turn.limits.workers[model]
    workers = [worker for worker in turn.fleet.workers.values() if worker.model == model]
    takers = [worker for worker in workers if len(worker.jobs) < spec.concurrency and _takes(turn, worker)]
    if takers:
        _assign_to(turn, job, min(takers, key=lambda worker: (len(worker.jobs), worker.state is not WorkerState.READY, worker.name)))
        return None
    for worker in workers:
        if worker.wanted is Wanted.UP and not worker.jobs and startable(worker, turn.now_s) and not _behind(turn, worker):
            if not spec.gpu_bytes:
                _assign_to(turn, job, worker)
                return None
            return _place_on_device(turn, job, worker)
    return _NoPlace(_why_nobody(turn, workers), Reason.WAITING_FOR_WORKER)


def _takes(turn: Turn, worker: Worker) -> bool:
    """Return whether the worker runs, or is about to."""
    if worker.stop is not None or worker.wanted is not Wanted.UP:
        return False
    if worker.state in (WorkerState.READY, WorkerState.BUSY, WorkerState.STARTING):
        return True
    lease = turn.fleet.lease_of(worker.name)  # a resident on its way back: the device is being proved for it
    return lease is not None and lease.state is LeaseState.WAITING


def _place_on_device(turn: Turn, job: Job, worker: Worker) -> _NoPlace | None:
    spec = turn.spec(worker)
    device = device_for(turn.fleet, spec.gpu_bytes, turn.limits.gpu.margin_bytes)
    if device is None:
        return _NoPlace(no_device(turn.fleet), Reason.WAITING_FOR_MEMORY)
    plan = may_begin(turn.fleet, device, weak=False)
    if isinstance(plan, Blocked):
        return _NoPlace(plan.sentence, Reason.WAITING_FOR_GPU)
    if turn.fleet.lease_of(worker.name) is not None:
        return _NoPlace(f"the memory that {worker.name} held before is not proved free yet", Reason.WAITING_FOR_GPU)
    job = _assign_to(turn, job, worker)
    turn.put_job(replace(job, device=device.id, phase="vacating"))
    handover.begin(turn, device, turn.fleet.workers[worker.name], job, plan)
    return None


def _assign_to(turn: Turn, job: Job, worker: Worker) -> Job:
    """The job is prepared for this worker from now on; its work begins when the worker is ready."""
    turn.put_worker(replace(worker, jobs=(*worker.jobs, job.id)))
    job = replace(
        advance(job, Step.ASSIGN, turn.wall_s),
        worker=worker.name,
        device=turn.device_of(worker),
        attempt=job.attempt + 1,
        reason=Reason.NONE,
        message="",
        phase="loading",
        paced_from=None,  # how far the attempt before it came stands until this one says where it is
    )
    return turn.put_job(job)


def _why_nobody(turn: Turn, workers: list[Worker]) -> str:
    """Return what each worker of the model does instead, in words."""
    words = []
    for worker in workers:
        if worker.wanted is Wanted.DOWN:
            words.append(f"{worker.name} is wanted down (warden workers start {worker.name})")
        elif worker.state in (WorkerState.BACKOFF, WorkerState.QUARANTINED):
            words.append(f"{worker.name} is in {worker.state}, next try in {max(0.0, worker.retry_at_s - turn.now_s):.0f} s: {worker.last_reason}")
        elif behind := _behind(turn, worker):
            words.append(f"{worker.name} starts when {', '.join(behind)} is ready")
        elif worker.jobs:
            words.append(f"{worker.name} is busy with {', '.join(worker.jobs)}")
        else:
            words.append(f"{worker.name} is {worker.state}{f': {worker.stop.reason}' if worker.stop else ''}")
    return "; ".join(words)


def _bring_residents_back(turn: Turn) -> None:
    """Give a device that nobody waits for to the most urgent resident that is away."""
    gone = [worker for worker in turn.fleet.workers.values() if worker.process is None and turn.spec(worker).gpu_bytes]
    away = [worker for worker in gone if wants_back(worker, turn.limits, turn.now_s) and turn.fleet.lease_of(worker.name) is None and not _behind(turn, worker)]
    for worker in sorted(away, key=lambda worker: (turn.spec(worker).priority, worker.name)):
        device = device_for(turn.fleet, turn.spec(worker).gpu_bytes, turn.limits.gpu.margin_bytes)
        if device is None or turn.now_s < device.hold_off_until_s:
            continue
        if _somebody_waits(turn):
            continue
        plan = may_begin(turn.fleet, device, weak=True)
        if isinstance(plan, Begin):
            handover.begin(turn, device, worker, None, plan)


def _somebody_waits(turn: Turn) -> bool:
    """Return whether a queued job needs a device and some worker could do it soon."""
    models = {
        worker.model
        for worker in turn.fleet.workers.values()
        if turn.spec(worker).gpu_bytes
        and worker.wanted is Wanted.UP
        and worker.state not in (WorkerState.QUARANTINED, WorkerState.UNKILLABLE)
        and not _behind(turn, worker)
    }
    kinds = {kind for model in models for kind in turn.limits.workers[model].serves}
    return any(job.status is JobStatus.QUEUED and job.kind in kinds and _stands(turn, job) for job in turn.fleet.jobs.values())


def _stands(turn: Turn, job: Job) -> bool:
    """Return whether a queued job will be placed as soon as it can be. After a failure it is back so soon that nobody should come in between."""
    return not turn.fleet.held and rests(job, turn.now_s, turn.wall_s) in (Reason.NONE, Reason.RETRY_BACKOFF)


def _start_or_retire(turn: Turn, worker: Worker) -> None:
    spec = turn.spec(worker)
    if worker.wanted is Wanted.DOWN:
        coming_back = (
            worker.state is WorkerState.STARTING and worker.process is not None and worker.process.adopted
        )  # its work is saved when it can be asked to
        if worker.state in WITH_PROCESS and worker.stop is None and not coming_back:
            why = "the configuration no longer names it" if worker.retired else "the operator wants it down"
            generations.order_leave(turn, worker, Cause.OPERATOR, why, boundary=True)
        elif may(worker, Signal.REST):
            turn.put_worker(replace(move(worker, Signal.REST, turn.now_s), failures=0))
        return
    needed = spec.resident or not spec.serves or bool(worker.jobs)
    if startable(worker, turn.now_s):
        if needed and (_granted(turn, worker) if spec.gpu_bytes else bool(worker.jobs) or not _behind(turn, worker)):
            generations.start(turn, worker)
        elif not needed and may(worker, Signal.REST):
            turn.put_worker(move(worker, Signal.REST, turn.now_s))
    elif worker.state is WorkerState.READY and not needed:
        generations.order_leave(turn, worker, Cause.IDLE, "no job is left for it, and it is not resident")


def _behind(turn: Turn, worker: Worker) -> list[WorkerName]:
    """Return the workers that must be ready before this one, and are not. Asked once, before a job or the device is on its way to it."""
    after = turn.spec(worker).after
    if not after:
        return []
    first = (other for other in turn.fleet.workers.values() if other.model in after and not other.retired)
    return [other.name for other in first if other.state not in (WorkerState.READY, WorkerState.BUSY)]


def _granted(turn: Turn, worker: Worker) -> bool:
    lease = turn.fleet.lease_of(worker.name)
    return lease is not None and lease.state is LeaseState.HELD


def _send(turn: Turn, worker: Worker) -> None:
    """Send the jobs that waited for the worker to be ready."""
    if worker.state not in (WorkerState.READY, WorkerState.BUSY) or worker.stop is not None:
        return
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is JobStatus.PREPARING and job.sent_at_s is None:
            if worker.state is WorkerState.READY:
                worker = turn.put_worker(move(worker, Signal.JOB, turn.now_s))
            job = replace(job, sent_at_s=turn.now_s, phase="starting", device=turn.device_of(worker))
            order = SendJob(worker=worker.name, generation=worker.generation, job=job.id, attempt=job.attempt, kind=job.kind, params=job.params)
            turn.save_job(job, order)
