"""Whole trees under a whole supervisor: whoever a worker leaves behind is gone before its next generation comes. And what a live worker does can be seen."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from supervisor.adapters import proc
from tests.support.live import ONE_WORKER, Live, MakeLive, alive
from workers.fake_tree import KINDS, RENAMED

pytestmark = [pytest.mark.faults, pytest.mark.slow]

QUICK = '[watchdog]\nstop_grace = "1s"\nstall_after = "6s"\n' + ONE_WORKER  # longer than it takes to bear a family, or to stop seven at once


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process of somebody else, with the name of one of ours."""
    with subprocess.Popen(RENAMED, executable="/bin/sleep", env={}, start_new_session=True) as process:
        yield process.pid
        assert process.poll() is None, "somebody else's process was ended"
        process.kill()


def family(warden: Live) -> dict[str, int]:
    """Return the processes that a job left behind, by what makes each hard to get rid of."""
    job = warden.wait_for_job(warden.submit(fault="family", steps=1))
    assert job.status == "completed"
    folder = warden.state_dir / "jobs" / job.id / "family"
    return {kind: int((folder / kind).read_text()) for kind in KINDS}


@pytest.mark.parametrize("end", ["stop", "stall", "crash"])
def test_a_family_that_is_hard_to_get_rid_of_is_gone_before_the_next_generation(live: MakeLive, bystander: int, end: str) -> None:
    warden = live(QUICK)
    members = family(warden)
    pid = warden.worker("sam-0").pid
    assert pid is not None

    if end == "stop":
        warden.ask("workers.restart", name="sam-0")
    elif end == "stall":
        warden.submit(fault="stall")
    else:
        os.kill(pid, signal.SIGKILL)

    warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)
    assert not {kind: one for kind, one in members.items() if alive(one)}
    assert not alive(pid)
    assert alive(bystander)
    assert warden.seen("worker_swept", worker="sam-0")


def test_a_stop_of_the_supervisor_leaves_nobody_of_a_family(live: MakeLive, bystander: int) -> None:
    warden = live(QUICK)
    members = family(warden)

    assert warden.stop() == 0

    assert not {kind: one for kind, one in members.items() if alive(one)}
    assert alive(bystander)


def test_seven_workers_that_stall_at_once_are_all_replaced_and_nobody_else_is(live: MakeLive) -> None:
    warden = live("[jobs]\nmax_running = 8\n" + QUICK.replace("\n[workers.sam]", "\n[workers.sam]\nreplicas = 8"))
    for number in range(8):
        warden.wait_for_event("worker_ready", worker=f"sam-{number}")
    jobs = [warden.submit(fault="stall") for _ in range(7)]
    warden.submit(steps=10_000, step_s=0.05)
    assert warden.holds(lambda: warden.status().jobs["running"] == 8)
    stalls = {warden.job(name).worker for name in jobs}

    ended = [warden.wait_for_job(name) for name in jobs]

    assert {job.reason for job in ended} == {"stalled"}
    assert all(job.error is not None and "_stand_still" in job.error.stack for job in ended)
    for worker in stalls:
        warden.wait_for_event("worker_spawned", worker=worker, generation=2)
    (innocent,) = {worker.name for worker in warden.status().workers} - stalls
    assert warden.worker(innocent).generation == 1


# --- warden workers dump ---


def test_a_healthy_worker_is_looked_at_and_works_on(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'gpu = "1GiB"\n')
    name = warden.submit(steps=10_000, step_s=0.05)
    assert warden.holds(lambda: warden.job(name).done >= 5)
    pid = warden.worker("sam-0").pid

    shown = warden.cli("workers", "dump", "sam")
    (told,) = json.loads(warden.cli("workers", "dump", "sam-0", "--json").stdout)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"sam-0: busy, {name}, pid {pid}, generation 1\n  pid {pid} is ")
    assert "no children" in shown.stdout
    assert "of host RAM, lease l-" in shown.stdout
    assert "in run" in shown.stdout
    assert (told["worker"], told["pid"], told["state"], told["jobs"]) == ("sam-0", pid, "busy", [name])
    assert "progress" in told["stack"] or "in run" in told["stack"]
    assert "Current thread" in (warden.log_dir / "workers" / "sam-0.log").read_text() or "Thread 0x" in (warden.log_dir / "workers" / "sam-0.log").read_text()
    assert warden.job(name).status == "running"
    assert warden.worker("sam-0").pid == pid


def test_a_worker_that_holds_the_gil_is_looked_at_all_the_same(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("job_started", job=warden.submit(fault="hang", at=2))
    assert warden.holds(lambda: (warden.worker("sam-0").silent_s or 0) > 1.5)

    shown = warden.cli("workers", "dump", "sam-0")

    assert shown.returncode == 0, shown.stderr
    assert "_go_wrong" in shown.stdout
    assert "is sleeping" in shown.stdout


def test_a_program_that_answers_nothing_is_looked_at_from_outside(live: MakeLive) -> None:
    warden = live('[workers.tool]\ncommand = ["sh", "-c", "echo hello; sleep 3600 & wait"]\nprogress = "none"\n')
    assert warden.holds(lambda: "sleep" in {seen.name for seen in map(proc.look, warden.ours()) if seen})

    shown = warden.cli("workers", "dump", "tool")

    assert " sleep\n" in shown.stdout
    assert "\n  no stack: it does not take SIGUSR1\nstacks: none\n" in shown.stdout
    assert shown.stdout.endswith("  hello\n")


def test_a_worker_without_a_process_is_said(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    warden.ask("workers.stop", name="sam-0")
    assert warden.holds(lambda: warden.worker("sam-0").state == "down")

    shown = warden.cli("workers", "dump", "sam-0")

    assert shown.returncode == 1
    assert shown.stderr == "there is no process to look at: sam-0 is down; see warden status, or start it with: warden workers start sam-0\n"
