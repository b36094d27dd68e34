"""Memory that runs out at once: who takes it ends, the machine and the others live. The machine's memory is pretended, so none is ever short of it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.test_memory import edit, limited, needs_memory
from tests.support.live import FAKE, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO = f"""
[workers.sam]
{FAKE}
serves = ["demo.count"]
options = {{ load_mb = 100 }}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
"""
LINES = {"warn_below": "3GiB", "emergency_below": "1900MiB"}
PRETENDED = {"WARDEN_PRETEND_MEMORY": "4GiB"}


def test_a_hog_is_ended_and_nobody_else_is_touched(live: MakeLive) -> None:
    needs_memory(5)
    warden = limited(live, toml=TWO, **LINES).start(env=PRETENDED)
    for name in ("sam-0", "yolo-0"):
        warden.wait_for_event("worker_ready", worker=name)
    sam = warden.worker("sam-0").pid
    name = warden.submit("demo.train", steps=5000, fault="memory", size_mb=3000, at=5)

    job = warden.wait_for_job(name)
    braked = warden.wait_for_event("emergency_brake")

    assert (job.status, job.reason) == ("failed", "memory_emergency")
    assert job.message.startswith("EMERGENCY BRAKE: ")
    assert job.error is not None
    assert "emergency_below is 1.86GiB; yolo-0 had" in job.error.evidence
    assert (braked["killed"], braked["job"], braked["message"]) == ("yolo-0", name, "EMERGENCY BRAKE")
    assert 2**30 < braked["freed_bytes"] < 3.2 * 2**30
    assert warden.worker("sam-0").pid == sam
    assert warden.worker("sam-0").restarts == {}
    assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed"
    assert warden.wait_for_job(warden.submit("demo.count", steps=2)).status == "completed"
    assert warden.worker("yolo-0").restarts == {"memory": 1}


def test_a_job_that_eats_step_by_step_is_stopped_before_a_step_and_its_worker_lives(live: MakeLive) -> None:
    needs_memory(4)
    warden = limited(live, toml=TWO, **LINES).start(env=PRETENDED)
    for name in ("sam-0", "yolo-0"):
        warden.wait_for_event("worker_ready", worker=name)
    before = [warden.worker(name).pid for name in ("sam-0", "yolo-0")]
    name = warden.submit("demo.train", steps=5000, step_s=0.1, fault="leak", size_mb=10, at=5)
    warden.wait_for_job(name, "running")

    job = warden.wait_for_job(name)
    braked = warden.wait_for_event("emergency_brake")

    assert (job.status, job.reason) == ("failed", "memory_emergency")
    assert job.message.startswith("EMERGENCY BRAKE: ")
    assert (braked["stopped"], braked["layer"]) == (name, "sdk")
    assert braked["freed_bytes"] > 2**30
    assert [warden.worker(name).pid for name in ("sam-0", "yolo-0")] == before
    assert not warden.seen("worker_killed")
    again = warden.wait_for_job(warden.submit("demo.train", steps=2))
    assert (again.status, again.result["pid"]) == ("completed", before[1])


@pytest.mark.parametrize(("zone", "hard_floor"), [("emergency", "0"), ("floor", "2048GiB")])
def test_where_the_memory_is_not_ours_nobody_ends_and_the_others_are_named(live: MakeLive, zone: str, hard_floor: str) -> None:
    warden = limited(live, toml=TWO).start()
    for name in ("sam-0", "yolo-0"):
        warden.wait_for_event("worker_ready", worker=name)
    before = [warden.worker(name).pid for name in ("sam-0", "yolo-0")]

    edit(warden, 'emergency_below = "0"\nhard_floor = "0"', f'emergency_below = "4096GiB"\nhard_floor = "{hard_floor}"')  # far more than this machine has
    named = warden.wait_for_event("memory_outside")
    waiting = warden.submit("demo.count", steps=1)

    assert "none was ended. Most have: " in named["reason"]
    assert "(pid " in named["reason"]
    assert warden.holds(lambda: warden.job(waiting).reason == "waiting_for_memory")
    assert warden.status().memory.zone == zone
    assert any(sentence.startswith("memory: ") for sentence in warden.status().unwell)
    assert [warden.worker(name).pid for name in ("sam-0", "yolo-0")] == before
    assert not warden.seen("worker_killed")
    assert not warden.seen("worker_exited")
    assert not warden.seen("emergency_brake")


GUARDED = {"warn_below": "3GiB", "hard_floor": "1000MiB"}
"""Without the supervisor's own brake: whatever is ended, the guard has ended."""


def test_the_guard_holds_the_floor_alone_while_the_supervisor_stands_still_and_says_so_after(live: MakeLive) -> None:
    needs_memory(5)
    warden = limited(live, toml=TWO, **GUARDED).start(env=PRETENDED)
    for name in ("sam-0", "yolo-0"):
        warden.wait_for_event("worker_ready", worker=name)
    sam, yolo = (warden.worker(name).pid for name in ("sam-0", "yolo-0"))
    assert sam is not None
    assert yolo is not None
    assert warden.holds(lambda: {sam, yolo} <= known_to_guard(warden.pid))
    name = warden.submit("demo.train", steps=5000, step_s=0.1, fault="leak", size_mb=100, at=100)
    warden.wait_for_job(name, "running")

    warden.signal(signal.SIGSTOP)
    try:
        assert warden.holds(lambda: not alive(yolo)), "the hog lives on"
        spared = alive(sam)
    finally:
        warden.signal(signal.SIGCONT)
    braked = warden.wait_for_event("emergency_brake", layer="guard")
    job = warden.wait_for_job(name)

    assert spared
    assert (braked["killed"], braked["hard_floor_bytes"]) == ("yolo-0", 1000 * 2**20)
    assert braked["available_bytes"] < 1000 * 2**20
    assert 2 * 2**30 < braked["freed_bytes"] < 4 * 2**30
    assert (job.status, job.reason) == ("failed", "memory_emergency")
    assert "the guard ended yolo-0 by itself" in job.message
    assert warden.worker("sam-0").pid == sam
    assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed"


def test_a_guard_that_ends_is_started_again_and_the_last_one_ends_with_the_supervisor(live: MakeLive) -> None:
    warden = limited(live, toml=TWO, **GUARDED).start(env=PRETENDED)
    first = guard_of(warden.pid)

    os.kill(first, signal.SIGKILL)
    warden.wait_for_event("guard_ended")
    assert warden.holds(lambda: guard_of(warden.pid) not in {0, first})
    second = guard_of(warden.pid)
    warden.kill()

    assert warden.holds(lambda: not alive(second))
    warden.start(env=PRETENDED)


def known_to_guard(supervisor: int) -> set[int]:
    """Return the pids that the guard of a supervisor holds a pidfd of."""
    found = set()
    for path in Path(f"/proc/{guard_of(supervisor)}/fdinfo").glob("*"):
        with suppress(OSError):
            found |= {int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("Pid:")}
    return found


def guard_of(supervisor: int) -> int:
    """Return the pid of the guard of a supervisor, 0 where there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if len(words) > 4 and words[3].endswith(b"helpers/guard.py") and words[4] == str(supervisor).encode() and alive(int(path.name)):
                return int(path.name)
    return 0
