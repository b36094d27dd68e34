"""What work was seen to use of a device and of the machine: learned while it runs, kept over restarts, raised where a device had not enough."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.budget import raised_bytes
from supervisor.core.limits import MIB
from supervisor.core.model import Device, Fleet, Job, LeaseState, Peak, Work, Worker, WorkerName, WorkerState
from supervisor.core.turn import Turn
from supervisor.units import format_size

STEP_BYTES: Final = 16 * MIB
"""A peak that is higher by less is not written down: what is booked over a peak covers it many times."""
PEAKS_KEPT: Final = 500
_SIZES: Final = ("image_size", "imgsz", "batch")
"""The params that change how much memory the same work takes. All that the core ever reads of a job's params."""
_LARGEST: Final = 1e9


def work_of(model: str, job: Job | None) -> Work:
    """Return the name of a kind of work: `yolo yolo.train image_size=640 batch=16`. Without a job: the model when it is loaded and idle."""
    if job is None:
        return Work(model)
    params = job.params if isinstance(job.params, dict) else {}
    sizes = [f"{name}={size:g}" for name in _SIZES if isinstance(size := params.get(name), int | float) and abs(size) < _LARGEST]
    return Work(" ".join((model, job.kind, *sizes)))


def of_model(fleet: Fleet, model: str) -> dict[Work, Peak]:
    """Return what is known of the work of one model."""
    return {work: peak for work, peak in fleet.peaks.items() if work.partition(" ")[0] == model}


def peak_of(fleet: Fleet, model: str, job: Job | None) -> int:
    """Return the most that this work is known to take; without a job, that any work of the model is. 0: it was never seen."""
    if job is not None:
        peak = fleet.peaks.get(work_of(model, job))
        return peak.most_bytes if peak is not None else 0
    return max((peak.most_bytes for peak in of_model(fleet, model).values()), default=0)


def memory_of(fleet: Fleet, model: str, job: Job) -> int:
    """Return the most of the machine's memory that a worker was seen to have while it did such work. 0: it was never seen."""
    peak = fleet.peaks.get(work_of(model, job)) if fleet.peaks else None
    return peak.memory_bytes if peak is not None else 0


def ended_well(turn: Turn, worker: Worker, job: Job) -> None:
    """Learn from a job that has its result. What one had that was ended for its memory says nothing of what such work needs."""
    work = work_of(worker.model, job)
    peak = turn.fleet.peaks.get(work, Peak())
    if job.memory_peak_bytes >= peak.memory_bytes + STEP_BYTES:
        _put(turn, work, replace(peak, memory_bytes=job.memory_peak_bytes))


def measured(turn: Turn, device: Device) -> None:
    """Learn from a reading what each holder uses just now."""
    for holding in device.sample.holdings if device.sample is not None else ():
        lease = turn.fleet.lease_of(holding.worker) if holding.worker is not None else None
        if (
            lease is not None
            and lease.worker is not None
            and lease.device == device.id
            and lease.state in {LeaseState.HELD, LeaseState.YIELDING, LeaseState.CONTAMINATED}
        ):
            heard(turn, turn.fleet.workers[lease.worker], holding.used_bytes or 0)


def heard(turn: Turn, worker: Worker, used_bytes: int) -> None:
    """Learn what a worker uses just now: by a reading, or by its own word, which is less at the most."""
    jobs = [job for job in (turn.fleet.jobs[name] for name in worker.jobs) if job.begun_at_s is not None]
    if worker.stop is not None:  # perhaps because something else is loaded from now on
        return
    works = [work_of(worker.model, job) for job in jobs] or ([work_of(worker.model, None)] if _never_worked(worker) else [])
    declared_bytes = turn.spec(worker).gpu_bytes
    for work in works if declared_bytes else ():
        peak = turn.fleet.peaks.get(work, Peak())
        if used_bytes < peak.seen_bytes + STEP_BYTES:
            continue
        _put(turn, work, replace(peak, seen_bytes=used_bytes))
        if peak.seen_bytes <= declared_bytes < used_bytes:
            said = f"{work} uses {format_size(used_bytes)}, workers.{worker.model}.gpu says {format_size(declared_bytes)}"
            fields = {"work": work, "peak_bytes": used_bytes, "need_bytes": declared_bytes}
            turn.announce("gpu_need_exceeded", worker=worker.name, job=jobs[0].id if jobs else None, reason=said, fields=fields)


def _never_worked(worker: Worker) -> bool:
    """Return whether what the process uses is that of the loaded model alone: after a job some of it may be the job's."""
    process = worker.process
    return process is not None and not process.adopted and (worker.state is WorkerState.STARTING or worker.since_s == process.ready_at_s)


def too_little(turn: Turn, worker: Worker, job: Job | None) -> int:
    """Remember that what the worker was given was not enough. Returns what the work is taken to need from now on."""
    work = work_of(worker.model, job)
    peak = turn.fleet.peaks.get(work, Peak())
    wanted_bytes = max(peak.wanted_bytes, raised_bytes(max(peak.seen_bytes, given_bytes(turn.fleet, worker.name))))
    _put(turn, work, replace(peak, wanted_bytes=wanted_bytes))
    return wanted_bytes


def given_bytes(fleet: Fleet, worker: WorkerName) -> int:
    """Return what is booked for a worker, 0 where nothing is."""
    lease = fleet.lease_of(worker)
    return lease.need_bytes if lease is not None else 0


def forget(turn: Turn, model: str) -> None:
    """Begin anew with a model that loads something else from now on."""
    if old := of_model(turn.fleet, model):
        turn.fleet = replace(turn.fleet, peaks={work: peak for work, peak in turn.fleet.peaks.items() if work not in old})


def _put(turn: Turn, work: Work, peak: Peak) -> None:
    others = [(name, other) for name, other in turn.fleet.peaks.items() if name != work]
    turn.fleet = replace(turn.fleet, peaks=dict([*others[1 - PEAKS_KEPT :], (work, peak)]))
