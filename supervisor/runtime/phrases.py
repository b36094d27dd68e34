"""Pieces of sentences about jobs and devices, shared by every answer for people: how far a job is, who is in the way, what a device does just now."""

from collections.abc import Iterable
from datetime import UTC, datetime

from supervisor.core.limits import Limits
from supervisor.core.model import Device, Fleet, Handover, Job, JobId
from supervisor.runtime.views import eta_s
from supervisor.units import format_count, format_size, short_duration


def moment(wall_s: float) -> str:
    """Return an instant for people: 2026-11-25 03:00:00 UTC."""
    return datetime.fromtimestamp(wall_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def how_far(job: Job, now_s: float) -> str:
    """Return where the work is: phase train, 12 of 50 (24 %), about 31 min left, mAP50 0.41."""
    parts = [f"phase {job.phase}"] if job.phase else []
    if job.total > 0:
        parts.append(f"{format_count(job.done)} of {format_count(job.total)} ({job.progress:.0f} %)")
    left_s = eta_s(job, now_s)
    if left_s is not None:
        parts.append(f"about {short_duration(left_s)} left")
    parts += [f"{name} {value:.3g}" for name, value in job.metrics.items()]
    return ", ".join(parts) or "nothing was reported of it yet"


def at_work(job: Job, now_s: float) -> str:
    """Return one line of a job that is in somebody's way."""
    since = f", since {short_duration(now_s - job.begun_at_s)}" if job.begun_at_s is not None else ""
    return f"{job.worker or 'its worker'} is at {job.id} ({job.kind}, {job.status}{since}): {how_far(job, now_s)}"


def jobs_of(fleet: Fleet, names: Iterable[JobId], now_s: float) -> list[str]:
    """Return a line for each of these jobs that is live."""
    return [at_work(fleet.jobs[name], now_s) for name in names if name in fleet.jobs]


def handover_words(device: Device, handover: Handover, *, fleet: Fleet, limits: Limits, now_s: float) -> list[str]:
    """Return how far a hand-over is: who was asked to leave, what was proved, and when it is given up at the latest."""
    whom = f"{handover.to}{f' ({handover.job})' if handover.job else ''}"
    ago = f"{short_duration(now_s - handover.ordered_at_s)} ago"
    asked = f"{', '.join(handover.leaving)} asked to leave {ago}" if handover.leaving else f"ordered {ago}, nobody has to leave"
    lines = [f"{device.id} is being handed to {whom}: {asked}, {_step(device, handover, fleet)}"]
    due_s = handover.ordered_at_s + limits.gpu.vacate_timeout_s - now_s
    lines.append(f"if it is not proved free within {short_duration(max(0.0, due_s))} more, the newcomer is refused (gpu.vacate_timeout)")
    return lines


def _step(device: Device, handover: Handover, fleet: Fleet) -> str:
    """Return the step that a hand-over is at."""
    if handover.exited_at_s is None:
        states = [f"{name} is {fleet.workers[name].state}" for name in handover.leaving if name in fleet.workers]
        return f"not gone yet ({', '.join(states) or 'it is settled in a moment'})"
    left = f"left after {short_duration(handover.exited_at_s - handover.ordered_at_s)}" if handover.leaving else "what was there before cools"
    if handover.gone_at_s is None:
        return f"{left}; that all of its processes are gone is being proved"
    gone = f"{left}, all processes gone after {short_duration(handover.gone_at_s - handover.ordered_at_s)}" if handover.leaving else "its memory is measured"
    if handover.back_at_s is None:
        free = format_size(device.sample.free_bytes) if device.sample else "?"
        return f"{gone}; {free} free after {handover.polls} looks, {format_size(handover.need_bytes)} and the margin are needed"
    return f"{gone}; enough was read free once, the second look decides"


def last_handover(device: Device) -> str:
    """Return how long the last hand-over took, empty where there was none."""
    last = device.last_handover
    if last is None or last.proved_at_s is None:
        return ""
    return f"the last hand-over, to {last.to}, took {short_duration(last.proved_at_s - last.ordered_at_s)} until the proof"
