"""The queue: each job, and each program that waits for a device, in its turn; a job finds a worker, and both find a device."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from supervisor.core import handover, ladder, outside, sharing, yielding
from supervisor.core.admission import Room, estimate, is_overdue
from supervisor.core.gpu import Blocked, devices_for, leases_on, no_device, startable
from supervisor.core.jobs import Step, advance, in_order, rests
from supervisor.core.limits import WorkerSpec
from supervisor.core.line import Claim, behind, choose, claim_of, in_line, merged
from supervisor.core.model import (
    AT_WORK,
    BRAKING,
    Cause,
    DeviceId,
    Job,
    JobId,
    JobStatus,
    LeaseState,
    Reason,
    Ticket,
    Waiter,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.no_place import HELD_QUEUE, NO_MEMORY, NoPlace, no_room, resting
from supervisor.core.turn import Turn


def assign(turn: Turn) -> None:
    """Give each queued job, the most urgent first, to a worker that can take it or be started for it, and each device to whoever is next for it."""
    queued = [job for job in turn.fleet.jobs.values() if job.status is JobStatus.QUEUED]
    waiters = in_line(turn.fleet.waiters.values())
    if not queued and not waiters:
        yielding.ask(turn, {})
        return
    running = sum(1 for job in turn.fleet.jobs.values() if job.status in AT_WORK)
    if running < turn.limits.jobs.max_running or turn.fleet.devices:
        queued = in_order(queued, turn.limits.jobs, turn.now_s)
    _Queue(turn, running).serve(merged(queued, waiters, turn.limits, turn.now_s))


class _Queue:
    """One pass over the queue."""

    def __init__(self, turn: Turn, running: int) -> None:
        self._turn = turn
        self._running = running
        self._model_of = {kind: name for name, spec in turn.limits.workers.items() for kind in spec.serves}
        self._first: dict[DeviceId, Claim] = {}  # who waits first for a device: nobody behind it takes that, or prolongs another's hold of it
        self._lines: defaultdict[DeviceId, list[Job | Waiter]] = defaultdict(list)
        self._room = Room(turn)
        self._known: dict[object, NoPlace] = {}  # what one heard, the next of its kind (or of its need) hears too, until a worker or a device is taken
        self._nothing_starts = HELD_QUEUE if turn.fleet.held else NO_MEMORY if turn.fleet.zone in BRAKING else None
        self._told: dict[JobId, Job] = {}
        self._told_outside: dict[Ticket, Waiter] = {}

    def serve(self, line: Iterable[Job | Waiter]) -> None:
        """Place whoever can be placed, tell the others what they wait for, and ask who is in their way to give way."""
        for one in line:
            if isinstance(one, Waiter):
                self._outside(one)
            else:
                self._job(one)
        if self._told:
            self._turn.put_jobs(self._told)
        if self._told_outside:
            self._turn.put_waiters(self._told_outside)
        yielding.ask(self._turn, self._lines)

    def _waits_for(self, device: DeviceId, one: Job | Waiter) -> None:
        """Somebody stands in the line of a device from now on."""
        self._lines[device].append(one)
        if device not in self._first:
            self._first[device] = claim_of(self._turn, one, self._turn.fleet.devices[device])
            self._known.clear()

    def _outside(self, waiter: Waiter) -> None:
        need = (waiter.device, waiter.need_bytes)
        waits = self._known.get(need)
        if waits is None:
            sentence, device = outside.place(self._turn, waiter, self._first)
            if not sentence:
                self._known.clear()
                return
            waits = self._known[need] = NoPlace(sentence, device=device)
        if waits.sentence != waiter.message:
            self._told_outside[waiter.outside.ticket] = replace(waiter, message=waits.sentence)
        if waits.device is not None:
            self._waits_for(waits.device, waiter)

    def _job(self, job: Job) -> None:
        turn = self._turn
        rest = rests(job, turn.now_s, turn.wall_s) if job.held or job.retry_at_s > turn.now_s or job.run_at_wall is not None else None
        waits = resting(job, rest) if rest else self._nothing_starts or self._known.get((job.kind, job.only_on)) or self._look(job)
        if waits is None:
            self._running += 1
            self._known.clear()
            return
        if waits.device is not None:
            self._waits_for(waits.device, job)
        if job.message != waits.sentence or job.reason is not waits.reason:
            self._told[job.id] = replace(job, reason=waits.reason, message=waits.sentence)

    def _look(self, job: Job) -> NoPlace | None:
        """Assign the job, or return why it cannot be: for want of memory those hear the same that need as much, for anything else all of its kind."""
        needs_bytes = estimate(self._turn.fleet, self._model_of.get(job.kind, ""), job).used_bytes
        alike = (job.kind, job.only_on, needs_bytes, needs_bytes > 0 and is_overdue(self._turn, job))
        if (known := self._known.get(alike)) is not None:
            return known
        waits = self._seek(job)
        if waits is not None:
            self._known[alike if waits.reason is Reason.WAITING_FOR_MEMORY else (job.kind, job.only_on)] = waits
        return waits

    def _seek(self, job: Job) -> NoPlace | None:
        """Assign the job, or return why it cannot be."""
        turn, model = self._turn, self._model_of.get(job.kind)
        if model is None:
            return NoPlace(f"no worker in supervisor.toml serves {job.kind} any more")
        limit = turn.limits.jobs.max_running
        if self._running >= limit:
            device = _makes_room(turn, job, turn.limits.workers[model], self._running - limit)
            return NoPlace(f"{self._running} at work already, jobs.max_running is {limit}", device=device)
        return _place(turn, job, model, self._first, self._room)


def _makes_room(turn: Turn, job: Job, spec: WorkerSpec, over: int) -> DeviceId | None:
    """Return the device that such a worker would take, where the end of the work on it is what makes room for one more job."""
    for device in devices_for(turn.fleet, spec.gpu_bytes, turn.limits.gpu.margin_bytes) if spec.gpu_bytes else ():
        at_work = sum(len(turn.fleet.workers[lease.worker].jobs) for lease in leases_on(turn.fleet, device) if lease.worker)
        if at_work > over and job.only_on in {None, device.id}:
            return device.id
    return None


def _place(turn: Turn, job: Job, model: str, first: Mapping[DeviceId, Claim], room: Room) -> NoPlace | None:
    """Assign the job to the best worker of its model, or return why none can take it. first: who waits first for each device; room: of the machine's memory."""
    spec = turn.limits.workers[model]
    workers = [worker for worker in turn.fleet.workers.values() if worker.model == model]
    up = [worker for worker in workers if _takes(turn, worker)]
    there = [worker for worker in up if not spec.gpu_bytes or job.only_on in {None, turn.device_of(worker)}]
    takers = [worker for worker in there if len(worker.jobs) < spec.concurrency and not _holds_up(turn, worker, first)]
    able = [worker for worker in takers if sharing.covers(turn.fleet, turn.limits, worker=worker, job=job, now_s=turn.now_s)]
    if able:
        most = -1 if estimate(turn.fleet, model, job).used_bytes else 0  # what a worker has already is needed no more
        best = min(able, key=lambda worker: (len(worker.jobs), worker.state is not WorkerState.READY, most * (worker.memory_bytes or 0), worker.name))
        return _give(turn, job, best, room)
    for worker in takers:
        if worker.idle:
            why = f"{job.id} needs more of the device than it was given"
            ladder.order_leave(turn, worker, Cause.HANDOVER, why)
            return NoPlace(f"{worker.name} leaves and comes back: {why}", Reason.WAITING_FOR_GPU, turn.device_of(worker))
    for worker in workers:
        if worker.wanted is Wanted.UP and not worker.jobs and startable(worker, turn.now_s) and not behind_others(turn, worker):
            if not spec.gpu_bytes:
                return _give(turn, job, worker, room)
            return _place_on_device(turn, job, worker, first, room)
    if (waits := _move(turn, job, up, first)) is not None:
        return waits
    held = _of_their_own(turn, there)
    for device in held:  # its own worker's, which it waits for; unless somebody before it waits for that device, and is not of its kind
        ahead = first.get(device)
        if ahead is not None and ahead.model != model:
            return NoPlace(behind(ahead), Reason.WAITING_FOR_GPU, device)
    return NoPlace(_why_nobody(turn, workers), Reason.WAITING_FOR_WORKER, held[0] if held else _named(turn, job, workers))


def _of_their_own(turn: Turn, workers: Iterable[Worker]) -> list[DeviceId]:
    """Return the devices of workers whose end of work makes room; none where holders share, for a job that needs its worker is not helped by room."""
    return [] if sharing.shared(turn.limits) else [device for worker in workers if (device := turn.device_of(worker)) is not None]


def _named(turn: Turn, job: Job, workers: Iterable[Worker]) -> DeviceId | None:
    """Return the device that the job names, while a worker is on its way from another one to it."""
    moves = any(worker.wanted is Wanted.UP and not worker.jobs and _leaves(turn, worker) for worker in workers if turn.spec(worker).gpu_bytes)
    return job.only_on if moves and job.only_on in turn.fleet.devices else None


def _leaves(turn: Turn, worker: Worker) -> bool:
    lease = turn.fleet.lease_of(worker.name)
    return worker.stop is not None or (lease is not None and lease.state is LeaseState.COOLING)


def _holds_up(turn: Turn, worker: Worker, first: Mapping[DeviceId, Claim]) -> bool:
    """Return whether more work for the worker would keep somebody waiting who is first in line for its device."""
    device = turn.device_of(worker)
    claim = first.get(device) if device is not None else None
    return device is not None and claim is not None and sharing.holds_up(turn, worker, turn.fleet.devices[device], claim.need_bytes)


def _takes(turn: Turn, worker: Worker) -> bool:
    """Return whether the worker runs, or is about to."""
    if worker.stop is not None or worker.wanted is not Wanted.UP:
        return False
    if worker.state in (WorkerState.READY, WorkerState.BUSY, WorkerState.STARTING):
        return True
    lease = turn.fleet.lease_of(worker.name)  # a resident on its way back: the device is being proved for it
    return lease is not None and lease.state is LeaseState.WAITING


def _give(turn: Turn, job: Job, worker: Worker, room: Room) -> NoPlace | None:
    """Assign the job to a worker that can take it, unless the machine has too little memory for it."""
    if words := room.missing(job, worker):
        return no_room(turn, job, words, turn.device_of(worker))
    _assign_to(turn, job, worker)
    return None


def _place_on_device(turn: Turn, job: Job, worker: Worker, first: Mapping[DeviceId, Claim], room: Room) -> NoPlace | None:
    offers = sharing.offers_for(turn, worker, job)
    if not offers:
        return NoPlace(f"there is no {job.only_on}" if job.only_on else no_device(turn.fleet), Reason.WAITING_FOR_GPU)
    (device, need_bytes), plan = choose(turn.fleet, turn.limits, offers, first, turn.now_s)
    if isinstance(plan, Blocked):
        return NoPlace(plan.sentence, Reason.WAITING_FOR_GPU, device.id)
    if turn.fleet.lease_of(worker.name) is not None:
        return NoPlace(f"the memory that {worker.name} held before is not proved free yet", Reason.WAITING_FOR_GPU, device.id)
    if words := room.missing(job, worker, [turn.fleet.workers[lease.worker] for lease in plan.leaving if lease.worker]):
        return no_room(turn, job, words, device.id)
    job = _assign_to(turn, job, worker)
    turn.put_job(replace(job, device=device.id, phase="vacating"))
    handover.begin(turn, device, turn.fleet.workers[worker.name], job, plan, need_bytes=need_bytes)
    return None


def _move(turn: Turn, job: Job, up: Iterable[Worker], first: Mapping[DeviceId, Claim]) -> NoPlace | None:
    """Have an idle worker leave where it is for the device that the job names, as soon as that can be handed over; None where there is none."""
    idle = next((worker for worker in up if worker.idle and job.only_on not in {None, turn.device_of(worker)}), None)
    offers = sharing.offers_for(turn, idle, job) if idle is not None else []
    if idle is None or not offers:
        return None
    (device, _), plan = choose(turn.fleet, turn.limits, offers, first, turn.now_s)
    if isinstance(plan, Blocked):
        return NoPlace(plan.sentence, Reason.WAITING_FOR_GPU, device.id)
    ladder.order_leave(turn, idle, Cause.HANDOVER, f"{job.id} wants it on {device.id}")
    left = turn.device_of(idle) or "for now"  # one that was taken over while no card answered has no device that is known of
    return NoPlace(f"{idle.name} leaves {left} to come back on {device.id}", Reason.WAITING_FOR_GPU, device.id)


def _assign_to(turn: Turn, job: Job, worker: Worker) -> Job:
    """The job is prepared for this worker from now on; its work begins when the worker is ready."""
    turn.put_worker(replace(worker, jobs=(*worker.jobs, job.id)))
    wanted = estimate(turn.fleet, worker.model, job)
    job = replace(
        advance(job, Step.ASSIGN, turn.wall_s),
        worker=worker.name,
        device=turn.device_of(worker),
        attempt=job.attempt + 1,
        reason=Reason.NONE,
        message="",
        phase="loading",
        given_at_s=turn.now_s,
        gave_way="",
        memory_bytes=wanted.used_bytes,
        memory_from=wanted.source,
        memory_peak_bytes=0,
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
            state = "in backoff" if worker.state is WorkerState.BACKOFF else worker.state
            words.append(f"{worker.name} is {state}, next try in {max(0.0, worker.retry_at_s - turn.now_s):.0f} s: {worker.last_reason}")
        elif first := behind_others(turn, worker):
            words.append(f"{worker.name} starts when {', '.join(first)} is ready")
        elif worker.jobs:
            words.append(f"{worker.name} is busy with {', '.join(worker.jobs)}")
        else:
            words.append(f"{worker.name} is {worker.state}{f': {worker.stop.reason}' if worker.stop else ''}")
    return "; ".join(words)


def behind_others(turn: Turn, worker: Worker) -> list[WorkerName]:
    """Return the workers that must be ready before this one, and are not. Asked once, before a job or the device is on its way to it."""
    after = turn.spec(worker).after
    if not after:
        return []
    first = (other for other in turn.fleet.workers.values() if other.model in after and not other.retired)
    return [other.name for other in first if other.state not in (WorkerState.READY, WorkerState.BUSY)]
