"""What follows once something changed: jobs find workers, workers find devices, whoever is needed starts and whoever is not leaves."""

from msgspec.structs import replace

from supervisor.core import generations, handover
from supervisor.core.actions import Leave, SendJob
from supervisor.core.gpu import Begin, Blocked, device_for, may_begin, startable, wants_back
from supervisor.core.jobs import Step, advance, in_order
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import (
    AT_WORK,
    WITH_PROCESS,
    Cause,
    Job,
    JobStatus,
    LeaseState,
    Reason,
    Wanted,
    Worker,
    WorkerState,
)
from supervisor.core.reload import forget_retired
from supervisor.core.turn import Turn


def settle(turn: Turn) -> None:
    """Apply every policy to the fleet as it now is."""
    if turn.fleet.stopping_since_s is not None:
        _leave(turn)
        return
    forget_retired(turn)
    _assign(turn)
    _bring_residents_back(turn)
    for name in tuple(turn.fleet.workers):
        _start_or_retire(turn, turn.fleet.workers[name])
        _send(turn, turn.fleet.workers[name])


def _assign(turn: Turn) -> None:
    """Give each queued job, the most urgent first, to a worker that can take it or be started for it."""
    running = sum(1 for job in turn.fleet.jobs.values() if job.status in AT_WORK)
    limit = turn.limits.jobs.max_running
    device_wanted_by: Job | None = None  # a job that waits for a device another model holds: nobody behind it may prolong that hold
    for job in in_order(turn.fleet.jobs.values(), turn.limits.jobs, turn.now_s):
        model = turn.limits.model_for(job.kind)
        if model is None:
            _wait(turn, job, Reason.WAITING_FOR_WORKER, f"no worker in supervisor.toml serves {job.kind} any more")
        elif running >= limit:
            _wait(turn, job, Reason.WAITING_FOR_WORKER, f"{running} at work already, jobs.max_running is {limit}")
        elif turn.limits.workers[model].gpu_bytes and device_wanted_by is not None:
            _wait(turn, job, Reason.WAITING_FOR_GPU, f"{device_wanted_by.id} is before it in the queue for the device")
        else:
            blocked = _place(turn, job, model)
            if blocked is None:
                running += 1
            else:
                _wait(turn, job, blocked.reason, blocked.sentence)
                if blocked.reason is Reason.WAITING_FOR_GPU:
                    device_wanted_by = job


class _NoPlace(Blocked, frozen=True):
    """Why a job cannot be placed now."""

    reason: Reason = Reason.WAITING_FOR_WORKER


def _place(turn: Turn, job: Job, model: str) -> _NoPlace | None:
    """Assign the job to the best worker of its model, or return why none can take it."""
    spec = turn.limits.workers[model]
    workers = [worker for worker in turn.fleet.workers.values() if worker.model == model]
    takers = [worker for worker in workers if _takes(turn, worker, spec.concurrency)]
    if takers:
        _assign_to(turn, job, min(takers, key=lambda worker: (len(worker.jobs), worker.state is not WorkerState.READY, worker.name)))
        return None
    for worker in workers:
        if worker.wanted is Wanted.UP and not worker.jobs and startable(worker, turn.now_s):
            if not spec.gpu_bytes:
                _assign_to(turn, job, worker)
                return None
            return _place_on_device(turn, job, worker)
    return _NoPlace(_why_nobody(turn, workers), Reason.WAITING_FOR_WORKER)


def _takes(turn: Turn, worker: Worker, concurrency: int) -> bool:
    """Return whether the worker runs, or is about to, and has room."""
    if worker.stop is not None or len(worker.jobs) >= concurrency or worker.wanted is not Wanted.UP:
        return False
    if worker.state in (WorkerState.READY, WorkerState.BUSY, WorkerState.STARTING):
        return True
    lease = turn.fleet.lease_of(worker.name)  # a resident on its way back: the device is being proved for it
    return lease is not None and lease.state is LeaseState.WAITING


def _place_on_device(turn: Turn, job: Job, worker: Worker) -> _NoPlace | None:
    spec = turn.spec(worker)
    device = device_for(turn.fleet, spec.gpu_bytes, turn.limits.gpu.margin_bytes)
    if device is None:
        return _NoPlace("no device is large enough", Reason.WAITING_FOR_MEMORY)
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
        done=0.0,
        total=0.0,
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
        elif worker.jobs:
            words.append(f"{worker.name} is busy with {', '.join(worker.jobs)}")
        else:
            words.append(f"{worker.name} is {worker.state}{f': {worker.stop.reason}' if worker.stop else ''}")
    return "; ".join(words)


def _wait(turn: Turn, job: Job, reason: Reason, message: str) -> None:
    """Say why a job waits, where that changed."""
    if (job.reason, job.message) != (reason, message):
        turn.put_job(replace(job, reason=reason, message=message))


def _bring_residents_back(turn: Turn) -> None:
    """Give a device that nobody waits for to the most urgent resident that is away."""
    away = [
        worker
        for worker in turn.fleet.workers.values()
        if turn.spec(worker).gpu_bytes and wants_back(worker, turn.limits, turn.now_s) and turn.fleet.lease_of(worker.name) is None
    ]
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
        if worker.wanted is Wanted.UP and worker.state not in (WorkerState.QUARANTINED, WorkerState.UNKILLABLE) and turn.spec(worker).gpu_bytes
    }
    kinds = {kind for model in models for kind in turn.limits.workers[model].serves}
    return any(job.status is JobStatus.QUEUED and job.kind in kinds for job in turn.fleet.jobs.values())


def _start_or_retire(turn: Turn, worker: Worker) -> None:
    spec = turn.spec(worker)
    if worker.wanted is Wanted.DOWN:
        if worker.state in WITH_PROCESS and worker.stop is None:
            why = "the configuration no longer names it" if worker.retired else "the operator wants it down"
            generations.order_leave(turn, worker, Cause.OPERATOR, why, boundary=True)
        elif may(worker, Signal.REST):
            turn.put_worker(replace(move(worker, Signal.REST, turn.now_s), failures=0))
        return
    needed = spec.resident or not spec.serves or bool(worker.jobs)
    if startable(worker, turn.now_s):
        if needed and (not spec.gpu_bytes or _granted(turn, worker)) and _preceded(turn, spec):
            generations.start(turn, worker)
        elif not needed and may(worker, Signal.REST):
            turn.put_worker(move(worker, Signal.REST, turn.now_s))
    elif worker.state is WorkerState.READY and not needed:
        generations.order_leave(turn, worker, Cause.IDLE, "no job is left for it, and it is not resident")


def _preceded(turn: Turn, spec: WorkerSpec) -> bool:
    """Return whether every worker that must be ready before one of this kind is."""
    serving = (WorkerState.READY, WorkerState.BUSY)
    return all(worker.state in serving for worker in turn.fleet.workers.values() if worker.model in spec.after)


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


def _leave(turn: Turn) -> None:
    """The supervisor is stopping: everyone leaves, then it does."""
    since_s = turn.fleet.stopping_since_s or turn.now_s
    out_of_time = turn.fleet.stopping_now or turn.now_s >= since_s + turn.limits.supervisor.shutdown_grace_s
    for name in tuple(turn.fleet.workers):
        worker = turn.fleet.workers[name]
        if worker.state in WITH_PROCESS and (worker.stop is None or worker.state is WorkerState.DRAINING):
            generations.order_stop(turn, worker, Cause.SHUTDOWN, "the supervisor stops")
            worker = turn.fleet.workers[name]
        if out_of_time and worker.state is WorkerState.STOPPING and worker.stop is not None and worker.stop.killed_at_s is None:
            generations.kill(turn, worker, worker.stop, "shutdown_grace is over" if not turn.fleet.stopping_now else "asked to stop now")
    still = [worker for worker in turn.fleet.workers.values() if worker.state in WITH_PROCESS or worker.state is WorkerState.EXITED]
    if not still:
        turn.act(Leave())
