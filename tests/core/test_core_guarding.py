"""What the guard did by itself is an order like any other: nothing is sent to the process, and its exit is waited for."""

import pytest
from msgspec.structs import replace

from supervisor.core import actions as act
from supervisor.core import events as ev
from supervisor.core.decide import decide
from supervisor.core.limits import GIB
from supervisor.core.model import Cause, WorkerName, WorkerState
from tests.support.world import World

SAM = WorkerName("sam-0")


def killed(generation: int) -> ev.GuardKilled:
    """Return that the guard has killed SAM."""
    return ev.GuardKilled(worker=SAM, generation=generation, available_bytes=GIB, held_bytes=8 * GIB)


def test_a_kill_by_the_guard_is_an_end_under_way() -> None:
    world = World()
    world.run(5)
    before = world.fleet.workers[SAM]

    decision = decide(world.fleet, killed(before.generation), world.limits, world.now_s)

    worker = decision.fleet.workers[SAM]
    assert (before.state, worker.state, worker.process) == (WorkerState.READY, WorkerState.STOPPING, before.process)
    assert worker.stop is not None
    assert (worker.stop.cause, worker.stop.brake, worker.stop.killed_at_s) == (Cause.MEMORY, True, world.now_s)
    assert worker.stop.reason == "below memory.hard_floor the guard ended sam-0 by itself"
    assert not [one for one in decision.actions if isinstance(one, act.Kill | act.Terminate)]


@pytest.mark.parametrize("gone", [False, True], ids=["of another generation", "that is gone"])
def test_one_is_left_as_it_is(gone: bool) -> None:
    world = World()
    world.run(5)
    worker = world.fleet.workers[SAM]
    fleet = world.fleet
    if gone:
        fleet = replace(fleet, workers={**fleet.workers, SAM: replace(worker, state=WorkerState.EXITED, process=None)})

    after = decide(fleet, killed(worker.generation + (not gone)), world.limits, world.now_s).fleet

    assert after.workers[SAM].stop is None
