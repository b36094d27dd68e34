"""The device kept safe: who is on it without a lease, who loads on it, and what an operator can take back. Whole supervisors on a fake T4."""

import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from supervisor.shapes import DeviceView
from tests.support.fake_card import GIB, FakeCards
from tests.support.live import FAKE, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO: Final = f"""
[gpu]
backend = "nvml"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "12GiB"
options = {{ card_mb = 12288 }}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "8GiB"
priority = 15
resident = false
options = {{ card_mb = 8192 }}
"""


@pytest.fixture
def warden(cards: FakeCards, live: MakeLive) -> Iterator[Live]:
    """A supervisor on a fake T4 whose sam is ready."""
    cards.add()
    made: Live = live(TWO, start=False)
    made.start(env=cards.env)
    sam_is_back(made)
    yield made
    assert not cards.was_over(), "more of the card was held than it has"


def sam_is_back(warden: Live, *, after: int = 0) -> int:
    """Return sam's pid once one of a later generation is ready."""
    assert warden.holds(lambda: (sam := warden.worker("sam-0")).state == "ready" and sam.generation > after), warden.said()[-3000:]
    pid = warden.worker("sam-0").pid
    assert pid is not None
    return pid


def card(warden: Live) -> DeviceView:
    return warden.status().devices[0]


def test_a_program_without_a_lease_contaminates_the_card_until_it_is_gone_and_is_never_ended(warden: Live, cards: FakeCards) -> None:
    with subprocess.Popen(["sleep", "3600"]) as stranger:
        cards.claim(stranger.pid, GIB)
        told = warden.wait_for_event("device_contaminated")
        state = card(warden).holders[0].state
        shown, health = warden.cli("gpu", "status").stdout, warden.cli("health")
        assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed", "there is room beside it"
        sam_is_back(warden, after=1)
        spared = alive(stranger.pid)
        stranger.kill()
    warden.wait_for_event("device_clean")

    assert (told["pid"], told["name"], told["used_bytes"], told["owner"]) == (stranger.pid, "sleep", GIB, "sam-0")
    assert state == "contaminated"
    assert f"NOT OURS      pid {stranger.pid}  sleep  1GiB  without a lease: waited for, not ended" in shown
    assert health.returncode == 3
    assert f"is contaminated: pid {stranger.pid} (sleep) uses 1GiB without a lease" in health.stdout
    assert spared
    assert len(warden.seen("device_contaminated")) == 1
    assert warden.holds(lambda: [holder.state for holder in card(warden).holders] == ["held"])
    assert warden.cli("health").returncode == 0
