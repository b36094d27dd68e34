"""Who uses a device without a lease, and what must be known before anybody is called so; and leases that nobody uses."""

import pytest
from msgspec.structs import replace

from supervisor.core import usage
from supervisor.core.limits import GIB, MIB, Limits
from supervisor.core.model import Device, DeviceId, DeviceSample, Fleet, Holding, Lease, LeaseId, LeaseState, Outside, Ticket
from supervisor.core.turn import Turn

MARGIN = 256 * MIB
CARD = Device(id=DeviceId("GPU-1"), name="a card", backend="nvml", total_bytes=16 * GIB)
OWNER = Outside(ticket=Ticket("t-1"), name="train.py", pid=900, start_ticks=7, boot_id="b")
STRANGER = Holding(None, 4242, GIB, "python3")


def fleet(*holdings: Holding, owner: Outside | None = OWNER, by_pid: bool = True, others: bool = True) -> tuple[Fleet, Device]:
    used = sum(holding.used_bytes or 0 for holding in holdings)
    sample = DeviceSample(used_bytes=used, free_bytes=CARD.total_bytes - used, holdings=holdings, by_pid=by_pid, others=others)
    device = replace(CARD, sample=sample)
    lease = Lease(id=LeaseId("l-1"), device=CARD.id, outside=owner, need_bytes=8 * GIB, priority=15, state=LeaseState.HELD, since_s=3.0, fence=1)
    return Fleet(leases={lease.id: lease} if owner else {}, devices={CARD.id: device}), device


@pytest.mark.parametrize(
    ("case", "holding", "called"),
    [
        ("more than the margin", replace(STRANGER, used_bytes=MARGIN + 1), True),
        ("no more than the margin", replace(STRANGER, used_bytes=MARGIN), False),
        ("of unknown size", replace(STRANGER, used_bytes=None), True),
        ("the owner itself", replace(STRANGER, pid=900), False),
        ("a child of the owner", replace(STRANGER, above=(800, 900)), False),
        ("listed, and no process any more", replace(STRANGER, name=""), False),
    ],
)
def test_who_may_be_an_intruder(case: str, holding: Holding, called: bool) -> None:  # a row
    found = usage.suspects(*fleet(holding), MARGIN)

    assert found == ((holding,) if called else ()), case


@pytest.mark.parametrize(
    ("case", "known"),
    [
        ("the pids are another namespace's", fleet(STRANGER, by_pid=False)),
        ("programs that are not ours are not listed", fleet(STRANGER, others=False)),
        ("the holder proves no process, so any may be its own", fleet(STRANGER, owner=replace(OWNER, pid=0))),
    ],
)
def test_where_nobody_can_tell_nobody_is_called_an_intruder(case: str, known: tuple[Fleet, Device]) -> None:
    assert usage.suspects(*known, MARGIN) is None, case


def test_on_a_device_that_nobody_has_or_wants_anybody_may_be() -> None:
    free, device = fleet(STRANGER, owner=None)

    assert usage.suspects(free, device, MARGIN) == ()
    assert usage.suspects(free, replace(device, intruders=(STRANGER,)), MARGIN) == (STRANGER,), "it was one, and is still there"


def test_a_contaminated_lease_is_held_for_as_long_as_before_and_clears_by_itself() -> None:
    dirty, device = fleet(STRANGER)
    turn = Turn(dirty, Limits(), 50.0)

    device = usage.compare(turn, device)
    (first,) = turn.fleet.leases.values()
    turn.now_s += usage.SETTLED_S
    device = usage.compare(turn, device)
    (now,) = turn.fleet.leases.values()
    usage.compare(turn, replace(device, sample=fleet()[1].sample))
    (then,) = turn.fleet.leases.values()

    assert first.state is LeaseState.HELD, "it may be on its way out"
    assert (now.state, now.since_s) == (LeaseState.CONTAMINATED, 3.0)
    assert (then.state, then.since_s) == (LeaseState.HELD, 3.0)
    assert [action.event for action in turn.actions if hasattr(action, "event")] == ["device_contaminated", "device_clean"]


def test_a_second_intruder_is_told_of_by_itself() -> None:
    dirty, device = fleet(STRANGER)
    turn = Turn(dirty, Limits(), 50.0)
    both = fleet(STRANGER, replace(STRANGER, pid=4243))[1].sample

    for sample in (device.sample, device.sample, both, both, both):
        device = usage.compare(turn, replace(device, sample=sample))
        turn.now_s += usage.SETTLED_S

    assert [action.fields["pid"] for action in turn.actions if hasattr(action, "fields")] == [4242, 4243]


@pytest.mark.parametrize(("by_pid", "others"), [(False, True), (True, False)])
def test_a_lease_whose_use_cannot_be_seen_is_not_called_idle(by_pid: bool, others: bool) -> None:
    quiet, device = fleet(by_pid=by_pid, others=others)
    turn = Turn(quiet, Limits(), 50.0)

    usage.compare(turn, device)
    turn.now_s += 10 * usage.IDLE_AFTER_S
    usage.compare(turn, device)

    assert not turn.actions
    assert [lease.idle_since_s for lease in turn.fleet.leases.values()] == [None]
