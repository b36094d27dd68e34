"""What the operator wants of a worker, by command or by an edit of the configuration: up, down, or a fresh process."""

from msgspec.structs import replace

from supervisor.core import generations, handover, work
from supervisor.core.actions import Reply, SaveWanted
from supervisor.core.events import WantedChanged
from supervisor.core.model import Cause, JobStatus, Wanted, Worker
from supervisor.core.turn import Turn


def wanted_changed(turn: Turn, event: WantedChanged) -> None:
    """Do what a person or program asks for these workers; one that an edit took away meanwhile is refused, and nothing is done."""
    for name in event.workers:
        worker = turn.fleet.workers.get(name)
        if worker is None or worker.retired:
            sentence = f"{name} is no longer in supervisor.toml: name another worker, or add it there"
            turn.act(Reply(request=event.request, error="unknown", message=sentence))
            return
    for name in event.workers:
        worker = want(turn, turn.fleet.workers[name], Wanted(event.wanted))
        if event.restart:
            worker = turn.put_worker(replace(worker, retry_at_s=turn.now_s))
            if worker.stop is None:
                generations.order_leave(turn, worker, Cause.OPERATOR, "restart asked for by the operator", boundary=True)
    turn.act(SaveWanted(words=dict.fromkeys(event.workers, Wanted(event.wanted)), request=event.request))  # on disk before anybody hears of it


def want(turn: Turn, worker: Worker, wanted: Wanted) -> Worker:
    """Note where the worker should be, and return it. One that comes up comes at once; one that goes down gives back the jobs whose work has not begun."""
    fresh = wanted is Wanted.UP and worker.wanted is Wanted.DOWN
    worker = turn.put_worker(replace(worker, wanted=wanted, retry_at_s=turn.now_s if fresh else worker.retry_at_s))
    return worker if wanted is Wanted.UP else give_back(turn, worker, "the operator wants its worker down")


def give_back(turn: Turn, worker: Worker, why: str) -> Worker:
    """Put jobs that only waited for this worker into the queue again, and give up the device that was on its way to it. Returns the worker after that."""
    for name in worker.jobs:
        job = turn.fleet.jobs[name]
        if job.status is JobStatus.PREPARING and job.sent_at_s is None:
            work.hand_back(turn, job, why)
    handover.withdraw(turn, worker.name)
    return turn.fleet.workers[worker.name]
