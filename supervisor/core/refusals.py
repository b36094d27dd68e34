"""Hand-overs that were not proved in time: they are refused, with names and numbers."""

from msgspec.structs import replace

from supervisor.core import handover
from supervisor.core.actions import Reply
from supervisor.core.gpu import refusal
from supervisor.core.jobs import failed
from supervisor.core.model import Failure, Reason, Worker
from supervisor.core.turn import Turn


def expire(turn: Turn) -> None:
    """Refuse every hand-over that was not proved in time: who it was for hears who holds what. Called on every tick."""
    for device in tuple(turn.fleet.devices.values()):
        order = device.handover
        if order is None or turn.now_s < order.ordered_at_s + turn.limits.gpu.vacate_timeout_s:
            continue
        promised = handover.promised(turn, device, order)
        evidence = refusal(turn.fleet, device, order, turn.limits.gpu.margin_bytes, turn.now_s, promised_bytes=promised)
        message = f"the device was not free within {turn.limits.gpu.vacate_timeout_s:g} s: {evidence}"
        handover.give_up(turn, device, order)
        turn.put_device(replace(turn.fleet.devices[device.id], hold_off_until_s=max(device.hold_off_until_s, turn.now_s + turn.limits.gpu.poll_max_s)))
        turn.announce("gpu_refused", worker=order.worker, job=order.job, reason=evidence, fields={"device": device.id})
        if order.worker is not None:
            _refuse_jobs(turn, turn.fleet.workers[order.worker], evidence, f"{message}; submit it again when the device is free")
        elif order.waiter is not None:
            waiter = turn.fleet.waiters[order.waiter]
            handover.send_away(turn, waiter, Reply(request=waiter.request, error="refused", message=message))


def _refuse_jobs(turn: Turn, worker: Worker, evidence: str, message: str) -> None:
    jobs = [turn.fleet.jobs[name] for name in worker.jobs if name in turn.fleet.jobs]
    turn.put_worker(replace(worker, jobs=()))
    for job in jobs:
        ended = failed(job, Failure(reason=Reason.GPU_REFUSED, message=message, evidence=evidence, phase="vacating"), turn.wall_s)
        turn.save_job(ended, turn.announcement("job_failed", job=job.id, worker=worker.name, reason=message, fields={"kind": job.kind}))
