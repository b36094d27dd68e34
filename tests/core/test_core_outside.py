"""Programs outside Warden in the queue: their age, their place among jobs, and what is told of them."""

import pytest
from msgspec.structs import replace

from supervisor.core import tickets
from supervisor.core.claims import Age
from supervisor.core.gpu import Blocked, held_by, may_begin, strangers
from supervisor.core.limits import GIB, GpuLimits, Limits
from supervisor.core.line import aged, rank_outside
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    Fleet,
    Holding,
    Lease,
    LeaseId,
    LeaseState,
    Outside,
    Ticket,
    Waiter,
)
from supervisor.core.turn import Turn
from tests.support.world import World

HOST = Device(id=DeviceId("host"), name="host", backend="host", total_bytes=16 * GIB)
WHO = Outside(ticket=Ticket("t-1"), name="train.py", pid=900, start_ticks=7, boot_id="b")
LIMITS = GpuLimits(age_step_s=5)


def waiter(priority: int = 15, arrived_at_s: float = 0.0, ticket: str = "t-1") -> Waiter:
    who = replace(WHO, ticket=Ticket(ticket))
    return Waiter(outside=who, request="r", priority=priority, need_bytes=GIB, arrived_at_s=arrived_at_s, deadline_at_s=99.0, timeout_s=99.0)


def holds(state: LeaseState, sample: DeviceSample | None = None) -> tuple[Fleet, Device]:
    lease = Lease(id=LeaseId("l-1"), device=HOST.id, outside=WHO, need_bytes=8 * GIB, priority=15, state=state, since_s=0.0, fence=1)
    device = replace(HOST, sample=sample)
    return Fleet(leases={lease.id: lease}, devices={HOST.id: device}), device


@pytest.mark.parametrize(
    ("priority", "waited_s", "level"), [(20, 0.0, 20), (20, 4.9, 20), (20, 5.0, 19), (20, 99.9, 1), (20, 100.0, 0), (20, 1e6, 0), (0, 60.0, 0)]
)
def test_a_waiter_gains_a_level_each_step_and_never_passes_zero(priority: int, waited_s: float, level: int) -> None:
    assert aged(waiter(priority), LIMITS, waited_s) == level


def test_among_equals_whoever_came_first_is_first() -> None:
    line = [waiter(10, 3.0, "t-a"), waiter(10, 1.0, "t-c"), waiter(10, 1.0, "t-b"), waiter(9, 4.0, "t-d")]

    assert [one.outside.ticket for one in sorted(line, key=lambda one: rank_outside(one, LIMITS, 4.5))] == ["t-d", "t-b", "t-c", "t-a"]


@pytest.mark.parametrize("state", LeaseState)
def test_a_program_that_has_a_lease_is_in_the_way_until_it_is_over(state: LeaseState) -> None:
    fleet, device = holds(state)

    plan = may_begin(fleet, device, weak=False)

    over = state in {LeaseState.FREE, LeaseState.WAITING, LeaseState.COOLING}
    assert isinstance(plan, Blocked) is not over
    if isinstance(plan, Blocked):
        assert plan.sentence.startswith("train.py (pid 900) holds host")


def test_what_a_program_and_its_children_use_is_its_own() -> None:
    sample = DeviceSample(
        used_bytes=7 * GIB, free_bytes=9 * GIB, holdings=(Holding(None, 900, GIB), Holding(None, 950, 4 * GIB, "python", (940, 900)), Holding(None, 7, 2 * GIB))
    )
    fleet, device = holds(LeaseState.HELD, sample)

    assert [one.pid for one in strangers(fleet, device)] == [7]
    assert held_by(fleet, device, 10.0) == ["train.py (pid 900) holds 5GiB, held for 10 s", "pid 7, not ours, uses 2GiB"]


def test_so_many_tickets_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_KEPT", 10)
    world = World()
    world.run(2.0)
    world.lock("t-first", 4 * GIB)
    world.run(4.0)
    for number in range(25):
        world.lock(f"t-{number}", 4 * GIB, timeout_s=0.0)
    world.run(8.0)

    assert list(world.fleet.tickets) == [f"t-{number}" for number in range(15, 25)]
    assert not world.fleet.waiters


def test_a_ticket_that_was_left_for_too_long_keeps_no_age() -> None:
    world = World()
    world.run(2.0)
    world.lock("t-first", 4 * GIB)
    world.lock("t-late", 4 * GIB, timeout_s=1.0)
    world.lock("t-later", 4 * GIB, timeout_s=700.0)
    world.run(650.0)
    world.lock("t-other", 4 * GIB, timeout_s=1.0)
    world.run(655.0)

    assert "t-late" not in world.fleet.tickets
    assert "t-other" in world.fleet.tickets


def test_what_is_kept_of_tickets_is_their_arrival_and_what_cannot_be_read_is_left_out() -> None:
    marks = {"held": "yes", "ticket t-1": "1700000002.250", "ticket t-2": "tomorrow", "schedule nightly": "7"}

    assert tickets.stored(marks) == {Ticket("t-1"): 1700000002.25}


def test_the_next_supervisor_takes_over_the_newest_tickets_and_forgets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKETS_KEPT", 3)
    world = World()
    world.run(2.0)
    world.lock("t-first", 4 * GIB)
    for number in range(5):
        world.run(3.0 + number)
        world.lock(f"t-{number}", 4 * GIB)
    world.run(10.0)

    world.restart_supervisor(None)
    world.run(12.0)

    assert {name: age.arrived_at_s for name, age in world.fleet.tickets.items()} == {"t-2": 5.0, "t-3": 6.0, "t-4": 7.0}
    assert {name for name in world.disk.marks if name.startswith("ticket ")} == {"ticket t-2", "ticket t-3", "ticket t-4"}


def test_an_age_of_long_ago_is_none() -> None:
    turn = Turn(Fleet(tickets={Ticket("t-1"): Age(arrived_at_s=5.0, left_at_s=20.0)}), Limits(), 20.0 + tickets.TICKET_KEPT_S)

    assert tickets.arrival(turn, Ticket("t-1")) == turn.now_s
    assert not turn.fleet.tickets
