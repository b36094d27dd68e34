"""A new configuration while everything runs: only workers that were added, removed or changed are touched, and a lowered limit gets a full window."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import generations
from supervisor.core.events import ConfigChanged
from supervisor.core.limits import Limits, Watchdog, WorkerSpec
from supervisor.core.model import WITH_PROCESS, Cause, Fleet, Wanted, Worker, WorkerName
from supervisor.core.turn import Turn

LAUNCH_FIELDS: Final = ("command", "options", "env", "cwd", "umask", "oom_score_adj", "concurrency", "progress", "gpu_bytes", "user", "stop_signal")
"""What a process got when it was started: a change of these is a fresh process, at the next boundary."""

_CLOCKS: Final = ("start_timeout_s", "silent_after_s", "stall_after_s")


def places(limits: Limits) -> dict[WorkerName, str]:
    """Return every worker that the configuration asks for, with its model. Replicas are named sam-0, sam-1."""
    return {WorkerName(f"{model}-{i}"): model for model, spec in limits.workers.items() for i in range(spec.replicas)}


def effective(new: Limits, old: Limits, fleet: Fleet) -> Limits:
    """Return the new limits, with models that were taken out kept (serving nothing) for as long as one of their workers is there."""
    leaving = {worker.model for worker in fleet.workers.values()} - set(new.workers)
    kept: dict[str, WorkerSpec] = {model: replace(old.workers[model], replicas=0, serves=(), resident=False) for model in leaving}
    return replace(new, workers={**new.workers, **kept})


def apply(turn: Turn, event: ConfigChanged) -> None:
    """Bring the fleet to the new configuration, which is turn.limits already."""
    wanted = places(turn.limits)
    for name, model in wanted.items():
        if name not in turn.fleet.workers:
            up = Wanted.UP if turn.limits.workers[model].autostart else Wanted.DOWN
            turn.put_worker(Worker(name=name, model=model, wanted=up, since_s=turn.now_s))
    for worker in tuple(turn.fleet.workers.values()):
        if worker.name not in wanted:
            turn.put_worker(replace(worker, wanted=Wanted.DOWN, retired=True))
        elif worker.retired:
            turn.put_worker(replace(worker, wanted=Wanted.UP, retired=False))
        else:
            _change(turn, worker, event.previous.workers[worker.model] if worker.model in event.previous.workers else None)
    for device in tuple(turn.fleet.devices.values()):
        if device.backend == "host":
            turn.put_device(replace(device, total_bytes=turn.limits.gpu.host_budget_bytes))


def _change(turn: Turn, worker: Worker, old: WorkerSpec | None) -> None:
    new = turn.spec(worker)
    if old is None or old == new:
        return
    if old.autostart != new.autostart:
        worker = turn.put_worker(replace(worker, wanted=Wanted.UP if new.autostart else Wanted.DOWN))
    _full_window(turn, worker, old.watchdog, new.watchdog)
    changed = [field.removesuffix("_bytes") for field in LAUNCH_FIELDS if getattr(old, field) != getattr(new, field)]
    worker = turn.fleet.workers[worker.name]
    if changed and worker.state in WITH_PROCESS and worker.stop is None:
        generations.order_leave(turn, worker, Cause.OPERATOR, f"its configuration changed: {', '.join(changed)}", boundary=True)


def _full_window(turn: Turn, worker: Worker, old: Watchdog, new: Watchdog) -> None:
    """Start the clocks afresh where a limit was lowered: nobody is killed for the time before anybody knew of it."""
    process = worker.process
    if process is None or all(getattr(new, field) >= getattr(old, field) for field in _CLOCKS):
        return
    beat_at_s = turn.now_s if process.beat_at_s is not None else None
    turn.put_worker(replace(worker, since_s=turn.now_s, process=replace(process, beat_at_s=beat_at_s)))
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.sent_at_s is not None:
            turn.put_job(replace(job, sent_at_s=turn.now_s, progress_at_s=turn.now_s if job.progress_at_s is not None else None))


def forget_retired(turn: Turn) -> None:
    """Take workers out of the fleet that the configuration no longer names, once nothing of them is left."""
    gone = [name for name, worker in turn.fleet.workers.items() if worker.retired and worker.process is None and turn.fleet.lease_of(name) is None]
    if gone:
        turn.fleet = replace(turn.fleet, workers={name: worker for name, worker in turn.fleet.workers.items() if name not in gone})
