"""The planned fresh process: each worker once in recycle_after, one of a model at a time, at a boundary of its work."""

from typing import Final

from supervisor.core import generations
from supervisor.core.limits import Watchdog
from supervisor.core.model import Cause, Wanted, Worker, WorkerState
from supervisor.core.restarts import spread
from supervisor.core.turn import Turn
from supervisor.units import format_duration

_SETTLED: Final = (WorkerState.READY, WorkerState.BUSY)
_EARLIEST: Final = 0.9
"""Of recycle_after: between this share and the whole, so that workers which started together do not leave together."""


def due_at_s(worker: Worker, watchdog: Watchdog) -> float | None:
    """Return when the worker's process is due for a fresh one; None where there is no process."""
    if worker.process is None:
        return None
    return worker.process.spawned_at_s + watchdog.recycle_after_s * (_EARLIEST + (1.0 - _EARLIEST) * spread(worker))


def recycle(turn: Turn) -> None:
    """Ask the most overdue worker of each model to leave at the next boundary. Called on every tick."""
    models: dict[str, list[Worker]] = {}
    for worker in turn.fleet.workers.values():
        models.setdefault(worker.model, []).append(worker)
    for workers in models.values():
        if any(worker.wanted is Wanted.UP and worker.process is not None and worker.state not in _SETTLED for worker in workers):
            continue  # one of them is on its way out or in: the others go on serving
        watchdog = turn.spec(workers[0]).watchdog
        due = [(at_s, worker) for worker in workers if worker.state in _SETTLED and (at_s := due_at_s(worker, watchdog)) is not None and at_s <= turn.now_s]
        if due:
            _, worker = min(due, key=lambda pair: (pair[0], pair[1].name))
            generations.order_leave(turn, worker, Cause.RECYCLE, f"recycle_after is {format_duration(watchdog.recycle_after_s)}", boundary=True)


def insist(turn: Turn, worker: Worker) -> None:
    """Stop a worker whose recycle waited for a boundary long enough. Called on every tick for workers that drain."""
    stop, watchdog = worker.stop, turn.spec(worker).watchdog
    if stop is None or stop.cause is not Cause.RECYCLE or worker.state is not WorkerState.DRAINING or not worker.jobs:
        return
    if turn.now_s >= stop.ordered_at_s + watchdog.recycle_wait_s:
        generations.order_stop(turn, worker, Cause.RECYCLE, f"{stop.reason}; no boundary came within recycle_wait, {format_duration(watchdog.recycle_wait_s)}")
