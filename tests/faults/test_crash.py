"""Workers that die, leave processes behind, or cannot be started at all: the job goes on elsewhere, and nothing of them stays."""

import os
import signal

import pytest

from tests.support.live import FAKE, ONE_WORKER, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def leader(warden: Live, name: str = "sam-0") -> int:
    """Return the pid of a worker that is up."""
    assert warden.holds(lambda: warden.worker(name).state in {"ready", "busy"})
    pid = warden.worker(name).pid
    assert pid is not None
    return pid


def children_of_no_session(warden: Live, pid: int) -> list[int]:
    """Return the processes of this folder that are not in the leader's session."""
    return [one for one in warden.ours() if os.getsid(one) != pid]


def test_a_job_whose_worker_is_killed_goes_on_from_its_checkpoint_in_a_new_generation(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=80, step_s=0.05, checkpoint=True)  # it must outlast the looks before the kill
    assert warden.holds(lambda: warden.job(name).done >= 6)  # a step is saved after it was told: the fifth is

    os.kill(leader(warden), signal.SIGKILL)
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt) == ("completed", 2)
    assert job.result["counted"] == 80
    assert job.result["from"] >= 5
    assert warden.worker("sam-0").generation == 2
    assert "killed by signal 9 (SIGKILL)" in warden.wait_for_event("worker_exited", worker="sam-0")["reason"]


def test_a_job_that_ends_a_third_worker_is_poison(live: MakeLive) -> None:
    warden = live('[watchdog]\nbackoff_first = "50ms"\nbackoff_max = "100ms"\n' + ONE_WORKER)

    job = warden.wait_for_job(warden.submit(fault="crash"))

    assert (job.status, job.reason, job.attempt) == ("failed", "poison", 3)
    assert "it ended 3 workers" in job.message
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed", "the worker itself is not to blame"


def test_an_exit_code_is_told(live: MakeLive) -> None:
    warden = live("[jobs]\nretries = { crash = 0 }\n" + ONE_WORKER)

    job = warden.wait_for_job(warden.submit(fault="exit"))

    assert (job.status, job.reason) == ("failed", "worker_crash")
    assert "exit code 3" in job.message


def test_work_that_raises_fails_its_job_with_the_stack_and_the_worker_lives(live: MakeLive) -> None:
    warden = live()
    pid = leader(warden)

    job = warden.wait_for_job(warden.submit(fault="error"))

    assert (job.status, job.reason, job.attempt) == ("failed", "user_error", 1)
    assert job.message == "ValueError: the work failed, as it was told to"
    assert job.error is not None
    assert "_go_wrong" in job.error.stack
    assert warden.worker("sam-0").pid == pid


def test_a_child_in_a_session_of_its_own_is_gone_after_its_workers_end(live: MakeLive) -> None:
    warden = live()
    pid = leader(warden)
    warden.wait_for_job(warden.submit(fault="fork"))
    assert warden.holds(lambda: len(children_of_no_session(warden, pid)) == 1)  # one that is in the middle of its exec shows no environment
    (child,) = children_of_no_session(warden, pid)

    os.kill(pid, signal.SIGKILL)

    warden.wait_for_event("worker_swept", worker="sam-0")
    assert not alive(child)


def test_the_grandchildren_of_a_killed_worker_are_gone_before_its_successor_comes(live: MakeLive) -> None:
    program = "sleep 3600 & (sleep 3600 & setsid sleep 3600 & wait) & echo up; wait"
    warden = live(f'[workers.tool]\ncommand = ["sh", "-c", "{program}"]\nprogress = "none"\n')
    pid = leader(warden, "tool-0")
    assert warden.holds(lambda: len(warden.ours()) == 5)
    tree = warden.ours()

    os.kill(pid, signal.SIGKILL)

    warden.wait_for_event("worker_spawned", worker="tool-0", generation=2)
    assert not [one for one in tree if alive(one)]


def test_a_program_that_says_nothing_is_started_again_with_growing_pauses(live: MakeLive) -> None:
    toml = '[watchdog]\nbackoff_first = "200ms"\n[workers.tool]\ncommand = ["sh", "-c", "echo hello; exit 3"]\nprogress = "none"\n'
    warden = live(toml)

    for generation in range(1, 5):
        warden.wait_for_event("worker_spawned", worker="tool-0", generation=generation)

    tool = warden.worker("tool-0")
    assert tool.restarts["crash"] >= 3
    assert "exit code 3" in tool.last_reason
    assert (warden.log_dir / "workers" / "tool-0.log").read_text().startswith("hello\n")


@pytest.mark.parametrize("command", ["/nowhere/program", "no-such-program-at-all", "/etc", "/etc/passwd"])
def test_a_command_that_cannot_be_run_is_said_and_harms_nobody(live: MakeLive, command: str) -> None:
    warden = live(f'[workers.bad]\ncommand = ["{command}"]\nprogress = "none"\n' + ONE_WORKER)

    failed = warden.wait_for_event("worker_spawn_failed", worker="bad-0")

    assert failed["reason"] == f"command not found or not executable: {command}"
    assert failed["level"] == "error"
    assert warden.holds(lambda: warden.worker("bad-0").restarts.get("spawn_failed", 0) >= 2)
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_a_folder_that_is_not_there_is_said(live: MakeLive) -> None:
    warden = live('[workers.bad]\ncommand = ["true"]\nprogress = "none"\ncwd = "/nowhere/at/all"\n')

    assert "/nowhere/at/all" in warden.wait_for_event("worker_spawn_failed", worker="bad-0")["reason"]


def test_a_log_that_cannot_be_written_is_said(live: MakeLive) -> None:
    warden = live(start=False)
    (warden.log_dir / "workers" / "sam-0.log").mkdir(parents=True)
    warden.start()

    assert "sam-0.log" in warden.wait_for_event("worker_spawn_failed", worker="sam-0")["reason"]


def test_a_model_that_cannot_load_says_why(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'options = { fail_load = "the weights are not there: put them there" }\n')

    note = warden.wait_for_event("worker_note", worker="sam-0")

    assert note["reason"] == "sam-0 could not load: the weights are not there: put them there"
    assert warden.holds(lambda: warden.worker("sam-0").restarts.get("crash", 0) >= 1)


def test_an_unknown_option_is_refused_by_the_worker_with_a_suggestion(live: MakeLive) -> None:
    warden = live(ONE_WORKER + "options = { load_sec = 1 }\n")

    note = warden.wait_for_event("worker_note", worker="sam-0")

    assert note["reason"] == "supervisor.toml: options: load_sec is unknown (did you mean load_s?)"


def test_jobs_of_replicas_run_side_by_side_and_one_crash_leaves_the_other_alone(live: MakeLive) -> None:
    warden = live(f'[workers.sam]\n{FAKE}\nserves = ["demo.count"]\nreplicas = 2\n')
    leader(warden, "sam-1")
    slow = warden.submit(steps=40, step_s=0.05)
    warden.wait_for_event("job_started", job=slow)

    bad = warden.wait_for_job(warden.submit(fault="crash", attempt=1))
    good = warden.wait_for_job(slow)

    assert (bad.status, bad.attempt) == ("completed", 2)
    assert (good.status, good.attempt) == ("completed", 1)
