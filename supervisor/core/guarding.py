"""What the guard did by itself is entered as an order that was given: else the brake would end another while the first one's memory is on its way back."""

from msgspec.structs import replace

from supervisor.core.events import GuardKilled
from supervisor.core.lifecycle import Signal, may
from supervisor.core.lifecycle import advance as move
from supervisor.core.model import WITH_PROCESS, Cause, Stop
from supervisor.core.turn import Turn


def killed(turn: Turn, event: GuardKilled) -> None:
    """Enter an end that is under way already. Nothing is sent to the process: its exit is waited for as after a kill of ours."""
    worker = turn.fleet.workers.get(event.worker)
    if worker is None or worker.generation != event.generation or worker.process is None or worker.state not in WITH_PROCESS:
        return
    reason = f"below memory.hard_floor the guard ended {worker.name} by itself"
    if may(worker, Signal.STOP):
        worker = move(worker, Signal.STOP, turn.now_s)
    stop = replace(worker.stop or Stop(cause=Cause.MEMORY, reason=reason, ordered_at_s=turn.now_s), cause=Cause.MEMORY, reason=reason, job=None, brake=True)
    turn.put_worker(replace(worker, stop=replace(stop, term_at_s=stop.term_at_s or turn.now_s, killed_at_s=stop.killed_at_s or turn.now_s)))
    turn.wake_in(turn.spec(worker).watchdog.unkillable_after_s)
