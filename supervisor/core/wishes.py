"""What the operator wants of a worker, by command or by an edit of the configuration: up, down, or a fresh process."""

from msgspec.structs import replace

from supervisor.core import handover, ladder, work
from supervisor.core.actions import Reply, SaveWanted
from supervisor.core.events import RecycleRequested, WantedChanged
from supervisor.core.model import Cause, JobStatus, Wanted, Worker, WorkerName
from supervisor.core.recycle import recycle
from supervisor.core.turn import Turn


def wanted_changed(turn: Turn, event: WantedChanged) -> None:
    """Do what a person or program asks for these workers; one that an edit took away meanwhile is refused, and nothing is done."""
    if _refused(turn, event.request, event.workers):
        return
    for name in event.workers:
        worker = want(turn, turn.fleet.workers[name], Wanted(event.wanted))
        if worker.wanted is Wanted.UP:  # whoever says so has mended what was wrong: no back-off is waited out
            worker = turn.put_worker(replace(worker, retry_at_s=turn.now_s))
        if event.restart and worker.stop is None:
            ladder.order_leave(turn, worker, Cause.OPERATOR, "restart asked for by the operator", boundary=True)
    if event.wanted == Wanted.UP:  # nor is it waited for longer that a device is kept free
        for device in [device for device in turn.fleet.devices.values() if device.hold_off_until_s]:
            turn.put_device(replace(device, hold_off_until_s=0.0))
    turn.act(SaveWanted(words=dict.fromkeys(event.workers, Wanted(event.wanted)), request=event.request))  # on disk before anybody hears of it


def recycle_requested(turn: Turn, event: RecycleRequested) -> None:
    """Make the processes of these workers due for a fresh one: one of a model at a time, at a boundary, as when their age had come."""
    if _refused(turn, event.request, event.workers):
        return
    due = [
        replace(worker, process=replace(worker.process, recycle_asked=True))
        for worker in (turn.fleet.workers[name] for name in event.workers)
        if worker.process is not None
    ]
    if not due:
        states = ", ".join(f"{name} is {turn.fleet.workers[name].state}" for name in event.workers)
        turn.act(Reply(request=event.request, error="failed", message=f"there is no process to recycle: {states}; the next one is a fresh one"))
        return
    recycle(turn, [turn.put_worker(worker) for worker in due])
    turn.act(Reply(request=event.request))


def _refused(turn: Turn, request: str, names: tuple[WorkerName, ...]) -> bool:
    for name in names:
        worker = turn.fleet.workers.get(name)
        if worker is None or worker.retired:
            sentence = f"{name} is no longer in supervisor.toml: name another worker, or add it there"
            turn.act(Reply(request=request, error="unknown", message=sentence))
            return True
    return False


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
