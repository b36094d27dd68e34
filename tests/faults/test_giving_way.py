"""Work that gives the device to somebody more urgent and goes on after it, holders that hear that they are waited for, and ages that outlive the supervisor."""

from collections.abc import Callable
from typing import Final

import msgspec
import pytest

from supervisor.control import endpoint_of
from supervisor.shapes import LockView
from tests.faults.test_outside import Program, ask, device, holder, run, sam_is_ready, waits  # noqa: F401  # run is a fixture
from tests.support.live import FAKE, Live, MakeLive
from tests.support.lives import bound_s
from tests.support.real_fight import real_fight

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(180)]

BOTH: Final = f"""
[gpu]
backend = "host"
age_step = "1h"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "8GiB"
priority = 15
resident = false
"""
STEPS: Final = 100
FOUR: Final = {"microphone": 0, "console": 10, "default": 15, "background": 20}


def has_saved(warden: Live, job: str) -> None:
    """Return once the training has come so far that it has said that it saves."""
    assert warden.holds(lambda: warden.job(job).done >= 2)


def test_a_training_gives_way_at_its_checkpoint_and_goes_on_from_there(live: MakeLive, run: Callable[..., Program]) -> None:  # noqa: F811
    warden = live(BOTH)
    sam_is_ready(warden)
    mark = warden.mark()
    job = warden.submit(kind="demo.train", steps=STEPS, step_s=0.1, checkpoint=True)
    has_saved(warden, job)

    program = run(warden, "--priority", "0", "--need", "8GiB")
    pid = program.begun()
    held, waiting = holder(warden), warden.job(job)
    why = warden.cli("jobs", "why", job).stdout
    ended = program.let_go()
    done = warden.wait_for_job(job, "completed")
    sam_is_ready(warden, after=mark)

    assert held is not None
    assert (held.pid, held.state) == (pid, "held")
    assert (waiting.id, waiting.status, waiting.attempt, waiting.failures) == (job, "queued", 1, 0)
    assert f"(pid {pid}) holds" in why
    assert ended == (0, "")
    assert (done.attempt, done.failures) == (2, 0)
    assert 2 <= done.result["from"] < STEPS, done.result
    asked = warden.seen("lease_yielding", after=mark)
    assert len(asked) == 1
    assert "which is more urgent, 0 against 15" in asked[0]["reason"]


def test_a_program_that_holds_the_device_hears_who_waits_and_is_not_robbed(live: MakeLive, run: Callable[..., Program]) -> None:  # noqa: F811
    warden = live(BOTH)
    sam_is_ready(warden)
    lease = msgspec.convert(ask(warden, "gpu.lock", owner="far", ttl_s=600.0), LockView)
    quiet = msgspec.convert(ask(warden, "gpu.renew", lease=lease.lease, fence=lease.fence), LockView)

    urgent = run(warden, "--priority", "0")
    waits(warden, 1)
    assert warden.holds(lambda: bool(holder(warden) and holder(warden).wanted_by))  # type: ignore[union-attr]
    renewed = msgspec.convert(ask(warden, "gpu.renew", lease=lease.lease, fence=lease.fence), LockView)
    by_hand = warden.cli("gpu", "renew", str(lease.lease), str(lease.fence))
    screen = warden.cli("gpu", "status").stdout
    ask(warden, "gpu.unlock", lease=lease.lease, fence=lease.fence)
    urgent.begun()

    name = device(warden).holders[0].owner
    assert (quiet.yield_wanted, quiet.wanted_by) == (False, "")
    assert renewed.yield_wanted
    assert renewed.wanted_by.startswith(f"{name} (pid ")
    assert f"waits for it and should have it soon: warden gpu unlock {lease.lease} {lease.fence}" in by_hand.stderr
    assert f"should give it back soon, to {renewed.wanted_by}" in screen
    assert urgent.let_go()[0] == 0


def test_a_ticket_keeps_its_age_over_the_death_of_the_supervisor(live: MakeLive, run: Callable[..., Program]) -> None:  # noqa: F811
    warden = live(BOTH)
    sam_is_ready(warden)
    first = run(warden)
    first.begun()
    late = warden.cli("gpu", "lock", "--timeout", "100ms", "--json")
    ticket = msgspec.json.decode(late.stdout, type=LockView).ticket

    warden.kill()
    warden.start()
    new = run(warden)
    waits(warden, 1)
    old = run(warden, "--ticket", ticket)
    waits(warden, 2)
    order = [one.ticket for one in device(warden).waiters]
    first.let_go()
    pid = old.begun()
    held = holder(warden)

    assert late.returncode == 75
    assert order[0] == ticket
    assert held is not None
    assert held.pid == pid
    assert old.let_go()[0] == 0
    new.begun()
    assert new.let_go()[0] == 0


def test_four_clients_of_four_priorities_fight_and_none_waits_longer_than_the_bound(live: MakeLive) -> None:
    warden = live(BOTH.replace('age_step = "1h"', 'age_step = "100ms"'))
    sam_is_ready(warden)
    mark = warden.mark()

    found = real_fight(lambda: endpoint_of(warden.state_dir), FOUR, hold_s=0.2, for_s=4.0)
    sam_is_ready(warden, after=mark)

    assert found.overlaps == 0
    assert len(found.fences) == len(set(found.fences)) == sum(map(len, found.waits.values()))
    for name, priority in FOUR.items():
        assert found.waits[name], f"{name} was never served"
        limit_s = bound_s(priority, len(FOUR) - 1, age_step_s=0.1, hold_s=found.hold_s, hand_over_s=found.hand_over_s, gives_way=False)
        assert max(found.waits[name]) <= limit_s, (name, found)
