"""The planned fresh process: each worker once in recycle_after, one of a model at a time, at a boundary of its work."""

from collections.abc import Iterable
from typing import Final

from supervisor.core import ladder
from supervisor.core.limits import Watchdog
from supervisor.core.model import Cause, Stop, Wanted, Worker, WorkerState
from supervisor.core.spread import spread
from supervisor.core.turn import Turn
from supervisor.units import format_duration

_SETTLED: Final = (WorkerState.READY, WorkerState.BUSY)
_ON_ITS_WAY: Final = (WorkerState.STARTING, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.EXITED)
EARLIEST: Final = 0.9
"""Of recycle_after: between this share and the whole, so that workers which started together do not leave together."""


def due_at_s(worker: Worker, watchdog: Watchdog) -> float | None:
    """Return when the worker's process is due for a fresh one; None where there is no process. One for which the operator asked has been due ever since."""
    if worker.process is None:
        return None
    if worker.process.recycle_asked:
        return worker.process.spawned_at_s
    return worker.process.spawned_at_s + watchdog.recycle_after_s * (EARLIEST + (1.0 - EARLIEST) * spread(f"{worker.name}#{worker.generation}"))


def recycle(turn: Turn, old: Iterable[Worker]) -> None:
    """Ask the most overdue of these workers, one of each model, to leave at the next boundary, while no other of its model is on its way out or in."""
    due = [(at_s, worker) for worker in old if worker.state in _SETTLED and (at_s := due_at_s(worker, turn.spec(worker).watchdog)) is not None]
    for at_s, worker in sorted(due, key=lambda pair: (pair[0], pair[1].name)):
        if at_s <= turn.now_s and not on_its_way(turn, worker.model):
            asked = worker.process is not None and worker.process.recycle_asked
            words = "asked for by the operator" if asked else f"recycle_after is {format_duration(turn.spec(worker).watchdog.recycle_after_s)}"
            ladder.order_leave(turn, worker, Cause.RECYCLE, words, boundary=True)


def on_its_way(turn: Turn, model: str) -> bool:
    """Return whether one of the model's workers is on its way out or in."""
    return any(other.model == model and other.wanted is Wanted.UP and other.state in _ON_ITS_WAY for other in turn.fleet.workers.values())


def is_overdue(turn: Turn, worker: Worker, stop: Stop) -> bool:
    """Return whether a recycle has waited for a boundary long enough."""
    waits = stop.cause is Cause.RECYCLE and worker.state is WorkerState.DRAINING and bool(worker.jobs)
    return waits and turn.now_s >= stop.ordered_at_s + turn.spec(worker).watchdog.recycle_wait_s


def insist(turn: Turn, worker: Worker, stop: Stop) -> None:
    """Stop a worker whose recycle is overdue."""
    words = f"no boundary came within recycle_wait, {format_duration(turn.spec(worker).watchdog.recycle_wait_s)}"
    ladder.order_stop(turn, worker, Cause.RECYCLE, f"{stop.reason}; {words}")
