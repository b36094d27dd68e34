"""Workers whose work stands still, whose heart stops, or who listen to nobody: each is found, shown and replaced, and nobody else is touched."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.live import FAKE, ONE_WORKER, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO_WORKERS = f"""
[watchdog]
stall_after = "5s"
[workers.sam]
{FAKE}
serves = ["demo.count"]
[workers.other]
{FAKE}
serves = ["demo.other"]
"""


def watchdog(*lines: str) -> str:
    """Return the configuration of one worker with these clocks."""
    return "\n".join(["[watchdog]", *lines, ONE_WORKER])


def test_work_that_stops_moving_is_failed_with_its_stacks_and_a_new_generation_comes(live: MakeLive) -> None:
    warden = live(TWO_WORKERS)
    warden.wait_for_event("worker_ready", worker="other-0")
    pid = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]
    other = warden.worker("other-0")

    job = warden.wait_for_job(warden.submit(fault="stall", at=3))

    assert (job.status, job.reason) == ("failed", "stalled")
    assert job.message == "Job timed out - no progress updates for 5 seconds"
    assert job.error is not None
    assert "_stand_still" in job.error.stack
    assert "_stand_still" in (warden.log_dir / "workers" / "sam-0.log").read_text()
    assert "stall_after is 5 s" in job.error.evidence
    stalled = warden.wait_for_event("worker_stalled", worker="sam-0")
    assert stalled["job"] == job.id
    assert 5 < stalled["still_s"] < 50
    assert (stalled["stall_after_s"], stalled["phase"], stalled["step"]) == (5, "count", "2/10")
    assert not [line for line in job.error.log_tail if "_stand_still" in line], "what it printed before its stacks were asked for"
    seen = warden.wait_for_event("worker_evidence", worker="sam-0")
    assert (seen["job"], seen["stack"]) == (job.id, str(warden.log_dir / "workers" / "sam-0.log"))
    assert seen["process"] in job.error.evidence
    warden.wait_for_event("worker_stopped", worker="sam-0")
    assert warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)["pid"] != pid
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    after = warden.worker("other-0")
    assert (after.pid, after.generation, after.restarts) == (other.pid, other.generation, {})


def test_a_training_that_stalls_says_so_in_its_own_words(live: MakeLive) -> None:
    warden = live(watchdog('stall_after = "1s"').replace("demo.count", "demo.train"))

    job = warden.wait_for_job(warden.submit("demo.train", fault="stall"))

    assert job.message == "Training timed out - no progress updates for 1 second"


def test_a_worker_that_holds_the_gil_is_silent_and_its_stacks_are_seen_all_the_same(live: MakeLive) -> None:
    warden = live(watchdog('silent_after = "5s"', 'stop_grace = "1s"'))

    job = warden.wait_for_job(warden.submit(fault="hang", at=2))

    assert (job.status, job.reason) == ("failed", "silent")
    assert "no heartbeat for 5 seconds" in job.message
    assert job.error is not None
    assert "_go_wrong" in job.error.stack
    assert warden.wait_for_event("worker_silent", worker="sam-0")["reason"].startswith("no heartbeat for")
    warden.wait_for_event("worker_ready", worker="sam-0", after=warden.events.index(warden.told("worker_silent")[0]))


def test_a_frozen_worker_is_silent_and_replaced(live: MakeLive) -> None:
    warden = live(watchdog('silent_after = "5s"', 'stop_grace = "1s"'))
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(steps=10_000)
    warden.wait_for_event("job_progress", job=name)
    pid = warden.worker("sam-0").pid
    assert pid is not None

    os.kill(pid, signal.SIGSTOP)
    job = warden.wait_for_job(name)

    assert (job.status, job.reason) == ("failed", "silent")
    assert job.error is not None
    assert job.error.evidence.endswith("; no stack: it is stopped by a signal")
    assert job.error.log_tail == []
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    assert warden.worker("sam-0").generation == 2


def test_a_worker_deaf_to_sigterm_is_killed_after_its_grace(live: MakeLive) -> None:
    warden = live(watchdog('stop_grace = "1s"') + "options = { ignore_term = true }\n")
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(fault="deaf")
    warden.wait_for_event("job_started", job=name)

    warden.ask("stop")

    killed = warden.wait_for_event("worker_killed", worker="sam-0")
    assert "stop_grace is 1 s" in killed["reason"]
    assert warden.wait_end() == 0


def test_a_model_that_never_loads_is_stopped_at_start_timeout(live: MakeLive) -> None:
    warden = live(watchdog('start_timeout = "1s"', 'stop_grace = "1s"') + "options = { load_s = 3600.0 }\n")

    seen = warden.wait_for_event("worker_start_timeout", worker="sam-0")

    assert "start_timeout is 1 s" in seen["reason"]
    assert warden.holds(lambda: warden.worker("sam-0").restarts.get("start_timeout", 0) >= 1)


def test_a_cancel_stops_the_work_within_a_step_and_the_worker_lives(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'gpu = "1GiB"\n')
    warden.wait_for_event("worker_ready", worker="sam-0")
    pid = warden.worker("sam-0").pid
    name = warden.submit(steps=10_000, step_s=2.0, fault="memory", at=1, size_mb=200)
    assert warden.holds(lambda: warden.job(name).done >= 1)

    warden.ask("jobs.cancel", job=name)  # the next step has just begun: what it holds is read before it ends
    job = warden.wait_for_job(name)

    assert job.status == "cancelled"
    assert job.cancel is not None
    assert job.cancel.took_s < 2.0 + 0.5 + 5.0, "a step and half a second, and five for a busy machine: after ten its process would be ended"
    assert job.done <= 3, "the step that it was in, and one for a machine that did not wake the supervisor"
    assert job.cancel.freed_bytes > 100 * 2**20
    after = warden.worker("sam-0")
    assert (after.pid, after.state) == (pid, "ready")
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_work_deaf_to_its_cancel_ends_with_its_process_after_ten_seconds(live: MakeLive) -> None:
    warden = live(watchdog('stop_grace = "1s"'))
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(fault="deaf")
    warden.wait_for_event("job_started", job=name)

    warden.ask("jobs.cancel", job=name)
    job = warden.wait_for_job(name)

    assert job.status == "cancelled"
    assert job.cancel is not None
    assert 10.0 <= job.cancel.took_s < 40.0
    assert "_be_deaf" in Path(warden.log_dir / "workers" / "sam-0.log").read_text()
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    assert warden.worker("sam-0").generation == 2


def test_a_kill_waits_for_a_critical_section_but_not_for_ever(live: MakeLive) -> None:
    warden = live(watchdog('stall_after = "4s"', 'critical_max = "2s"', 'stop_grace = "1s"'))

    job = warden.wait_for_job(warden.submit(fault="critical"))

    assert (job.status, job.reason) == ("failed", "stalled")
    assert job.error is not None
    assert "2 s more for its critical section" in job.error.evidence
