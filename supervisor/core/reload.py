"""A new configuration while everything runs: only workers that were added, removed or changed are touched, and a lowered limit gets a full window."""

from typing import Final

from msgspec.structs import replace

from supervisor.core import handover, ladder, memory, peaks, wishes
from supervisor.core.actions import SaveWanted
from supervisor.core.events import ConfigChanged
from supervisor.core.health import stall_limit_s
from supervisor.core.limits import Limits, WorkerSpec
from supervisor.core.model import Cause, Fleet, Wanted, Worker, WorkerName, WorkerState
from supervisor.core.turn import Turn

LAUNCH_FIELDS: Final = ("command", "options", "env", "cwd", "umask", "oom_score_adj", "concurrency", "progress", "gpu_bytes", "user", "stop_signal")
"""What a process got when it was started: a change of these is a fresh process, at the next boundary."""

_LOADED_FIELDS: Final = ("command", "options", "env")
"""What says which model is loaded: after a change of these, what its work was seen to use before says nothing."""

_CLOCKS: Final = ("start_timeout_s", "silent_after_s", "stall_after_s", "critical_max_s", "recycle_wait_s", "stop_grace_s")
"""The limits that end a process when they run out."""


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
            generation = turn.fleet.forgotten.get(name, 0)
            turn.put_worker(Worker(name=name, model=model, wanted=_autostart(turn.limits.workers[model]), since_s=turn.now_s, generation=generation))
    for worker in tuple(turn.fleet.workers.values()):
        if worker.name not in wanted:
            _forget_word(turn, worker)
            retired = turn.put_worker(replace(worker, wanted=Wanted.DOWN, retired=True))
            wishes.give_back(turn, retired, "its worker was taken out of supervisor.toml")
        elif worker.retired:  # it was taken out a moment ago: what still runs of it leaves, and a fresh process follows
            turn.put_worker(replace(worker, wanted=_autostart(turn.spec(worker)), retired=False))
        elif worker.model in event.previous.workers:
            _change(turn, worker, event.previous.workers[worker.model])
    _forget_peaks(turn, event.previous)
    memory.limits_changed(turn, event.previous.memory)
    for device in tuple(turn.fleet.devices.values()):
        if device.backend == "host":
            turn.put_device(replace(device, total_bytes=turn.limits.gpu.host_budget_bytes))


def _forget_peaks(turn: Turn, previous: Limits) -> None:
    for model, old in previous.workers.items():
        new = turn.limits.workers.get(model)
        if new is None or any(getattr(new, field) != getattr(old, field) for field in _LOADED_FIELDS):
            peaks.forget(turn, model)


def _autostart(spec: WorkerSpec) -> Wanted:
    return Wanted.UP if spec.autostart else Wanted.DOWN


def _forget_word(turn: Turn, worker: Worker) -> None:
    """Let the configuration say where the worker is wanted: the edit is the operator's later word."""
    turn.act(SaveWanted(words={worker.name: None}))


def _change(turn: Turn, worker: Worker, old: WorkerSpec) -> None:
    """Bring one worker to its new table. A process that is left as it is got nothing else at its start than it would get now."""
    new = turn.spec(worker)
    if old == new:
        return
    if old.autostart != new.autostart:
        _forget_word(turn, worker)
        worker = wishes.want(turn, worker, _autostart(new))
    if not (new.resident or worker.jobs or worker.process):
        handover.withdraw(turn, worker.name)  # it was on its way back only for being resident
    _full_window(turn, worker, old, new)
    changed = [field.removesuffix("_bytes") for field in LAUNCH_FIELDS if getattr(old, field) != getattr(new, field)]
    if not changed:
        return
    worker = turn.fleet.workers[worker.name]
    reason = f"its configuration changed: {', '.join(changed)}"
    if worker.process is None:
        worker = turn.put_worker(replace(worker, retry_at_s=turn.now_s))  # the table may be mended now: no back-off is waited out
        if old.gpu_bytes != new.gpu_bytes:  # the device that is on its way to it was measured for another need
            wishes.give_back(turn, worker, reason)
    elif worker.stop is None:
        ladder.order_leave(turn, worker, Cause.OPERATOR, reason, boundary=True)


def _full_window(turn: Turn, worker: Worker, old: WorkerSpec, new: WorkerSpec) -> None:
    """Start each clock afresh whose limit was lowered: nobody is killed for the time before anybody knew of it."""
    process, stop, now_s = worker.process, worker.stop, turn.now_s
    lowered = {name for name in _CLOCKS if getattr(new.watchdog, name) < getattr(old.watchdog, name)}
    if process is None:
        return
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.sent_at_s is not None and (stall_limit_s(new, job) < stall_limit_s(old, job) or "critical_max_s" in lowered):
            turn.put_job(replace(job, sent_at_s=now_s, progress_at_s=now_s if job.progress_at_s is not None else None))
    if "silent_after_s" in lowered and process.beat_at_s is not None:
        process = replace(process, beat_at_s=now_s)
    if "stall_after_s" in lowered and process.shown_at_s is not None:
        process = replace(process, shown_at_s=now_s)
    elif "stall_after_s" in lowered and process.ready_at_s is not None:
        process = replace(process, ready_at_s=now_s)
    if stop is not None and "recycle_wait_s" in lowered:
        stop = replace(stop, ordered_at_s=now_s)
    if stop is not None and stop.term_at_s is not None and lowered & {"stop_grace_s", "critical_max_s"}:
        stop = replace(stop, term_at_s=now_s)
    fresh = (worker.state is WorkerState.STARTING and "start_timeout_s" in lowered) or (worker.state is WorkerState.DRAINING and "stop_grace_s" in lowered)
    turn.put_worker(replace(worker, since_s=now_s if fresh else worker.since_s, process=process, stop=stop))


def forget_retired(turn: Turn) -> None:
    """Take workers out of the fleet that the configuration no longer names, once nothing of them is left."""
    workers = turn.fleet.workers
    gone = {worker.name: worker.generation for worker in workers.values() if worker.retired and worker.process is None}
    gone = {name: generation for name, generation in gone.items() if turn.fleet.lease_of(name) is None}
    if gone:
        left = {name: worker for name, worker in workers.items() if name not in gone}
        turn.fleet = replace(turn.fleet, workers=left, forgotten={**turn.fleet.forgotten, **gone})
