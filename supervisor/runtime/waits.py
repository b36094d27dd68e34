"""What a queued job waits for: the reason, the numbers, who is in the way, and what happens next."""

from typing import Final

from supervisor.core.gpu import free_words, held_by, leases_on, strangers
from supervisor.core.jobs import aged_priority, rests
from supervisor.core.line import named, standing
from supervisor.core.model import AT_WORK, Device, DeviceState, Fleet, Job, JobStatus, LeaseState, Reason, Waiter, Wanted, Worker
from supervisor.core.sharing import shared, wanted
from supervisor.runtime.device_views import device_view
from supervisor.runtime.instants import instant
from supervisor.runtime.memory_waits import Scene, memory_remedies, memory_sentences, memory_view
from supervisor.runtime.phrases import at_work, handover_words, jobs_of, last_handover, moment
from supervisor.runtime.views import eta_s, worker_view
from supervisor.shapes import HolderView, WaitView
from supervisor.units import format_size, short_duration

_BEFORE_SHOWN: Final = 3
_BACK: Final = "it is looked at again and again, and given away as soon as it can be read"


def waits_for(job: Job, scene: Scene) -> Reason:
    """Return why a queued job does not run. What it was told to wait for goes before what it would have to wait for as well."""
    resting = rests(job, scene.now_s, scene.wall_s) or (Reason.HELD if scene.fleet.held else Reason.NONE)
    return resting or (Reason.NONE if job.reason in _OVER_WITH_ITS_CAUSE else job.reason)


_OVER_WITH_ITS_CAUSE: Final = frozenset({Reason.HELD, Reason.SCHEDULED, Reason.RETRY_BACKOFF})
"""Reasons that a job may still carry for a moment when they hold no longer: the next turn of the loop takes them away."""


def due_wall(job: Job, reason: Reason, scene: Scene) -> float | None:
    """Return when the job is due, where a time is all that it waits for."""
    match reason:
        case Reason.SCHEDULED:
            return job.run_at_wall
        case Reason.RETRY_BACKOFF:
            return scene.wall_s + job.retry_at_s - scene.now_s
        case _:
            return None


def wait_view(job: Job, reason: Reason, scene: Scene) -> WaitView:
    """Return the numbers. reason: from `waits_for`."""
    fleet, limits, now_s = scene.fleet, scene.limits, scene.now_s
    queue = _line(job, scene)
    device, need_bytes = wanted(scene.fleet, scene.limits, job, scene.now_s)
    holders: list[HolderView] = []
    if device is not None and reason is Reason.WAITING_FOR_GPU:
        holders = device_view(device, fleet=fleet, limits=limits, now_s=now_s).holders
    return WaitView(
        reason=reason,
        position=_place(job, queue),
        queued=len(queue),
        priority=job.priority,
        aged_priority=aged_priority(job, limits.jobs, now_s),
        waited_s=max(0.0, now_s - job.queued_at_s),
        device=device.id if device else None,
        need_bytes=need_bytes or None,
        free_bytes=device.sample.free_bytes if device and device.sample else None,
        holders=holders,
        until=instant(due_wall(job, reason, scene)),
        memory=memory_view(job, device, scene) if reason is Reason.WAITING_FOR_MEMORY else None,
    )


def wait_sentences(job: Job, reason: Reason, scene: Scene) -> list[str]:
    """Return the whole story of the wait. reason: from `waits_for`."""
    return [_head(job, reason, scene), *_in_the_way(job, reason, scene), _order(job, scene)]


def _line(job: Job, scene: Scene) -> list[Job | Waiter]:
    """Return the line in which a job stands: with the programs outside Warden, where it needs a device that they could take."""
    device, _ = wanted(scene.fleet, scene.limits, job, scene.now_s)
    whole = standing(scene.fleet, scene.limits, scene.now_s, scene.wall_s)
    return [one for one in whole if isinstance(one, Job) or (device is not None and one.device in {None, device.id})]


def _place(job: Job, line: list[Job | Waiter]) -> int | None:
    return next((place for place, other in enumerate(line, 1) if isinstance(other, Job) and other.id == job.id), None)


def _head(job: Job, reason: Reason, scene: Scene) -> str:
    """Return the first sentence: what the job waits for, in one line."""
    due = due_wall(job, reason, scene)
    match reason:
        case _ if scene.fleet.stopping_since_s is not None:
            return f"{job.id} waits: the supervisor is stopping; the job is kept, and goes on at the next: warden run"
        case Reason.HELD if job.held:
            return f"{job.id} waits until somebody starts it: it was submitted with hold."
        case Reason.HELD:
            return f"{job.id} waits because the queue is held: nothing new is started until it is released."
        case Reason.SCHEDULED if due is not None:
            by = f" by schedule {job.schedule}" if job.schedule else ""
            return f"{job.id} waits for its time: it was submitted{by} to run at {moment(due)}, in {short_duration(due - scene.wall_s)}."
        case Reason.RETRY_BACKOFF if due is not None:
            last = f"; {job.message}" if job.message else ""
            return f"{job.id} waits {short_duration(due - scene.wall_s)} more before it is tried again{last}."
        case Reason.NONE:
            return f"{job.id} is about to be placed."
        case _:
            return f"{job.id} waits: {job.message or reason.replace('_', ' ')}."


def _in_the_way(job: Job, reason: Reason, scene: Scene) -> list[str]:
    """Return who or what is in the way, in numbers, and what follows."""
    match reason:
        case Reason.WAITING_FOR_GPU:
            return _at_the_device(job, scene)
        case Reason.WAITING_FOR_MEMORY:
            return memory_sentences(job, wanted(scene.fleet, scene.limits, job, scene.now_s)[0], scene)
        case Reason.WAITING_FOR_WORKER:
            return _at_the_workers(job, scene)
        case _:
            return []


def _at_the_device(job: Job, scene: Scene) -> list[str]:
    fleet, now_s = scene.fleet, scene.now_s
    device, need_bytes = wanted(scene.fleet, scene.limits, job, scene.now_s)
    if not need_bytes:
        return []
    need = f"{format_size(need_bytes)} and {format_size(scene.limits.gpu.margin_bytes)} of margin"
    if device is None:
        known = [f"{other.id} has {format_size(other.total_bytes)}" for other in fleet.devices.values() if other.total_bytes]
        unknown = [f"{other.id} is {other.state}, and its size is not known" for other in fleet.devices.values() if not other.total_bytes]
        sizes = ", ".join(known + unknown) or "there is no device"
        return [f"needs: {need}; {sizes}"]
    lines = [f"needs: {need} on {device.id}; {'; '.join((free_words(device), *held_by(fleet, device, now_s)))}"]
    if device.handover is None and (device.state is not DeviceState.OK or device.trouble):
        return [*lines, f"now: {device.id} is {device.state}{f', {device.trouble}' if device.trouble else ''}", f"then: {_BACK}"]
    if device.handover is not None:
        words = handover_words(device, device.handover, fleet=fleet, limits=scene.limits, now_s=now_s)
        return [*lines, f"now: {words[0]}", *(f"     {line}" for line in words[1:])]
    in_the_way = [name for lease in leases_on(fleet, device) if lease.worker for name in fleet.workers[lease.worker].jobs]
    lines += [f"now: {line}" for line in jobs_of(fleet, in_the_way, now_s)]
    lines += _risk(fleet, device, need_bytes + scene.limits.gpu.margin_bytes)
    giving_way = [lease for lease in leases_on(fleet, device) if lease.state is LeaseState.YIELDING and lease.wanted_by]
    if giving_way:
        return [*lines, *(f"then: {lease.owner} gives way at its next checkpoint, to {named(fleet, lease.wanted_by)}" for lease in giving_way)]
    done_in = _done_in([fleet.jobs[name] for name in in_the_way if name in fleet.jobs], now_s)
    last = last_handover(device)
    leave = f"whoever holds {device.id} leaves when its work is done"
    if shared(scene.limits):
        leave = f"enough of those who hold {device.id} leave when their work is done"
    then = f"then: {leave}{done_in}, the need is proved free twice, and the work is loaded"
    return [*lines, then + (f"; {last}" if last else "")]


def _done_in(jobs: list[Job], now_s: float) -> str:
    """Return when the last of these jobs is done, where each of them shows a pace."""
    left = [eta_s(job, now_s) for job in jobs]
    known = [seconds for seconds in left if seconds is not None]
    return f" (about {short_duration(max(known))} from now)" if known and len(known) == len(left) else ""


def _risk(fleet: Fleet, device: Device, needed_bytes: int) -> list[str]:
    """Return a warning where the need cannot fit for as long as those stay who are not ours."""
    others = strangers(fleet, device) if device.sample and device.sample.by_pid else []
    used = sum(holding.used_bytes or 0 for holding in others)
    if not used or device.total_bytes - used >= needed_bytes:
        return []
    pids = ", ".join(str(holding.pid) for holding in others)
    return [f"risk: pid {pids}, not ours, must leave first: the need does not fit beside {format_size(used)}, and the hand-over would be refused"]


def _at_the_workers(job: Job, scene: Scene) -> list[str]:
    """Return what those do that could take the job, or those whose number is at its limit."""
    fleet, limits, now_s = scene.fleet, scene.limits, scene.now_s
    running = [other for other in fleet.jobs.values() if other.status in AT_WORK]
    if len(running) >= limits.jobs.max_running:
        return [f"now: {at_work(other, now_s)}" for other in running]
    model = limits.model_for(job.kind)
    workers = [worker for worker in fleet.workers.values() if worker.model == model]
    return [f"now: {line}" for worker in workers for line in (*jobs_of(fleet, worker.jobs, now_s), *_next(worker, scene))]


def _next(worker: Worker, scene: Scene) -> list[str]:
    """Return what happens next with a worker that has no job."""
    if worker.jobs:
        return []
    next_action = worker_view(worker, fleet=scene.fleet, limits=scene.limits, now_s=scene.now_s).next_action
    return [f"{worker.name} is {worker.state}{f': {next_action}' if next_action else ''}"]


def _order(job: Job, scene: Scene) -> str:
    """Return the place in the queue and what it is made of."""
    limits, now_s = scene.limits, scene.now_s
    queue = _line(job, scene)
    place = _place(job, queue)
    aged = aged_priority(job, limits.jobs, now_s)
    urgent = f"priority {job.priority}" + (f", {aged} by now" if aged != job.priority else "") + " (0 is the most urgent)"
    if place is None:
        return f"order: it has no place yet, {urgent}; {len(queue)} wait in the queue"
    before = [other.id if isinstance(other, Job) else other.outside.words for other in queue[: place - 1]]
    shown = ", ".join(before[:_BEFORE_SHOWN]) + (f" and {len(before) - _BEFORE_SHOWN} more" if len(before) > _BEFORE_SHOWN else "")
    waited = f"waiting for {short_duration(max(0.0, now_s - job.queued_at_s))}"
    return f"order: place {place} of {len(queue)}, {urgent}, {waited}{f'; before it {shown}' if before else ''}"


def wait_remedies(job: Job, reason: Reason, scene: Scene) -> list[str]:
    """Return what a person can do about the wait, as commands."""
    match reason:
        case Reason.HELD:
            return [f"warden jobs start {job.id}" if job.held else "warden jobs release"]
        case Reason.WAITING_FOR_GPU:
            return ["warden gpu status"]
        case Reason.WAITING_FOR_MEMORY:
            return memory_remedies(scene)
        case Reason.WAITING_FOR_WORKER if job.status is JobStatus.QUEUED:
            model = scene.limits.model_for(job.kind)
            return [f"warden workers start {one.name}" for one in scene.fleet.workers.values() if one.model == model and one.wanted is Wanted.DOWN]
        case _:
            return []
