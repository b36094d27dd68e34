"""The supervisor itself is stopped, killed, started twice, or put where it cannot work: nothing that was acknowledged is lost."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from supervisor.adapters import proc
from tests.support.live import FAKE, ONE_WORKER, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STOPS = 5


def test_a_stop_saves_running_work_and_the_next_run_takes_it_to_its_end(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=80, step_s=0.05, checkpoint=True)  # it must outlast the look that finds it begun
    assert warden.holds(lambda: warden.job(name).done >= 6)  # a step is saved after it was told: the fifth is

    assert warden.stop() == 0
    assert warden.ours() == []
    warden.start()
    job = warden.wait_for_job(name)

    assert (job.status, job.result["counted"]) == ("completed", 80)
    assert job.result["from"] >= 5
    assert warden.seen("job_returned", job=name)


def test_an_empty_supervisor_stops_within_a_second(live: MakeLive) -> None:
    warden = live(start=False)
    took_s: list[float] = []

    while len(took_s) < STOPS and min(took_s, default=1.0) >= 1.0:  # a busy machine makes some of them slow, a wait for something makes all of them slow
        mark = warden.mark()
        warden.start()
        warden.wait_for_event("worker_ready", worker="sam-0", after=mark)
        stopped = warden.cli("stop")
        assert stopped.returncode == 0, stopped.stderr
        assert warden.wait_end() == 0
        took_s.append(float(stopped.stdout.rpartition(" in ")[2].removesuffix(" s\n")))

    assert min(took_s) < 1.0, took_s


def test_a_stop_right_after_the_start_does_not_lose_its_sigterm(live: MakeLive) -> None:
    for number in range(8):
        warden = live(start=False, name=f"w{number}").start()
        assert warden.stop() == 0
        stopping = warden.seen("supervisor_stopping")[0]["timestamp"]
        stopped = warden.seen("supervisor_stopped")[0]["timestamp"]
        assert datetime.fromisoformat(stopped) - datetime.fromisoformat(stopping) < timedelta(seconds=10), "stop_grace is 30 s"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_first_moments_of_a_start_is_a_stop_in_order(live: MakeLive, number: int) -> None:
    warden = live()
    pid = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]
    warden.wait_for_event("worker_ready", worker="sam-0")
    warden.kill()
    mark = warden.mark()
    config = warden.folder / "supervisor.toml"
    text = config.read_text()
    config.unlink()
    os.mkfifo(config)  # the start goes no further until somebody writes into it
    with (warden.folder / "run.out").open("ab") as out:
        warden.process = subprocess.Popen([sys.executable, "-P", "-m", "supervisor", "run"], cwd=warden.folder, stdout=out, stderr=out)

    assert warden.holds(lambda: proc.catches(warden.pid, signal.SIGTERM) and proc.catches(warden.pid, signal.SIGHUP))
    warden.signal(number)
    warden.signal(signal.SIGHUP)
    config.write_text(text)

    assert warden.wait_end() == 0
    assert warden.seen("supervisor_stopped", after=mark)
    assert not alive(pid), "what the one before had left is ended as well"


def test_a_stop_is_as_quick_when_nobody_reaps_the_supervisor(live: MakeLive, tmp_path: Path) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")

    stopped = warden.cli("stop", "--timeout", "20")  # our Popen does not wait for it meanwhile, so it stays a zombie

    assert stopped.returncode == 0, stopped.stderr
    assert warden.wait_end() == 0


KILL = {"WARDEN_SUPERVISOR__ON_CRASH": "kill"}


@pytest.mark.parametrize("on_crash", ["adopt", "kill"])
def test_whatever_becomes_of_the_workers_of_a_killed_supervisor_each_job_ends_once(live: MakeLive, on_crash: str) -> None:
    env = {"WARDEN_SUPERVISOR__ON_CRASH": on_crash}
    warden = live(start=False).start(env=env)
    jobs = [warden.submit(steps=60, step_s=0.05, checkpoint=True), *(warden.submit(steps=1) for _ in range(5))]
    assert warden.holds(lambda: warden.job(jobs[0]).done >= 5)

    warden.kill()
    warden.start(env=env)

    assert [warden.wait_for_job(name).status for name in jobs] == ["completed"] * 6
    assert [len(warden.told("job_completed", job=name)) for name in jobs] == [1] * 6
    assert len(warden.ours()) == 1


def test_a_killed_supervisor_loses_nothing_and_doubles_nothing(live: MakeLive) -> None:
    warden = live()
    running = warden.submit(steps=120, step_s=0.05, checkpoint=True)
    queued = [warden.submit(steps=1) for _ in range(5)]
    assert warden.holds(lambda: warden.job(running).done >= 6)  # a step is saved after it was told: the fifth is
    old = warden.ours()
    generation = warden.worker("sam-0").generation

    warden.kill()
    assert [pid for pid in old if alive(pid)], "its workers do not die with it"
    warden.start(env=KILL)

    jobs = [warden.wait_for_job(name) for name in (running, *queued)]
    assert [job.status for job in jobs] == ["completed"] * 6
    assert jobs[0].result["from"] >= 5
    assert jobs[0].attempt == 2
    assert not [pid for pid in old if alive(pid)]
    assert warden.worker("sam-0").generation > generation
    assert warden.wait_for_event("worker_swept", worker="sam-0")["level"] == "warning"
    assert len(warden.told("job_completed", job=running)) == 1


def test_a_process_that_was_spawned_but_not_written_down_is_found_by_its_tag(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    old = warden.ours()
    warden.kill()
    record = warden.state_dir / "run" / "sam-0.json"
    record.write_text(record.read_text().replace(f'"pid":{old[0]}', '"pid":0'))
    mark = warden.mark()

    warden.start(env=KILL)

    warden.wait_for_event("worker_ready", worker="sam-0", after=mark)
    assert not [pid for pid in old if alive(pid)]


def test_a_torn_record_does_not_stop_the_next_run(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    warden.stop()
    (warden.state_dir / "run" / "sam-0.json").write_text('{"worker": "sam')

    warden.start()

    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_a_second_run_on_the_same_folder_is_refused_and_the_first_is_unharmed(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    before = warden.worker("sam-0")

    second = warden.cli("run")

    assert second.returncode == 75
    assert second.stderr.strip() == (f"another supervisor (pid {warden.pid}) runs on {warden.state_dir}: stop that one, or give this one another state_dir")
    assert warden.worker("sam-0").pid == before.pid
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_a_second_signal_stops_at_once(live: MakeLive) -> None:
    warden = live('[watchdog]\nstop_grace = "50s"\n' + ONE_WORKER + "options = { ignore_term = true }\n")
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(fault="deaf")
    warden.wait_for_event("job_started", job=name)

    warden.signal(signal.SIGTERM)
    warden.wait_for_event("supervisor_stopping")
    warden.signal(signal.SIGTERM)

    assert warden.wait_end(40) == 0  # stop_grace is 50 s
    warden.start()
    assert warden.job(name).status in {"queued", "preparing", "running"}
    warden.ask("stop", now=True)
    assert warden.wait_end(40) == 0


def test_a_long_state_path_works(live: MakeLive, tmp_path: Path) -> None:
    warden = live(state_dir=tmp_path / ("a" * 60) / ("b" * 60))

    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"
    assert warden.cli("status").returncode == 0
    short = Path((warden.state_dir / "sockets").read_text().strip())
    assert short.stat().st_mode & 0o777 == 0o700
    warden.kill()
    warden.start()
    assert Path((warden.state_dir / "sockets").read_text().strip()) == short, "whoever still tries there finds it again"
    assert warden.stop() == 0
    assert not short.exists()


def test_the_state_folder_and_its_sockets_are_private(live: MakeLive) -> None:
    warden = live()

    assert warden.state_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("where", ["state_dir", "log_dir", "store", "log", "lock"])
def test_a_place_that_cannot_be_used_is_said_in_a_sentence(live: MakeLive, where: str) -> None:
    warden = live(start=False)
    taken = {
        "state_dir": warden.state_dir,
        "log_dir": warden.log_dir,
        "store": warden.state_dir / "jobs.sqlite" / "x",
        "log": warden.log_dir / "watchdog.log" / "x",
        "lock": warden.state_dir / "supervisor.lock" / "x",
    }[where]
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_text("in the way")

    refused = warden.cli("run")

    assert refused.returncode == 78, refused.stderr
    assert "Traceback" not in refused.stderr
    place = taken.parent if taken.name == "x" else taken
    assert str(place) in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_state_folder_of_somebody_else_is_said_in_a_sentence() -> None:
    folder = Path(tempfile.mkdtemp(prefix="warden-test-"))
    try:
        folder.chmod(0o755)
        (folder / "supervisor.toml").write_text(f"schema_version = 1\n[api]\nbind = 'off'\n[workers.sam]\n{FAKE}\nserves = ['demo.count']\n")
        (folder / "supervisor.toml").chmod(0o644)
        code = """
import encodings.utf_8_sig, os, sys, supervisor.cli, supervisor.cli.run  # whatever is needed later: nobody may not read it
os.setgid(65534)
os.setuid(65534)
sys.argv = ["warden", "run"]
supervisor.cli.main()
"""

        refused = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=25)

        assert refused.returncode == 78, refused.stderr
        assert refused.stderr.splitlines()[-1] == f"{folder / 'var'}: Permission denied: supervisor.state_dir must be a folder that this user can write to"
    finally:
        shutil.rmtree(folder)


def test_a_store_of_a_newer_release_is_refused(live: MakeLive) -> None:
    import sqlite3

    warden = live()
    warden.stop()
    with sqlite3.connect(warden.state_dir / "jobs.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    refused = warden.cli("run")

    assert refused.returncode == 78
    assert "written by a newer release (version 99" in refused.stderr


def test_a_frozen_supervisor_blames_nobody(live: MakeLive) -> None:
    warden = live('[watchdog]\nsilent_after = "5s"\nstall_after = "5s"\n' + ONE_WORKER)
    name = warden.submit(steps=240, step_s=0.05)
    assert warden.holds(lambda: warden.job(name).done >= 5)

    warden.signal(signal.SIGSTOP)
    subprocess.run(["sleep", "8"], check=True)
    warden.signal(signal.SIGCONT)
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt) == ("completed", 1)
    assert warden.told("supervisor_frozen")
    assert not warden.seen("worker_silent")
    assert not warden.seen("worker_stalled")


def test_a_generation_has_a_number_of_its_own_over_orderly_stops_too(live: MakeLive) -> None:
    warden = live()
    seen: list[int] = []
    for _ in range(3):
        mark = warden.mark()
        if warden.ended():
            warden.start()
        seen.append(warden.wait_for_event("worker_spawned", after=mark if seen else 0, worker="sam-0")["generation"])
        warden.stop()

    assert seen == [1, 2, 3]


def test_a_log_that_takes_no_line_is_unwell_and_a_loud_line(live: MakeLive) -> None:
    warden = live(start=False)
    warden.log_dir.mkdir()
    (warden.log_dir / "watchdog.log").symlink_to("/dev/full")  # opens, and refuses every byte as a full disk does
    warden.start()

    loud = warden.wait_for_event("log_stuck")
    health = warden.cli("health")

    assert "watchdog.log cannot be written: No space left on device" in loud["reason"]
    assert health.returncode == 3
    assert "watchdog.log cannot be written: No space left on device" in health.stdout
    assert " error   log_stuck" in warden.said()
