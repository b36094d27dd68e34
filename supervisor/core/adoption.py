"""What a supervisor takes over from the one before it: live processes with their leases and jobs; what was at work and is lost gets another attempt."""

from collections.abc import Iterable

from msgspec.structs import replace

from supervisor.core import generations, handover, ladder, outside, sharing, tickets, work
from supervisor.core.actions import SaveWanted, SendCancel, SendJob, SendPause
from supervisor.core.endings import said, said_back
from supervisor.core.events import Adopted, HelloHeard, SupervisorStarted
from supervisor.core.gpu import leases_on
from supervisor.core.jobs import RELEASING, RETRY_MAX_S, Step, advance, after_worker_end
from supervisor.core.lifecycle import Signal, advance_lease
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import AT_WORK, Cause, DeviceId, Failure, Job, JobStatus, Lease, LeaseId, LeaseState, Process, Reason, Wanted, Worker
from supervisor.core.turn import Turn


def take_over(turn: Turn, event: SupervisorStarted) -> None:
    """Begin where the last supervisor ended."""
    turn.fleet = replace(turn.fleet, wall_offset_s=event.wall_s - turn.now_s)
    for worker in tuple(turn.fleet.workers.values()):
        turn.put_worker(replace(worker, since_s=turn.now_s, wanted=event.wanted.get(worker.name, worker.wanted)))
    if taken_out := {name: None for name in event.wanted if name not in turn.fleet.workers}:  # meanwhile: that was a later word
        turn.act(SaveWanted(words=taken_out))
    tickets.take_back(turn, event.tickets)
    outside.take_back(turn, event.leases)
    for found in event.adopted:
        _take_back(turn, turn.fleet.workers[found.worker], found, event)
    _cool_what_is_gone(turn, event.leases)
    turn.fleet = replace(turn.fleet, held=event.held)
    for job in event.jobs:  # instants of another boot may lie ahead
        _take_job(turn, replace(job, queued_at_s=min(job.queued_at_s, turn.now_s), retry_at_s=min(job.retry_at_s, turn.now_s + RETRY_MAX_S)))
    for found in event.adopted:  # a program that does not speak to us is ready at once, an SDK worker when it says so
        if turn.spec(turn.fleet.workers[found.worker]).progress != "sdk":
            generations.ready(turn, turn.fleet.workers[found.worker], "")


def _take_back(turn: Turn, worker: Worker, found: Adopted, event: SupervisorStarted) -> None:
    """Put a process back into its place. Its clocks start afresh: what it did while nobody listened is not held against it.

    It stays unless the operator had wanted it down: autostart says nothing about one that runs.
    """
    process = Process(spawned_at_s=turn.now_s - found.age_s, pid=found.pid, beat_at_s=turn.now_s, adopted=True)
    if turn.spec(worker).progress != "sdk":
        process = replace(process, beat_at_s=None)
    wanted = event.wanted.get(found.worker, Wanted.UP)
    worker = replace(move(worker, Signal.SPAWN, turn.now_s), wanted=wanted, generation=found.generation, process=process)
    turn.put_worker(worker)
    turn.announce("worker_adopted", worker=worker.name, fields={"pid": found.pid, "generation": found.generation, "age_s": found.age_s})
    stored = next((lease for lease in event.leases if lease.worker == worker.name and lease.fence and lease.device in turn.fleet.devices), None)
    if turn.fleet.devices and (turn.spec(worker).gpu_bytes or stored is not None):  # an edit may have taken the need away, but not what the process holds
        _take_lease(turn, worker, stored, found.device)


def _take_lease(turn: Turn, worker: Worker, stored: Lease | None, given: DeviceId | None) -> None:
    """The holder holds on: with the lease that was stored, or with a new one, on the device that it was given, where the crash came before it was.

    One that was given none, on a machine whose cards do not answer, gets none: what stands for them is never given away.
    """
    devices = turn.fleet.devices
    device = devices.get(stored.device if stored is not None else given or DeviceId("")) or next((one for one in devices.values() if one.total_bytes), None)
    if device is None:
        return
    turn.fleet = replace(turn.fleet, serial=turn.fleet.serial + 1, fence=turn.fleet.fence + (stored is None))
    spec = turn.spec(worker)
    fresh = Lease(
        id=LeaseId(f"l-{turn.fleet.serial}"),
        device=device.id,
        worker=worker.name,
        need_bytes=spec.gpu_bytes,
        priority=spec.priority,
        state=LeaseState.HELD,
        since_s=turn.now_s,
        fence=turn.fleet.fence,
    )
    if stored is not None:
        fresh = replace(
            fresh,
            device=stored.device,
            need_bytes=spec.gpu_bytes or stored.need_bytes,
            since_s=min(stored.since_s, turn.now_s),
            fence=stored.fence,
            wanted_by=stored.wanted_by,
        )
    if stored is not None and sharing.shared(turn.limits):
        fresh = replace(fresh, need_bytes=max(spec.gpu_bytes, stored.need_bytes))  # it was given more where its work was seen to take more
    if sharing.may_stay(turn.fleet, turn.limits, fresh):
        turn.put_lease(fresh)
    else:  # an edit between the two supervisors gave both a need: the device is one holder's at a time, or has not room for both
        others = ", ".join(lease.owner for lease in leases_on(turn.fleet, turn.fleet.devices[fresh.device]))
        turn.put_lease(replace(fresh, state=LeaseState.YIELDING))
        ladder.order_leave(turn, worker, Cause.OPERATOR, f"{fresh.device} is held by {others}")


def _cool_what_is_gone(turn: Turn, leases: Iterable[Lease]) -> None:
    """Keep the leases of workers that ended with the supervisor before, or under it: what they had is to be seen back, as after any other end."""
    for lease in leases:
        worker = turn.fleet.workers.get(lease.worker) if lease.worker else None
        if worker is None or worker.process is not None or turn.fleet.lease_of(worker.name) is not None:
            continue
        if lease.state in {LeaseState.WAITING, LeaseState.FREE} or lease.device not in turn.fleet.devices:
            continue
        lease = replace(lease, since_s=min(lease.since_s, turn.now_s))  # noqa: PLW2901  # an instant of another boot may lie ahead
        turn.put_lease(lease if lease.state is LeaseState.COOLING else advance_lease(lease, Move.LEAVE, turn.now_s))
        handover.look(turn, turn.fleet.devices[lease.device])


def _take_job(turn: Turn, job: Job) -> None:
    """Leave a job with the worker that was taken back, or settle it as lost."""
    worker = turn.fleet.workers.get(job.worker) if job.worker else None
    if job.status in AT_WORK and worker is not None and worker.process is not None:
        now_s = turn.now_s
        turn.put_worker(replace(worker, jobs=(*worker.jobs, job.id)))
        turn.put_job(
            replace(
                job,
                sent_at_s=now_s,
                progress_at_s=None if job.progress_at_s is None else now_s,
                paced_from=None,  # its pace is measured afresh: what it did meanwhile was not seen
                cancel_at_s=None if job.cancel_at_s is None else now_s,
                phase="" if job.status is JobStatus.CANCELLING else job.phase,  # its memory is measured afresh
            )
        )
    elif job.status is JobStatus.CANCELLING:
        job = replace(advance(job, Step.CANCELLED, turn.wall_s), message="the supervisor ended before its cancel was done", phase="")
        turn.save_job(job, said(turn, job, "job_cancelled", job.message))
    elif job.status in AT_WORK:
        lost = Failure(reason=Reason.LOST, message="the supervisor and its worker ended while it was at work", phase=job.phase)
        job = after_worker_end(job, Cause.ADOPTED_GONE, lost, turn.limits.jobs, turn.now_s, turn.wall_s)
        turn.save_job(job, said_back(turn, job, "job_retried"))
    else:
        turn.put_job(job)


def resynced(turn: Turn, worker: Worker, event: HelloHeard) -> None:
    """Say again what a worker that was taken back may never have heard. It knows an order that it had before, and takes none twice."""
    known = {(job.id, job.attempt) for job in (turn.fleet.jobs[name] for name in worker.jobs) if job.status is not JobStatus.CANCELLING}
    for name, attempt in event.jobs:
        if (name, attempt) not in known:  # nobody waits for it any more
            turn.act(SendCancel(worker=worker.name, generation=worker.generation, job=name, attempt=attempt))
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is JobStatus.PAUSING:  # it knows one that it had before
            turn.act(SendPause(worker=worker.name, generation=worker.generation, job=name, attempt=job.attempt))
        if (name, job.attempt) in event.jobs or job.phase == RELEASING or job.sent_at_s is None:  # the last: given to it since, and sent once it is ready
            continue
        if job.status is JobStatus.CANCELLING:  # its work has ended, or never began: the order may still lie in the worker's queue
            turn.act(SendCancel(worker=worker.name, generation=worker.generation, job=name, attempt=job.attempt))
            work.release(turn, turn.fleet.workers[worker.name], job)
        else:
            turn.act(SendJob(worker=worker.name, generation=worker.generation, job=name, attempt=job.attempt, kind=job.kind, params=job.params))
