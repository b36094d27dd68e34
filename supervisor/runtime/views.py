"""The shapes that people and programs read, made of the fleet. Pure: what is unknown is None, never 0 and never idle."""

from collections.abc import Mapping
from pathlib import Path

from supervisor.core.admission import promised
from supervisor.core.gpu import called
from supervisor.core.growth import Leak
from supervisor.core.health import clocks
from supervisor.core.jobs import place_of, rank
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.line import in_line, rank_outside, standing
from supervisor.core.loading import who_loads
from supervisor.core.memory import lines
from supervisor.core.model import (
    AT_WORK,
    DeviceState,
    Evidence,
    Failure,
    Fleet,
    FlightSample,
    Job,
    JobId,
    JobStatus,
    LeaseState,
    Wanted,
    Worker,
    WorkerState,
)
from supervisor.runtime.instants import instant
from supervisor.shapes import (
    CancelView,
    ClockView,
    DumpView,
    ErrorView,
    FlightView,
    JobView,
    LeakView,
    MemoryView,
    WorkerView,
)
from supervisor.units import short_duration


def positions(fleet: Fleet, limits: Limits, now_s: float) -> dict[JobId, int]:
    """Return the place in the queue of each job that stands there, from 1. Where it needs a device, the programs that stand before it count as well."""
    places: dict[JobId, int] = {}
    programs = 0
    for one in standing(fleet, limits, now_s, now_s + fleet.wall_offset_s):
        if isinstance(one, Job):
            places[one.id] = len(places) + 1 + (programs if _needs_device(one, limits) else 0)
        else:
            programs += 1
    return places


def position(job: Job, fleet: Fleet, limits: Limits, now_s: float) -> int | None:
    """Return the place of one job, as `positions` has it, or will have it once the job has arrived."""
    here = job.id in fleet.jobs or job.id in fleet.arriving
    place = place_of(job, fleet.jobs.values(), limits.jobs, now_s, now_s + fleet.wall_offset_s) if here else None
    if place is None or not fleet.waiters or not _needs_device(job, limits):
        return place
    mine = rank(job, limits.jobs, now_s)
    return place + sum(1 for waiter in in_line(fleet.waiters.values()) if rank_outside(waiter, limits.gpu, now_s) < mine)


def _needs_device(job: Job, limits: Limits) -> bool:
    model = limits.model_for(job.kind)
    return model is not None and bool(limits.workers[model].gpu_bytes)


def job_view(job: Job, *, position: int | None, now_s: float, folder: Path) -> JobView:
    """Return one job. position: its place in the queue, None when it does not wait there."""
    return JobView(
        id=job.id,
        kind=job.kind,
        params=job.params,
        status=job.status,
        phase=job.phase,
        reason=job.reason,
        message=job.message,
        priority=job.priority,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        only_on=job.only_on,
        progress=round(job.progress, 1),
        done=job.done,
        total=job.total,
        metrics=dict(job.metrics),
        eta_s=eta_s(job, now_s),
        worker=job.worker,
        device=job.device,
        position=position if job.status is JobStatus.QUEUED else None,
        created_at=instant(job.created_wall),
        started_at=instant(job.started_wall),
        completed_at=instant(job.completed_wall),
        dir=str(folder),
        result=job.result,
        error=error_view(job.error) if job.error else None,
        cancel=CancelView(freed_bytes=job.receipt.freed_bytes, took_s=job.receipt.took_s) if job.receipt else None,
        retry_of=job.retry_of,
        last_end=job.last_end,
        failures=job.failures,
        run_at=instant(job.run_at_wall),
        schedule=job.schedule or None,
        memory_bytes=job.memory_bytes or None,
        memory_from=job.memory_from,
        memory_peak_bytes=job.memory_peak_bytes or None,
    )


def error_view(error: Failure) -> ErrorView:
    """Return why a job has no result."""
    return ErrorView(reason=error.reason, message=error.message, evidence=error.evidence, phase=error.phase, stack=error.stack, log_tail=list(error.log_tail))


def flight_view(sample: FlightSample) -> FlightView:
    """Return one second of a worker that was ended."""
    return FlightView(
        at=instant(sample.at_wall) or "",
        rss_bytes=sample.rss_bytes,
        pss_bytes=sample.pss_bytes,
        available_bytes=sample.available_bytes,
        device_bytes=sample.device_bytes,
        job=sample.job,
        phase=sample.phase,
        done=sample.done,
        total=sample.total,
    )


def job_moment(job: Job, now_s: float) -> dict[str, JSONValue]:
    """Return what changes about a job while it lives: what an event about it tells."""
    return {
        "kind": job.kind,
        "status": job.status,
        "phase": job.phase,
        "progress": round(job.progress, 1),
        "done": job.done,
        "total": job.total,
        "eta_s": eta_s(job, now_s),
        "metrics": dict(job.metrics),
        "attempt": job.attempt,
        "reason": job.reason,
        "message": job.message,
    }


def eta_s(job: Job, now_s: float) -> float | None:
    """Return how long the rest takes at the pace of this attempt so far; None while there is no pace."""
    if job.status is not JobStatus.RUNNING or job.paced_from is None:
        return None
    since_s, first = job.paced_from
    if not first < job.done < job.total:
        return None
    return (now_s - since_s) * (job.total - job.done) / (job.done - first)


def worker_view(worker: Worker, *, fleet: Fleet, limits: Limits, now_s: float) -> WorkerView:
    """Return one worker."""
    process = worker.process
    moved = [job.progress_at_s for job in (fleet.jobs.get(name) for name in worker.jobs) if job is not None and job.progress_at_s is not None]
    armed = clocks(worker, fleet.jobs, limits.workers[worker.model])
    return WorkerView(
        name=worker.name,
        state=worker.state,
        wanted=worker.wanted,
        pid=process.pid if process else None,
        generation=worker.generation,
        model=worker.model,
        jobs=list(worker.jobs),
        since_s=now_s - worker.since_s,
        age_s=now_s - process.spawned_at_s if process else None,
        silent_s=now_s - process.beat_at_s if process and process.beat_at_s is not None else None,
        still_s=now_s - min(moved) if moved else None,
        memory_bytes=worker.memory_bytes,
        memory_limit_bytes=limits.memory.worker_limit_bytes or None,
        device_bytes=process.device_bytes if process else None,
        restarts=dict(worker.restarts),
        last_reason=worker.last_reason,
        note=worker.note,
        next_action=_next_action(worker, fleet, limits, now_s),
        clocks=[ClockView(clock=clock.cause, armed_for_s=now_s - clock.armed_at_s, limit_s=clock.limit_s) for clock in armed],
        leak=leak_view(process.leak) if process and process.leak else None,
    )


def leak_view(leak: Leak) -> LeakView:
    """Return the verdict on a worker's idle memory."""
    return LeakView(kind=leak.kind, per_job_bytes=leak.per_job_bytes, jobs=leak.jobs, sentence=leak.sentence, harmless=leak.harmless)


def _next_action(worker: Worker, fleet: Fleet, limits: Limits, now_s: float) -> str:  # noqa: PLR0911  # one row per state
    """Return what happens next with this worker, in words."""
    spec = limits.workers[worker.model]
    lease = fleet.lease_of(worker.name)
    match worker.state:
        case WorkerState.BACKOFF | WorkerState.QUARANTINED:
            return f"starts again in {max(0.0, worker.retry_at_s - now_s):.0f} s"
        case WorkerState.DRAINING | WorkerState.STOPPING | WorkerState.EXITED if worker.stop is not None:
            return f"leaves: {worker.stop.reason}"
        case WorkerState.STARTING:
            return "loads its model" if spec.serves else "gets ready"
        case WorkerState.UNKILLABLE:
            return "comes back when the kernel lets its process go"
        case WorkerState.DOWN if worker.wanted is Wanted.DOWN:
            return f"stays down until: warden workers start {worker.name}"
        case WorkerState.DOWN if lease is not None and lease.state is LeaseState.WAITING:
            return f"starts when {lease.device} is proved free"
        case WorkerState.DOWN if lease is not None and (loads := who_loads(fleet, lease.device, limits, now_s)) is not None:
            return f"starts when {called(loads)} has loaded its model on {lease.device}"
        case WorkerState.DOWN if spec.resident and spec.gpu_bytes:
            return _comeback(worker, fleet, now_s)
        case WorkerState.DOWN:
            return "starts when a job comes"
        case _:
            return ""


def _comeback(worker: Worker, fleet: Fleet, now_s: float) -> str:
    """Return what a resident that is away waits for."""
    own = fleet.lease_of(worker.name)
    if own is not None:
        return f"comes back when what it had of {own.device} is proved free"
    if holders := [other.owner for other in fleet.leases.values()]:
        return f"comes back after {', '.join(holders)}"
    if kept := [device.hold_off_until_s - now_s for device in fleet.devices.values() if device.hold_off_until_s > now_s]:
        return f"comes back when somebody waits for it, or in {short_duration(min(kept))}"
    if failing := [device.id for device in fleet.devices.values() if device.state is not DeviceState.OK]:
        return f"comes back when {' or '.join(failing)} can be read again"
    return "comes back when nobody waits for the device"


def dump_view(worker: Worker, evidence: Evidence, log: Path) -> DumpView:
    """Return what was seen of one live worker. log: its file, where the stacks stand as well."""
    process = worker.process
    return DumpView(
        worker=worker.name,
        pid=process.pid if process else None,
        generation=worker.generation,
        state=worker.state,
        jobs=list(worker.jobs),
        process=evidence.process,
        stack=evidence.stack,
        log_tail=list(evidence.log_tail),
        log=str(log),
    )


def memory_view(fleet: Fleet, limits: Limits) -> MemoryView:
    """Return the machine's memory and the state folder's disk, with the lines that count."""
    at = lines(limits.memory, fleet.memory_bytes)
    return MemoryView(
        available_bytes=fleet.available_bytes,
        total_bytes=fleet.memory_bytes or None,
        zone=fleet.zone,
        warn_below_bytes=at.warn_bytes,
        emergency_below_bytes=at.emergency_bytes,
        hard_floor_bytes=at.floor_bytes,
        promised_bytes=sum(promised(fleet).values()),
        disk_free_bytes=fleet.disk_free_bytes,
        disk_floor_bytes=limits.supervisor.disk_floor_bytes,
    )


def counts(fleet: Fleet, stored: Mapping[str, int]) -> dict[str, int]:
    """Return how many jobs there are in each status: ended ones by the store, live ones by the fleet."""
    live = dict.fromkeys(("queued", *sorted(AT_WORK), "paused"), 0)
    for job in fleet.jobs.values():
        live[job.status] = live.get(job.status, 0) + 1
    return live | {status: stored.get(status, 0) for status in ("completed", "failed", "cancelled")}
