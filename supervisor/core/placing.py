"""The queue: each job, and each program that waits for a device, in its turn; a job finds a worker, and both find a device."""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from supervisor.core import handover, outside
from supervisor.core.gpu import Blocked, device_for, may_begin, no_device, startable
from supervisor.core.jobs import Step, advance, in_order, rank, rests
from supervisor.core.model import AT_WORK, BRAKING, Job, JobId, JobStatus, LeaseState, Reason, Ticket, Waiter, Wanted, Worker, WorkerName, WorkerState
from supervisor.core.turn import Turn


def assign(turn: Turn) -> None:
    """Give each queued job, the most urgent first, to a worker that can take it or be started for it, and each device to whoever is next for it."""
    queued = [job for job in turn.fleet.jobs.values() if job.status is JobStatus.QUEUED]
    waiters = outside.in_line(turn.fleet.waiters.values())
    if not queued and not waiters:
        return
    running = sum(1 for job in turn.fleet.jobs.values() if job.status in AT_WORK)
    if running < turn.limits.jobs.max_running:
        queued = in_order(queued, turn.limits.jobs, turn.now_s)
    _Queue(turn, running).serve(_merged(turn, queued, waiters) if waiters else queued)


def _merged(turn: Turn, queued: Iterable[Job], waiters: Iterable[Waiter]) -> list[Job | Waiter]:
    """Return jobs and programs outside Warden in one line: each ages by its own step, ties go by arrival."""
    now_s, gpu, jobs = turn.now_s, turn.limits.gpu, turn.limits.jobs
    ranked: list[tuple[tuple[int, float, str], Job | Waiter]] = [(rank(job, jobs, now_s), job) for job in queued]
    ranked += [(outside.rank(waiter, gpu, now_s), waiter) for waiter in waiters]
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


class _Queue:
    """One pass over the queue."""

    def __init__(self, turn: Turn, running: int) -> None:
        self._turn = turn
        self._running = running
        self._model_of = {kind: name for name, spec in turn.limits.workers.items() for kind in spec.serves}
        self._first = ""  # who waits for a device that another holds: nobody behind it may prolong that hold
        self._known: dict[str, _NoPlace] = {}  # by kind: what one job heard, the next of its kind hears too, until a worker or the device is taken
        self._told: dict[JobId, Job] = {}
        self._told_outside: dict[Ticket, Waiter] = {}

    def serve(self, line: Iterable[Job | Waiter]) -> None:
        """Place whoever can be placed, and tell the others what they wait for."""
        for one in line:
            if isinstance(one, Waiter):
                self._outside(one)
            else:
                self._job(one)
        if self._told:
            self._turn.put_jobs(self._told)
        if self._told_outside:
            self._turn.put_waiters(self._told_outside)

    def _outside(self, waiter: Waiter) -> None:
        sentence = outside.place(self._turn, waiter, self._first)
        if sentence and sentence != waiter.message:
            self._told_outside[waiter.outside.ticket] = replace(waiter, message=sentence)
        if sentence and not self._first:
            self._first = waiter.outside.words
        elif sentence:
            return
        self._known.clear()

    def _job(self, job: Job) -> None:
        turn = self._turn
        rest = rests(job, turn.now_s, turn.wall_s) if job.held or job.retry_at_s > turn.now_s or job.run_at_wall is not None else None
        waits = _resting(job, rest) if rest else _HELD_QUEUE if turn.fleet.held else _NO_MEMORY if turn.fleet.zone in BRAKING else self._known.get(job.kind)
        if waits is None:
            model = self._model_of.get(job.kind)
            waits = _no_room(turn, model, job, self._running, self._first) or _place(turn, job, model or "")
            if waits is None:
                self._running += 1
                self._known.clear()
                return
            self._known[job.kind] = waits
            if waits.reason is Reason.WAITING_FOR_GPU and not self._first:
                self._first = job.id
                self._known.clear()
        if job.message != waits.sentence or job.reason is not waits.reason:
            self._told[job.id] = replace(job, reason=waits.reason, message=waits.sentence)


class _NoPlace(Blocked, frozen=True):
    """Why a job cannot be placed now."""

    reason: Reason = Reason.WAITING_FOR_WORKER


_NO_MEMORY: Final = _NoPlace("the machine has too little memory available, memory.emergency_below says how much: nothing is started", Reason.WAITING_FOR_MEMORY)
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


def _no_room(turn: Turn, model: str | None, job: Job, running: int, first: str) -> _NoPlace | None:
    """Return why no worker has to be looked for, or None."""
    if model is None:
        return _NoPlace(f"no worker in supervisor.toml serves {job.kind} any more")
    if running >= turn.limits.jobs.max_running:
        return _NoPlace(f"{running} at work already, jobs.max_running is {turn.limits.jobs.max_running}")
    if turn.limits.workers[model].gpu_bytes and first:
        return _NoPlace(f"{first} is before it in the queue for the device", Reason.WAITING_FOR_GPU)
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
        if worker.wanted is Wanted.UP and not worker.jobs and startable(worker, turn.now_s) and not behind(turn, worker):
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
        elif first := behind(turn, worker):
            words.append(f"{worker.name} starts when {', '.join(first)} is ready")
        elif worker.jobs:
            words.append(f"{worker.name} is busy with {', '.join(worker.jobs)}")
        else:
            words.append(f"{worker.name} is {worker.state}{f': {worker.stop.reason}' if worker.stop else ''}")
    return "; ".join(words)


def behind(turn: Turn, worker: Worker) -> list[WorkerName]:
    """Return the workers that must be ready before this one, and are not. Asked once, before a job or the device is on its way to it."""
    after = turn.spec(worker).after
    if not after:
        return []
    first = (other for other in turn.fleet.workers.values() if other.model in after and not other.retired)
    return [other.name for other in first if other.state not in (WorkerState.READY, WorkerState.BUSY)]
