"""The end of the supervisor: everyone leaves, then it does."""

from supervisor.core import ladder
from supervisor.core.actions import Leave
from supervisor.core.model import WITH_PROCESS, Cause, WorkerState
from supervisor.core.turn import Turn


def leave(turn: Turn) -> None:
    """Take the next step of the shutdown with each worker, and leave once nobody is left."""
    since_s = turn.fleet.stopping_since_s or turn.now_s
    out_of_time = turn.fleet.stopping_now or turn.now_s >= since_s + turn.limits.supervisor.shutdown_grace_s
    for name in tuple(turn.fleet.workers):
        worker = turn.fleet.workers[name]
        if worker.state in WITH_PROCESS and (worker.stop is None or worker.state is WorkerState.DRAINING):
            ladder.order_stop(turn, worker, Cause.SHUTDOWN, "the supervisor stops")
            worker = turn.fleet.workers[name]
        if out_of_time and worker.state is WorkerState.STOPPING and worker.stop is not None and worker.stop.killed_at_s is None:
            ladder.kill(turn, worker, worker.stop, "shutdown_grace is over" if not turn.fleet.stopping_now else "asked to stop now")
    still = [worker for worker in turn.fleet.workers.values() if worker.state in WITH_PROCESS or worker.state is WorkerState.EXITED]
    if not still:
        turn.act(Leave())
