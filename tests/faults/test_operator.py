"""What the operator wants of a worker: it stands over every end of the supervisor, until the operator says something else."""

import signal

import pytest

from tests.support.live import FAKE, ONE_WORKER, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO = ONE_WORKER + f'[workers.other]\n{FAKE}\nserves = ["demo.other"]\nautostart = false\n'


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_worker_that_was_stopped_by_hand_stays_down_and_one_that_was_started_comes_back(live: MakeLive, end: str) -> None:
    warden = live(TWO)
    pid = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]
    warden.wait_for_event("worker_ready", worker="sam-0")
    assert warden.cli("workers", "start", "other").returncode == 0
    warden.wait_for_event("worker_ready", worker="other-0")
    assert warden.cli("workers", "stop", "sam").returncode == 0

    if end == "killed":
        warden.kill()
    else:
        warden.stop()
    mark = warden.mark()
    warden.start()

    assert warden.holds(lambda: warden.worker("sam-0").state == "down")
    assert warden.holds(lambda: warden.worker("other-0").state == "ready")
    assert warden.worker("sam-0").wanted == "down"
    assert not warden.seen("worker_spawned", after=mark, worker="sam-0")
    assert not alive(pid)
    assert warden.cli("workers", "start", "sam").returncode == 0
    assert warden.wait_for_event("worker_spawned", after=mark, worker="sam-0")["generation"] == 2, "no number is used twice"
    warden.stop()
    mark = warden.mark()
    warden.start()
    assert warden.wait_for_event("worker_ready", after=mark, worker="sam-0")


def test_a_supervisor_that_is_killed_right_after_its_answer_has_not_forgotten(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(steps=10_000, step_s=0.05)
    warden.wait_for_event("job_started", job=name)

    warden.ask("workers.stop", name="sam")
    warden.signal(signal.SIGKILL)
    warden.wait_end()
    warden.start()

    assert warden.worker("sam-0").wanted == "down"
    assert warden.job(name).status == "running", "it finishes its job first"
    warden.ask("jobs.cancel", job=name)
    assert warden.holds(lambda: warden.worker("sam-0").state == "down")


def test_a_word_that_cannot_be_written_down_is_done_and_said_not_to_last(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    (warden.state_dir / "wanted.partial").mkdir()

    refused = warden.cli("workers", "stop", "sam")

    assert refused.returncode == 1
    assert refused.stderr.startswith("it is done, but could not be written down, and is forgotten when this supervisor ends: ")
    assert warden.holds(lambda: warden.worker("sam-0").state == "down")
    assert "sam-0" in warden.wait_for_event("store_failed")["reason"]
