"""The shapes of devices that people and programs read: who holds them, who waits, how a hand-over went. Pure, as `views` is."""

from supervisor.core.gpu import leases_on
from supervisor.core.jobs import aged_priority, in_order
from supervisor.core.limits import Limits
from supervisor.core.model import Device, Fleet, Handover, Holding, Reason, WorkerName
from supervisor.shapes import DeviceView, HandoverView, HolderView, StrangerView, WaiterView
from supervisor.units import format_size


def device_view(device: Device, *, fleet: Fleet, limits: Limits, now_s: float) -> DeviceView:
    """Return one device with its holders and waiters."""
    sample = device.sample
    used = {holding.worker: holding.used_bytes for holding in _holdings(device)}
    holders = [
        HolderView(
            lease=lease.id,
            owner=lease.worker,
            kind="worker",
            pid=process.pid if (process := fleet.workers[lease.worker].process) else None,
            priority=lease.priority,
            need_bytes=lease.need_bytes,
            used_bytes=used.get(lease.worker, 0) if sample else None,
            state=lease.state,
            since_s=now_s - lease.since_s,
            fence=lease.fence,
        )
        for lease in leases_on(fleet, device)
    ]
    return DeviceView(
        id=device.id,
        name=device.name,
        backend=device.backend,
        state=device.state,
        proof=device.proof,
        trouble=device.trouble,
        total_bytes=device.total_bytes,
        used_bytes=sample.used_bytes if sample else None,
        free_bytes=sample.free_bytes if sample else None,
        holders=holders,
        strangers=[StrangerView(pid=one.pid, name=one.name, used_bytes=one.used_bytes) for one in _holdings(device) if one.worker is None],
        waiters=_waiters(fleet, limits, now_s),
        handover=_handover_view(device.handover, now_s) if device.handover else None,
        last_handover=_handover_view(device.last_handover, now_s) if device.last_handover else None,
    )


def _waiters(fleet: Fleet, limits: Limits, now_s: float) -> list[WaiterView]:
    waiting = in_order([job for job in fleet.jobs.values() if job.reason is Reason.WAITING_FOR_GPU], limits.jobs, now_s)
    return [
        WaiterView(
            owner=limits.model_for(job.kind) or "?",
            job=job.id,
            priority=job.priority,
            aged_priority=aged_priority(job, limits.jobs, now_s),
            waited_s=now_s - job.queued_at_s,
            need_bytes=limits.workers[limits.model_for(job.kind) or ""].gpu_bytes if limits.model_for(job.kind) else 0,
            waits_for=job.message,
        )
        for job in waiting
    ]


def _handover_view(handover: Handover, now_s: float) -> HandoverView:
    def since(at_s: float | None) -> float | None:
        return None if at_s is None else at_s - handover.ordered_at_s

    return HandoverView(
        to=handover.worker,
        job=handover.job,
        leaving=list(handover.leaving),
        need_bytes=handover.need_bytes,
        ago_s=now_s - handover.ordered_at_s,
        exit_s=since(handover.exited_at_s),
        gone_s=since(handover.gone_at_s),
        back_s=since(handover.back_at_s),
        proof_s=since(handover.proved_at_s),
        spawned_s=since(handover.spawned_at_s),
        polls=handover.polls,
    )


def holdings(fleet: Fleet, worker: WorkerName) -> list[str]:
    """Return what a worker holds of each device, in words, by the last reading."""
    found = []
    for device in fleet.devices.values():
        used = {holding.worker: "an unknown size" if holding.used_bytes is None else format_size(holding.used_bytes) for holding in _holdings(device)}
        lease = fleet.lease_of(worker)
        if worker in used or (lease is not None and lease.device == device.id):
            right = f", lease {lease.id} fence {lease.fence} is {lease.state}" if lease is not None and lease.device == device.id else ", without a lease"
            found.append(f"holds {used.get(worker, 'nothing yet')} of {device.name}{right}")
    return found


def _holdings(device: Device) -> tuple[Holding, ...]:
    return device.sample.holdings if device.sample else ()
