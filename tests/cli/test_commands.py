"""The commands on a real supervisor: what they print, what they exit with, and how they take it when it goes away."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.cli.status import _last_line_at_s
from supervisor.shapes import DeviceView, JobView, ScheduleView, StatusView, WhyView
from tests.support.live import FAKE, ONE_WORKER, WARDEN, WITHIN_S, Live, MakeLive, lives

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(scope="module")
def warden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One supervisor for the reads."""
    with lives(tmp_path_factory.mktemp("cli")) as make:
        one = make(ONE_WORKER + 'gpu = "1GiB"\n')
        one.wait_for_event("worker_ready", worker="sam-0")
        one.wait_for_job(one.submit(steps=3))
        yield one


@pytest.mark.parametrize(
    ("args", "shape"),
    [
        (("status", "--json"), StatusView),
        (("gpu", "status", "--json"), list[DeviceView]),
        (("jobs", "list", "--json"), list[JobView]),
        (("jobs", "list", "--all", "--json"), list[JobView]),
        (("jobs", "show", "j-", "--json"), JobView),
        (("jobs", "why", "j-", "--json"), WhyView),
        (("schedules", "--json"), list[ScheduleView]),
        (("health", "--json"), dict[str, Any]),
        (("check", "--json"), dict[str, Any]),
        (("config", "show", "--json"), dict[str, Any]),
        (("jobs", "submit", "demo.count", "steps=1", "--json"), JobView),
        (("jobs", "submit", "demo.count", "steps=1", "--wait", "--json"), JobView),
    ],
)
def test_json_decodes_into_its_shape_and_nothing_else_is_on_stdout(warden: Live, args: tuple[str, ...], shape: Any) -> None:
    first = json.loads(warden.cli("jobs", "list", "--json").stdout)[-1]["id"]
    done = warden.cli(*(first if arg == "j-" else arg for arg in args))

    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout, type=shape) is not None


def test_the_screens_name_the_worker_the_device_and_the_job(warden: Live) -> None:
    name = warden.wait_for_job(warden.submit(steps=2)).id
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")

    status, gpu, show, listed, health = (warden.cli(*args.split()) for args in ("status", "gpu status", f"jobs show {name[:8]}", "jobs list", "health"))

    assert "sam-0" in status.stdout
    assert "ready" in status.stdout
    assert "host" in gpu.stdout
    assert "sam-0" in gpu.stdout
    assert name in show.stdout
    assert "completed" in show.stdout
    assert name in listed.stdout
    assert health.stdout.startswith("ok: 1 workers")
    assert [done.returncode for done in (status, gpu, show, listed, health)] == [0] * 5
    assert "\x1b" not in status.stdout + show.stdout, "no colour off a terminal"


def test_logs_show_the_end_of_warden_and_of_a_worker(warden: Live) -> None:
    own = warden.cli("logs", "-n", "3")
    workers = warden.cli("logs", "sam")

    assert own.returncode == workers.returncode == 0
    assert len(own.stdout.splitlines()) == 3


def test_logs_for_programs_are_one_value_a_line(warden: Live) -> None:
    with (warden.log_dir / "workers" / "sam-0.log").open("ab") as log:
        log.write(b'says "\xff"\n')

    own = [json.loads(line) for line in warden.cli("logs", "--json", "-n", "3").stdout.splitlines()]
    workers = [json.loads(line) for line in warden.cli("logs", "sam", "--json", "-n", "3").stdout.splitlines()]

    assert [set(event) >= {"timestamp", "level", "event"} for event in own] == [True] * 3
    assert workers[-1] == {"worker": "sam-0", "line": 'says "\ufffd"'}


def test_check_for_programs_has_each_problem_with_its_line(warden: Live) -> None:
    broken = warden.folder / "broken.toml"
    broken.write_text("schema_version = 1\n[watchdog]\nstall_after = 600\n")

    done = warden.cli("check", "broken.toml", "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 78
    assert (found["file"], found["ok"]) == (str(broken), False)
    assert [(problem["where"], problem["line"]) for problem in found["problems"]] == [("broken.toml:3", 3)]


def test_a_reader_that_has_seen_enough_is_no_error(warden: Live) -> None:
    done = subprocess.run(f"{WARDEN} config show | head -1", cwd=warden.folder, shell=True, capture_output=True, text=True, check=False)  # noqa: S602

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_status_exits_3_when_a_worker_is_in_backoff(live: MakeLive) -> None:
    warden = live('[watchdog]\nbackoff_first = "5m"\n[workers.tool]\ncommand = ["false"]\nprogress = "none"\n')
    assert warden.holds(lambda: warden.worker("tool-0").state == "backoff")

    status = warden.cli("status")
    health = warden.cli("health")

    assert (status.returncode, health.returncode) == (3, 3)
    assert "tool-0 is in backoff: exit code 1" in status.stdout
    assert "starts again in" in status.stdout


def test_wait_shows_the_job_and_exits_by_its_end(live: MakeLive) -> None:
    warden = live()

    good = warden.cli("jobs", "submit", "demo.count", "steps=20", "--wait")
    bad = warden.cli("jobs", "submit", "demo.count", "fault=error", "--wait")

    assert good.returncode == 0
    assert "completed" in good.stdout
    assert bad.returncode == 1
    assert "user_error" in bad.stdout


def test_workers_stop_start_and_restart(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")

    assert warden.cli("workers", "stop", "sam").returncode == 0
    assert warden.holds(lambda: warden.worker("sam-0").state == "down")
    assert warden.worker("sam-0").next_action == "stays down until: warden workers start sam-0"
    assert warden.cli("workers", "start", "sam-0").returncode == 0
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    assert warden.cli("workers", "restart", "sam-0").returncode == 0
    assert warden.holds(lambda: (warden.worker("sam-0").generation, warden.worker("sam-0").state) == (3, "ready"))
    assert warden.worker("sam-0").restarts == {"operator": 2}


TWO_FOR_ONE_DEVICE = f"""
[gpu]
backend = "host"
host_budget = "4GiB"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "3GiB"
[workers.yolo]
{FAKE}
serves = ["demo.sum"]
gpu = "2GiB"
resident = false
options = {{ serves = ["demo.sum"] }}
"""


def test_why_names_who_holds_the_device_and_how_far_they_are(live: MakeLive) -> None:
    warden = live(TWO_FOR_ONE_DEVICE)
    warden.wait_for_event("worker_ready", worker="sam-0")
    holder = warden.submit(steps=100_000, step_s=0.05)  # it runs until it is cancelled
    warden.wait_for_job(holder, "running")
    waiter = warden.submit("demo.sum")
    assert warden.holds(lambda: warden.job(waiter).reason == "waiting_for_gpu")

    why = warden.cli("jobs", "why", waiter)
    warden.cli("jobs", "cancel", holder)

    assert f"{waiter} waits: sam-0 holds host and is busy with {holder}." in why.stdout
    assert "needs: 2GiB and 256MiB of margin on host; " in why.stdout
    assert f"now: sam-0 is at {holder} (demo.count, running, since " in why.stdout
    assert "order: place 1 of 1, priority 10 (0 is the most urgent), waiting for " in why.stdout
    assert f"you can: warden gpu status | warden jobs cancel {waiter} | warden jobs watch {waiter}" in why.stdout


def test_a_job_is_held_started_paused_resumed_and_tried_again(live: MakeLive) -> None:
    warden = live()
    name = warden.cli("jobs", "submit", "demo.count", "steps=100000", "step_s=0.05", "checkpoint=true", "--hold").stdout.strip()
    assert warden.holds(lambda: warden.job(name).reason == "held")
    held = warden.cli("jobs", "why", name)

    warden.cli("jobs", "start", name)
    warden.wait_for_job(name, "running")
    warden.cli("jobs", "pause", name)
    paused = warden.wait_for_job(name, "paused")
    warden.cli("jobs", "resume", name)
    again = warden.wait_for_job(name, "running")
    warden.cli("jobs", "cancel", name)
    retried = warden.cli("jobs", "retry", name, "--json")

    assert f"{name} waits until somebody starts it" in held.stdout
    assert (paused.worker, paused.device) == (None, None)
    assert again.attempt == 2
    assert json.loads(retried.stdout)["retry_of"] == name


def test_a_held_queue_starts_nothing_and_status_says_so(live: MakeLive) -> None:
    warden = live()
    warden.cli("jobs", "hold")
    name = warden.submit(steps=1)
    assert warden.holds(lambda: warden.job(name).reason == "held")

    status = warden.cli("status")
    warden.cli("jobs", "release")

    assert "HELD   nothing new is started until: warden jobs release" in status.stdout
    assert warden.wait_for_job(name).status == "completed"
    assert "HELD" not in warden.cli("status").stdout


STANDS: dict[str, Any] = {"steps": 60, "step_s": 0.02, "checkpoint": True, "fault": "stall", "at": 30, "attempt": 1}
"""A job that stands still in the middle until something is done to it: it cannot end before a slow machine has begun to watch it."""


def watching(warden: Live, job: str, out: Path) -> "subprocess.Popen[bytes]":
    """Return a running `jobs watch` that writes into a file."""
    with out.open("wb") as file:
        return subprocess.Popen([WARDEN, "jobs", "watch", job], cwd=warden.folder, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def test_ctrl_c_in_watch_leaves_the_job_running(live: MakeLive, tmp_path: Path) -> None:
    warden = live()
    name = warden.submit(**STANDS)
    out = tmp_path / "watch.out"
    watch = watching(warden, name, out)
    assert warden.holds(lambda: b"%" in out.read_bytes())

    watch.send_signal(signal.SIGINT)

    assert watch.wait(WITHIN_S) == 130
    assert b"Traceback" not in out.read_bytes()
    assert warden.job(name).status == "running"
    warden.ask("jobs.cancel", job=name)
    assert warden.wait_for_job(name).status == "cancelled"


def test_watch_survives_a_restart_of_the_supervisor(live: MakeLive, tmp_path: Path) -> None:
    warden = live()
    name = warden.submit(**STANDS)
    out = tmp_path / "watch.out"
    watch = watching(warden, name, out)
    assert warden.holds(lambda: b"%" in out.read_bytes())

    warden.stop()
    warden.start()

    assert watch.wait(WITHIN_S) == 0, out.read_text()
    assert warden.job(name).status == "completed"
    assert "Traceback" not in out.read_text()
    assert "completed" in out.read_text()


def test_watch_survives_a_kill_of_the_supervisor(live: MakeLive, tmp_path: Path) -> None:
    warden = live()
    name = warden.submit(**STANDS)
    out = tmp_path / "watch.out"
    watch = watching(warden, name, out)
    assert warden.holds(lambda: b"%" in out.read_bytes())

    warden.kill()
    assert warden.holds(lambda: b"does not answer" in out.read_bytes())
    warden.start()
    assert warden.wait_for_job(name, "running").attempt == 1
    os.kill(warden.worker("sam-0").pid or 0, signal.SIGKILL)  # the next attempt goes on to the end

    assert watch.wait(WITHIN_S) == 0, out.read_text()
    assert warden.job(name).status == "completed"


def test_a_terminal_gets_a_bar(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=20, step_s=0.05)
    ours, theirs = pty.openpty()

    watch = subprocess.Popen([WARDEN, "jobs", "watch", name], cwd=warden.folder, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 4096):
            said += data
    except OSError:  # the other end was closed: it has ended
        pass
    os.close(ours)

    assert watch.wait(WITHIN_S) == 0
    assert b"\x1b[" in said
    assert b"completed" in said


def test_a_log_is_as_old_as_its_last_line_whatever_its_file_says(tmp_path: Path) -> None:
    log = tmp_path / "watchdog.log"
    log.write_text("1970-01-01T00:01:00.000+00:00 info    worker_healthy\nhalf a li")

    written_at_s = _last_line_at_s(log)
    log.write_text("")

    assert written_at_s == 60.0
    assert _last_line_at_s(log) == log.stat().st_mtime, "it was emptied after copying"
