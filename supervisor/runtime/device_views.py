"""The shapes of devices that people and programs read: who holds them, who waits, how a hand-over went. Pure, as `views` is."""

from supervisor.core import sharing
from supervisor.core.gpu import device_for, held_outside, leases_on, strangers
from supervisor.core.jobs import aged_priority
from supervisor.core.limits import Limits
from supervisor.core.line import aged, named, rank_outside, standing
from supervisor.core.loading import who_loads
from supervisor.core.model import Device, DeviceId, Fleet, Handover, Holding, Job, Lease, Reason, Waiter, WorkerName
from supervisor.core.peaks import of_model
from supervisor.runtime.troubles import device_unwell
from supervisor.shapes import DeviceView, HandoverView, HolderView, LoadingView, PeakView, StrangerView, WaiterView
from supervisor.units import format_size


def device_view(device: Device, *, fleet: Fleet, limits: Limits, now_s: float) -> DeviceView:
    """Return one device with its holders and waiters."""
    sample = device.sample
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
        holders=[_holder(lease, device, fleet=fleet, limits=limits, now_s=now_s) for lease in leases_on(fleet, device)],
        strangers=[
            StrangerView(pid=one.pid, name=one.name, used_bytes=one.used_bytes, intruder=one.pid in {other.pid for other in device.intruders})
            for one in strangers(fleet, device)
        ],
        xids={str(xid): count for xid, count in device.xids.items()},
        waiters=_waiting(fleet, device, limits, now_s),
        handover=_handover_view(device.handover, now_s) if device.handover else None,
        last_handover=_handover_view(device.last_handover, now_s) if device.last_handover else None,
        loading=_loading(device, fleet, limits, now_s),
        unwell=device_unwell(device, fleet=fleet, limits=limits, now_s=now_s),
        kept_free_s=device.hold_off_until_s - now_s if device.hold_off_until_s > now_s else None,
    )


def _loading(device: Device, fleet: Fleet, limits: Limits, now_s: float) -> LoadingView | None:
    lease = who_loads(fleet, device.id, limits, now_s)
    if lease is None:
        return None
    worker = fleet.workers[lease.worker] if lease.worker else None
    since_s = lease.since_s if worker is None else worker.since_s
    until_s = lease.until_s or since_s + limits.gpu.load_timeout_s
    pid = worker.process.pid if worker and worker.process else lease.outside.pid or None if lease.outside else None
    return LoadingView(
        owner=lease.owner,
        kind="outside" if worker is None else "worker",
        pid=pid,
        for_s=now_s - since_s,
        left_s=max(0.0, until_s - now_s),
        lease=lease.id if worker is None else None,
        fence=lease.fence if worker is None else None,
    )


def _holder(lease: Lease, device: Device, *, fleet: Fleet, limits: Limits, now_s: float) -> HolderView:
    worker = fleet.workers[lease.worker] if lease.worker else None
    used = {holding.worker: holding.used_bytes for holding in _holdings(device) if holding.worker is not None}
    need_bytes, peaks = lease.need_bytes, list[PeakView]()
    if worker is not None:
        kind, pid, used_bytes = "worker", worker.process.pid if worker.process else None, used.get(worker.name, 0)
        need_bytes = limits.workers[worker.model].gpu_bytes or need_bytes
        known = [(work, peak.seen_bytes) for work, peak in of_model(fleet, worker.model).items() if peak.seen_bytes]
        peaks = [PeakView(work=work, peak_bytes=seen, over=seen > need_bytes) for work, seen in sorted(known)]
    else:
        seen = held_outside(device, lease)
        kind, pid = "outside", lease.outside.pid or None if lease.outside else None
        used_bytes = seen.used_bytes if seen is not None else None  # the budget of RAM does not count it; a card lists it by its pid
    return HolderView(
        lease=lease.id,
        owner=lease.owner,
        kind=kind,
        pid=pid,
        priority=lease.priority,
        need_bytes=need_bytes,
        booked_bytes=lease.need_bytes,
        peak_bytes=max((one.peak_bytes for one in peaks), default=None),
        peaks=peaks,
        used_bytes=used_bytes if device.sample else None,
        state=lease.state,
        since_s=now_s - lease.since_s,
        fence=lease.fence,
        expires_in_s=None if lease.expires_at_s is None else lease.expires_at_s - now_s,
        idle_s=None if lease.idle_since_s is None else now_s - lease.idle_since_s,
        wanted_by=named(fleet, lease.wanted_by),
    )


def _waiting(fleet: Fleet, device: Device, limits: Limits, now_s: float) -> list[WaiterView]:
    """Return who waits for this device: whoever it is being handed to, then the others in the order of their turn, then who waits to load on it."""
    programs = [waiter for waiter in fleet.waiters.values() if waiter.lease is not None or waiter.purpose != "inference"]
    programs.sort(key=lambda waiter: (waiter.lease is None, rank_outside(waiter, limits.gpu, now_s)))
    handed = [waiter for waiter in programs if waiter.lease is not None]
    queue = [*handed, *standing(fleet, limits, now_s, now_s + fleet.wall_offset_s), *programs[len(handed) :]]
    return [_waiter(one, limits, now_s) for one in queue if _waits_at(one, fleet, limits, now_s) == device.id]


def _waits_at(one: Job | Waiter, fleet: Fleet, limits: Limits, now_s: float) -> DeviceId | None:
    """Return the device that somebody waits for: the one on its way, the one that is named, or the best."""
    if isinstance(one, Job):
        found = sharing.wanted(fleet, limits, one, now_s)[0] if one.reason is Reason.WAITING_FOR_GPU else None
        return found.id if found is not None else None
    if one.lease is not None and one.lease in fleet.leases:
        return fleet.leases[one.lease].device
    best = device_for(fleet, one.need_bytes, limits.gpu.margin_bytes)
    return one.device or (best.id if best is not None else None)


def _waiter(one: Job | Waiter, limits: Limits, now_s: float) -> WaiterView:
    if isinstance(one, Job):
        model = limits.model_for(one.kind)
        return WaiterView(
            owner=model or "?",
            job=one.id,
            priority=one.priority,
            aged_priority=aged_priority(one, limits.jobs, now_s),
            waited_s=now_s - one.queued_at_s,
            need_bytes=limits.workers[model].gpu_bytes if model else 0,
            waits_for=one.message,
        )
    return WaiterView(
        owner=one.outside.name,
        job=None,
        priority=one.priority,
        aged_priority=aged(one, limits.gpu, now_s),
        waited_s=now_s - one.arrived_at_s,
        need_bytes=one.need_bytes,
        waits_for=one.message,
        kind="outside",
        pid=one.outside.pid or None,
        ticket=one.outside.ticket,
    )


def _handover_view(handover: Handover, now_s: float) -> HandoverView:
    def since(at_s: float | None) -> float | None:
        return None if at_s is None else at_s - handover.ordered_at_s

    return HandoverView(
        to=handover.to,
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
