"""Why a job is where it is: what it waits for in numbers, where it is, or its death certificate. Pure, and the only place where these sentences are made."""

from collections.abc import Callable, Mapping
from typing import Final

from supervisor.core.gpu import free_words, held_by
from supervisor.core.health import CANCEL_GRACE_S, Clock, clocks
from supervisor.core.jobs import RELEASING
from supervisor.core.limits import Limits
from supervisor.core.model import Cause, Fleet, Job, JobStatus, LeaseState, Reason, Worker
from supervisor.runtime.memory_waits import Scene
from supervisor.runtime.phrases import handover_words, how_far, moment
from supervisor.runtime.sparkline import sparkline
from supervisor.runtime.views import error_view, flight_view
from supervisor.runtime.waits import wait_remedies, wait_sentences, wait_view, waits_for
from supervisor.shapes import WhyView
from supervisor.units import format_count, format_size, say_attempt, short_duration

_LOG_LINES: Final = 12


def why_view(job: Job, *, fleet: Fleet, limits: Limits, now_s: float, wall_s: float) -> WhyView:
    """Return the whole story of one job, live or ended, for people and for programs."""
    scene = Scene(fleet=fleet, limits=limits, now_s=now_s, wall_s=wall_s)
    queued = job.status is JobStatus.QUEUED
    reason = waits_for(job, scene) if queued else job.reason
    return WhyView(
        job=job.id,
        kind=job.kind,
        status=job.status,
        reason=reason,
        sentences=_STORY[job.status](job, scene),
        you_can=_remedies(job, reason, scene),
        wait=wait_view(job, reason, scene) if queued else None,
        error=error_view(job.error) if job.error else None,
        flight=[flight_view(sample) for sample in job.flight],
    )


def _attempt(job: Job) -> str:
    return say_attempt(job.attempt, job.failures, job.max_attempts)


def _queued(job: Job, scene: Scene) -> list[str]:
    return [*wait_sentences(job, waits_for(job, scene), scene), *_flight(job)]


def _preparing(job: Job, scene: Scene) -> list[str]:
    """Return which step of its preparation the job is at: the device, the model, or the worker's first word about it."""
    worker = scene.fleet.workers.get(job.worker) if job.worker else None
    head = f"{job.id} is being prepared on {job.worker or 'a worker'}, {_attempt(job)}"
    lease = scene.fleet.lease_of(worker.name) if worker else None
    device = scene.fleet.devices.get(lease.device) if lease else None
    if worker is None:
        return [f"{head}."]
    if device is not None and device.handover is not None and lease is not None and lease.state is LeaseState.WAITING:
        words = handover_words(device, device.handover, fleet=scene.fleet, limits=scene.limits, now_s=scene.now_s)
        there = "; ".join((free_words(device), *held_by(scene.fleet, device, scene.now_s)))
        now = [*words, f"on {device.id}: {there}"]
        return [f"{head}: it waits for the device.", *(f"now: {line}" for line in now), "then: its worker is started, loads its model, and begins"]
    if job.sent_at_s is not None:
        return [
            f"{head}: it was handed over {short_duration(scene.now_s - job.sent_at_s)} ago, and its worker has not begun yet.",
            *_clocks(job, worker, scene),
        ]
    since = short_duration(scene.now_s - worker.since_s)
    return [f"{head}: {worker.name} is {worker.state} since {since}; the job is sent as soon as it is ready.", *_clocks(job, worker, scene)]


def _running(job: Job, scene: Scene) -> list[str]:
    worker = scene.fleet.workers.get(job.worker) if job.worker else None
    where = f"{job.worker or 'its worker'}{f' ({job.device})' if job.device else ''}"
    since = f" since {short_duration(scene.now_s - job.begun_at_s)}" if job.begun_at_s is not None else ""
    lines = [f"{job.id} runs on {where}{since}, {_attempt(job)}.", f"progress: {how_far(job, scene.now_s)}"]
    if worker is not None and worker.stop is not None:
        lines.append(f"leaving: {worker.name} is {worker.state}: {worker.stop.reason}")
    if job.critical:
        lines.append(f"critical: {job.critical}; until it is over nothing ends it but a lack of memory")
    return [*lines, *_clocks(job, worker, scene)] if worker else lines


def _pausing(job: Job, scene: Scene) -> list[str]:
    first, *rest = _running(job, scene)
    return [f"{job.id} is asked to pause: its work leaves right after its next checkpoint, and the device is free then.", f"now: {first}", *rest]


def _paused(job: Job, _scene: Scene) -> list[str]:
    reached = f" at {format_count(job.done)} of {format_count(job.total)} ({job.progress:.0f} %)" if job.total > 0 else ""
    when = f", {job.message}" if job.message else ""
    return [
        f"{job.id} is paused{reached}{when}: it holds no device and no worker.",
        "then: resumed, it goes on from its last checkpoint, in a new attempt and maybe another process.",
    ]


def _cancelling(job: Job, scene: Scene) -> list[str]:
    since_s = scene.now_s - job.cancel_at_s if job.cancel_at_s is not None else 0.0
    asked = f"{short_duration(max(0.0, since_s))} ago"
    if job.phase == RELEASING:
        level = f"to {format_size(job.level_bytes)}, as before the job" if job.level_bytes is not None else "to the level before the job"
        return [f"{job.id} was asked to stop {asked}, and its work has ended.", f"now: its worker's device memory is read until it is back {level}"]
    left = short_duration(max(0.0, CANCEL_GRACE_S - since_s))
    first = f"{job.id} was asked to stop {asked}: its work ends at its next report of progress."
    critical = f"; it is in a critical section ({job.critical}), which is let finish" if job.critical else ""
    return [first, f"now: {how_far(job, scene.now_s)}{critical}", f"then: if it still works in {left}, its process is ended"]


def _completed(job: Job, _scene: Scene) -> list[str]:
    return [f"{job.id} ({job.kind}) is completed{_times(job)}.", *([f"note: {job.message}"] if job.message else [])]


def _cancelled(job: Job, _scene: Scene) -> list[str]:
    lines = [f"{job.id} ({job.kind}) was cancelled{_times(job)}{f': {job.message}' if job.message else ''}."]
    if job.receipt is not None:
        lines.append(f"freed: {format_size(job.receipt.freed_bytes)} in {job.receipt.took_s:.1f} s")
    return lines


def _failed(job: Job, scene: Scene) -> list[str]:
    """Return the death certificate: reason, evidence, last phase, how often it was tried, memory, stack, the end of its worker's log."""
    error = job.error
    if error is None:
        return [f"{job.id} ({job.kind}) has no result: {job.reason or 'failed'}: {job.message or 'nobody said why'}."]
    lines = [f"{job.id} ({job.kind}) has no result: {error.reason}: {error.message}"]
    if error.evidence and error.evidence not in error.message:
        lines.append(f"evidence: {error.evidence}")
    reached = f"{format_count(job.done)} of {format_count(job.total)}" if job.total > 0 else "no progress reported"
    lines.append(f"last: phase {error.phase or '?'}, {reached}, {_attempt(job)} on {job.worker or 'no worker'}")
    tries = ", ".join(f"{cause} {count} (retried up to {scene.limits.jobs.retries.for_cause(cause)} times)" for cause, count in job.tries.items())
    lines += [f"failures: {tries}"] if tries else []
    lines += [f"time: it ended{_times(job).removeprefix(',')}"] if _times(job) else []
    lines += [f"memory: its worker held {format_size(job.peak_bytes or job.level_bytes or 0)} of the device"] if job.peak_bytes or job.level_bytes else []
    lines += _flight(job)
    for name, text in (("stack", error.stack.splitlines()), ("log", error.log_tail[-_LOG_LINES:])):
        lines += [f"{name}:", *(f"  {line}" for line in text)] if text else []
    return lines


def _flight(job: Job) -> list[str]:
    """Return the last minute of the worker that ended under the job: its memory, what the machine had left, what it held of a device."""
    if not job.flight:
        return []
    span_s = job.flight[-1].at_wall - job.flight[0].at_wall
    lines = [f"record: the last {short_duration(span_s)} of its worker, second by second (warden jobs why {job.id} --csv)"]
    for name, values in (
        ("memory", [sample.rss_bytes for sample in job.flight]),
        ("available", [sample.available_bytes for sample in job.flight]),
        ("device", [sample.device_bytes for sample in job.flight]),
    ):
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"  {name:<9} {sparkline(known)}  {format_size(known[0])} -> {format_size(known[-1])}, at most {format_size(max(known))}")
    return lines


def _times(job: Job) -> str:
    """Return when a job ended and how long its work took, as far as that is known."""
    if job.completed_wall is None:
        return ""
    took = f" {short_duration(max(0.0, job.completed_wall - job.started_wall))} after its work began" if job.started_wall is not None else ""
    return f", at {moment(job.completed_wall)}{took}"


_STORY: Final[Mapping[JobStatus, Callable[[Job, Scene], list[str]]]] = {
    JobStatus.QUEUED: _queued,
    JobStatus.PREPARING: _preparing,
    JobStatus.RUNNING: _running,
    JobStatus.PAUSING: _pausing,
    JobStatus.PAUSED: _paused,
    JobStatus.CANCELLING: _cancelling,
    JobStatus.COMPLETED: _completed,
    JobStatus.FAILED: _failed,
    JobStatus.CANCELLED: _cancelled,
}
"""Complete: every status tells its story."""

_CLOCK_WORDS: Final[Mapping[Cause, str]] = {
    Cause.SILENT: "its worker's last heartbeat",
    Cause.STALL: "its last progress",
    Cause.START_TIMEOUT: "the start of its worker",
    Cause.CANCEL: "the request to stop",
}


def _clocks(job: Job, worker: Worker, scene: Scene) -> list[str]:
    """Return the clocks that run against the job: how long ago each was set back, and how long it may still go on."""
    spec = scene.limits.workers.get(worker.model)
    armed = clocks(worker, scene.fleet.jobs, spec) if spec else ()
    return [_clock(clock, scene.now_s) for clock in armed if clock.job in (None, job.id)]


def _clock(clock: Clock, now_s: float) -> str:
    left_s = -clock.over_s(now_s)
    extra = f" and {short_duration(clock.extra_s)} more" if clock.extra_s else ""
    still = f"{short_duration(left_s)} left" if left_s > 0 else "over"
    ago, allowed = short_duration(now_s - clock.armed_at_s), short_duration(clock.limit_s)
    return f"clock: {_CLOCK_WORDS.get(clock.cause, clock.cause)} was {ago} ago, {allowed}{extra} are allowed, {still}"


def _remedies(job: Job, reason: Reason, scene: Scene) -> list[str]:
    """Return what a person can do now, as commands; nothing where nothing is to be done."""
    cancel, watch = f"warden jobs cancel {job.id}", f"warden jobs watch {job.id}"
    match job.status:
        case JobStatus.QUEUED:
            return [*wait_remedies(job, reason, scene), cancel, watch]
        case JobStatus.PREPARING | JobStatus.CANCELLING:
            return [cancel, watch] if job.status is JobStatus.PREPARING else [watch]
        case JobStatus.RUNNING:
            return [f"warden jobs pause {job.id}", cancel, watch, *([f"warden workers dump {job.worker}"] if job.worker else [])]
        case JobStatus.PAUSING | JobStatus.PAUSED:
            return [f"warden jobs resume {job.id}", cancel]
        case JobStatus.FAILED | JobStatus.CANCELLED:
            look = {Reason.GPU_REFUSED: "warden gpu status"}.get(reason, f"warden logs {job.worker}" if job.worker and job.error else "")
            return [f"warden jobs retry {job.id}", *([look] if look else [])]
        case _:
            return [f"warden jobs show {job.id}"]
