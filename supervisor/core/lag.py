"""The supervisor's own absence (frozen, suspended, swapped out) taken off every clock that ran meanwhile."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.model import Device, Job, Lease, Worker, WorkerState
from supervisor.core.turn import Turn

LAG_WORTH_SAYING_S: Final = 2.0


def forgive(turn: Turn, lag_s: float) -> None:
    """Set all clocks back by lag_s: beats that nobody could read were not missed, and a proof that nobody could make did not fail."""
    fleet, now_s = turn.fleet, turn.now_s
    turn.fleet = replace(
        fleet,
        workers={name: _worker(worker, lag_s, now_s) for name, worker in fleet.workers.items()},
        jobs={name: _job(job, lag_s, now_s) for name, job in fleet.jobs.items()},
        leases={name: _lease(lease, lag_s) for name, lease in fleet.leases.items()},
        waiters={name: replace(waiter, deadline_at_s=waiter.deadline_at_s + lag_s) for name, waiter in fleet.waiters.items()},
        devices={name: _device(device, lag_s, now_s) for name, device in fleet.devices.items()},
    )
    if lag_s >= LAG_WORTH_SAYING_S:
        turn.announce("supervisor_frozen", reason=f"held up for {lag_s:.1f} s; all clocks were set back by as much")


def _later(at_s: float, lag_s: float, now_s: float) -> float:
    """Return the instant, later by the lag; what was heard since the supervisor woke is as fresh as can be."""
    return min(now_s, at_s + lag_s)


def _later_if(at_s: float | None, lag_s: float, now_s: float) -> float | None:
    return None if at_s is None else _later(at_s, lag_s, now_s)


def _lease(lease: Lease, lag_s: float) -> Lease:
    expires_at_s, until_s = (None if at_s is None else at_s + lag_s for at_s in (lease.expires_at_s, lease.until_s))
    return replace(lease, expires_at_s=expires_at_s, until_s=until_s)


def _worker(worker: Worker, lag_s: float, now_s: float) -> Worker:
    process, stop = worker.process, worker.stop
    if process is not None:
        process = replace(
            process,
            spawned_at_s=_later(process.spawned_at_s, lag_s, now_s),
            ready_at_s=_later_if(process.ready_at_s, lag_s, now_s),
            beat_at_s=_later_if(process.beat_at_s, lag_s, now_s),
            shown_at_s=_later_if(process.shown_at_s, lag_s, now_s),
            fault_at_s=_later_if(process.fault_at_s, lag_s, now_s),
            extend_until_s=process.extend_until_s and process.extend_until_s + lag_s,
        )
        worker = replace(worker, process=process)
    if stop is not None:
        stop = replace(
            stop,
            ordered_at_s=_later(stop.ordered_at_s, lag_s, now_s),
            term_at_s=_later_if(stop.term_at_s, lag_s, now_s),
            killed_at_s=_later_if(stop.killed_at_s, lag_s, now_s),
        )
    if stop is not None or worker.state is WorkerState.STARTING:
        worker = replace(worker, since_s=_later(worker.since_s, lag_s, now_s), stop=stop)
    return worker


def _job(job: Job, lag_s: float, now_s: float) -> Job:
    if job.sent_at_s is None:
        return job
    return replace(
        job,
        sent_at_s=_later(job.sent_at_s, lag_s, now_s),
        progress_at_s=_later_if(job.progress_at_s, lag_s, now_s),
        cancel_at_s=_later_if(job.cancel_at_s, lag_s, now_s),
        extend_until_s=job.extend_until_s and job.extend_until_s + lag_s,
    )


def _device(device: Device, lag_s: float, now_s: float) -> Device:
    handover = device.handover
    return device if handover is None else replace(device, handover=replace(handover, ordered_at_s=_later(handover.ordered_at_s, lag_s, now_s)))
