"""The Python client and whole supervisors: a program takes the device, a supervisor is killed under it, and nobody is robbed."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from supervisor.client import Away, Busy, Gpu, Lease, Refused
from supervisor.shapes import HolderView
from tests.support.fake_card import FakeCards
from tests.support.live import FAKE, WITHIN_S, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(180)]

SAM: Final = f"""
[gpu]
backend = "host"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
"""
TRAINS: Final = """
import os, sys
from supervisor.client import Gpu
with Gpu(sys.argv[1]).lease(need="8GiB", owner="train.py") as lease:
    print(lease.device, os.getpid(), lease.fence, flush=True)
    sys.stdin.read()
"""


def holders(warden: Live) -> list[HolderView]:
    return [holder for device in warden.status().devices for holder in device.holders]


def held_by(warden: Live, owner: str) -> bool:
    return warden.holds(lambda: [(one.owner, one.state) for one in holders(warden)] == [(owner, "held")])


def renewed(warden: Live) -> bool:
    """Return whether the one holder is seen to renew its lease: the time that it has grows then, and else only falls."""
    before = holders(warden)[0].expires_in_s
    assert before is not None
    return warden.holds(lambda: (holders(warden)[0].expires_in_s or 0.0) > before)


def test_sam_leaves_for_it_and_is_back_after_it(live: MakeLive) -> None:
    warden = live(SAM)
    assert held_by(warden, "sam-0")

    with Gpu(warden.state_dir).lease(need="8GiB", owner="train.py") as lease:
        inside = holders(warden)

    assert [(one.owner, one.kind, one.fence) for one in inside] == [("train.py", "outside", lease.fence)]
    assert held_by(warden, "sam-0")


def test_the_supervisor_is_found_by_its_file_as_the_command_line_finds_it(live: MakeLive) -> None:
    warden = live(SAM)

    assert [device["id"] for device in Gpu(warden.folder / "supervisor.toml").status()] == ["host"]
    with pytest.raises(Refused, match="no such file"):
        Gpu(warden.folder / "other.toml").status()


def test_a_program_that_is_killed_holds_nothing(live: MakeLive) -> None:
    warden = live(SAM)
    assert held_by(warden, "sam-0")
    program = subprocess.Popen([sys.executable, "-c", TRAINS, str(warden.state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with program:
        assert program.stdout is not None
        device, pid, _ = program.stdout.readline().split()
        (one,) = holders(warden)
        mark = warden.mark()
        program.kill()
        released = warden.wait_for_event("lease_released", after=mark)

    assert (device, int(pid), one.pid) == ("host", program.pid, program.pid)
    assert "train.py" in released["owner"]
    assert released["reason"] == "its process is gone"
    assert held_by(warden, "sam-0")


def test_a_supervisor_that_is_killed_takes_nothing_from_it(live: MakeLive) -> None:
    warden = live(SAM)
    with Gpu(warden.state_dir).lease(need="8GiB", owner="train.py", ttl=9.0) as lease:
        warden.kill()
        warden.start()
        assert held_by(warden, "train.py")
        heard_of = renewed(warden)
        (after,) = holders(warden)
        lease.check()

    assert heard_of
    assert (after.fence, after.state) == (lease.fence, "held")
    assert held_by(warden, "sam-0")


def test_whoever_waits_when_the_supervisor_is_killed_asks_its_successor(live: MakeLive) -> None:
    warden = live(SAM)
    gpu = Gpu(warden.state_dir)
    entered, leave = threading.Event(), threading.Event()

    def wait() -> Lease:
        with gpu.lease(need="8GiB", owner="second", timeout=120) as lease:
            entered.set()
            leave.wait()
        return lease

    with ThreadPoolExecutor(1) as pool:
        job = warden.submit("demo.count", steps=100_000)
        warden.wait_for_job(job, "running")
        waiting = pool.submit(wait)
        assert warden.holds(lambda: [one.owner for one in warden.status().devices[0].waiters] == ["second"])
        warden.kill()
        warden.start()
        assert warden.holds(lambda: [one.owner for one in warden.status().devices[0].waiters] == ["second"])
        warden.ask("jobs.cancel", job=job)
        assert warden.holds(entered.is_set)
        leave.set()
        lease = waiting.result(WITHIN_S)

    assert lease.fence > 0


def test_one_who_is_not_served_in_time_hears_who_holds_it(live: MakeLive) -> None:
    warden = live(SAM)
    job = warden.submit("demo.count", steps=100_000)
    warden.wait_for_job(job, "running")

    with pytest.raises(Busy, match="sam-0 holds host and is busy") as caught, Gpu(warden.state_dir).lease(need="8GiB", timeout=0.5):
        pass
    warden.ask("jobs.cancel", job=job)

    assert [one["owner"] for one in caught.value.holders] == ["sam-0"]
    assert caught.value.ticket.startswith("t-")


def test_without_a_supervisor_each_choice_is_kept(live: MakeLive) -> None:
    warden = live(SAM, start=False)
    warden.state_dir.mkdir()
    gpu = Gpu(warden.state_dir)

    with pytest.raises(Away, match="no supervisor listens"), gpu.lease(away="fail"):
        pass
    with gpu.lease(away="without") as lease:
        assert not lease.held
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: gpu.lease(away="wait", owner="early", timeout=120).__enter__())
        warden.start()
        held = waiting.result(WITHIN_S)
    assert held_by(warden, "early")
    held.__exit__(None, None, None)

    assert held_by(warden, "sam-0")


def test_over_http_it_lives_by_its_renewals_and_is_lost_when_the_fence_is_old(live: MakeLive) -> None:
    warden = live(SAM, api="127.0.0.1:0")
    warden.wait_for_event("worker_ready", worker="api-0")
    gpu = Gpu(warden.status().supervisor.api)
    why: list[str] = []

    with gpu.lease(need="8GiB", owner="remote", ttl=9.0, on_lost=why.append) as lease:
        (one,) = holders(warden)
        mark = warden.mark()
        assert renewed(warden)
        warden.ask("gpu.unlock", lease=lease.id, fence=lease.fence)  # somebody else gave it back
        lost = lease.lost.wait(WITHIN_S)

    assert (one.pid, one.owner, lost) == (None, "remote", True)
    assert "is over" in why[0]
    assert not warden.seen("lease_stale", after=mark)


def test_on_a_card_it_sees_that_card_alone(cards: FakeCards, live: MakeLive) -> None:
    cards.add()
    other = cards.add("Fake A4000")
    warden = live('[gpu]\nbackend = "nvml"\n', start=False).start(env=cards.env)

    with Gpu(warden.state_dir).lease(need="8GiB", device=other) as lease:
        env: dict[str, Any] = lease.env

    assert env == {"WARDEN_DEVICE": other, "CUDA_VISIBLE_DEVICES": other, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, json.dumps(env)
