"""`warden jobs watch`: a clock for each phase, what happens on the way told once, and patience."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.shapes import DeviceView, HandoverView, JobView
from tests.support.live import WARDEN, WITHIN_S
from tests.support.scripted import Scripted, a_job, a_status, always, one_after_another

pytestmark = pytest.mark.slow

RUNNING = {"status": "running", "worker": "w-0", "total": 50.0}
END = a_job(status="completed", progress=100.0, completed_at="2026-11-25T03:05:00.000+00:00")


def watched(folder: Path, readings: Sequence[JobView]) -> "subprocess.CompletedProcess[str]":
    """Return a watch that saw these readings, the last for ever."""
    with Scripted(folder, {"jobs.show": one_after_another(readings), "status": always(a_status())}).answering() as warden:
        return warden.cli("jobs", "watch", "j-1")


def plain(text: str) -> list[str]:
    """Return the lines without the time of day and without how long something took."""
    return [re.sub(r"\s*\d+\.\d s", " T", re.sub(r"^[ \d:]{8} ?", "", line)).strip() for line in text.splitlines()]


def a_device(*, leaving: list[str], exit_s: float, proof_s: float) -> DeviceView:
    """Return a device that was handed over to the job."""
    last = HandoverView(
        to="w-0", job="j-1", leaving=leaving, need_bytes=8 * 2**30, ago_s=1.0, exit_s=exit_s, gone_s=0.6, back_s=1.5, proof_s=proof_s, spawned_s=None, polls=3
    )
    return DeviceView(
        id="host",
        name="host",
        backend="host",
        state="ok",
        proof="",
        trouble="",
        total_bytes=1,
        used_bytes=0,
        free_bytes=1,
        holders=[],
        waiters=[],
        handover=None,
        last_handover=last,
    )


def test_each_phase_has_its_line_and_its_clock(tmp_path: Path) -> None:
    readings = [
        a_job(position=1, message="yolo-0 holds host"),
        a_job(status="preparing", phase="vacating"),
        a_job(status="preparing", phase="loading"),
        a_job(**RUNNING, phase="train", done=10.0, progress=20.0),
        a_job(**RUNNING, phase="validate", done=11.0, progress=22.0),
        a_job(**RUNNING, phase="train", done=30.0, progress=60.0, eta_s=31.0, metrics={"mAP50": 0.4}),
        END,
    ]

    done = watched(tmp_path, readings)

    assert done.returncode == 0, done.stderr
    assert plain(done.stdout) == [
        "waiting T",
        "vacating T",
        "loading T",
        "train         20 %   10/50",
        "train         60 %   30/50  about 31 s left  mAP50 0.4",
        "train T",
        "validate T",
        "j-1 completed",
    ]


def test_a_hand_over_is_told_with_its_proof(tmp_path: Path) -> None:
    device = a_device(leaving=["sam-0"], exit_s=0.3, proof_s=1.7)
    readings = [a_job(status="preparing", phase="vacating"), a_job(status="preparing", phase="loading"), END]
    answers = {"jobs.show": one_after_another(readings), "status": always(a_status(devices=[device]))}
    with Scripted(tmp_path, answers).answering() as warden:
        done = warden.cli("jobs", "watch", "j-1")

    assert "sam-0 left in 0.3 s, 8GiB proved free twice after 1.7 s" in done.stdout


def test_a_pause_and_a_resume_are_told_once_and_the_watch_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").touch()
    at = {**RUNNING, "phase": "train", "done": 10.0, "progress": 20.0, "dir": str(tmp_path)}
    rest = {"total": 50.0, "done": 10.0, "progress": 20.0, "dir": str(tmp_path)}
    readings = [
        a_job(**at),
        a_job(**{**at, "status": "pausing"}),
        a_job(**{**at, "status": "pausing"}),
        a_job(status="paused", **rest),
        a_job(status="paused", **rest),
        a_job(status="paused", **rest),
        a_job(status="queued", **rest),
        a_job(**{**at, "attempt": 2}),
        END,
    ]

    done = watched(tmp_path, readings)

    said = re.sub(r"checkpoint \d+\.\d s ago", "checkpoint T ago", done.stdout)
    assert done.returncode == 0
    assert said.count("asked to pause: it leaves right after its next checkpoint  checkpoint T ago") == 1
    assert said.count("paused at 10 of 50 (20 %)  checkpoint T ago; go on with: warden jobs resume j-1 (Ctrl-C leaves it paused)") == 1
    assert said.count(" resumed\n") == 1


def test_a_resume_that_came_before_the_pause_is_told(tmp_path: Path) -> None:
    at = {**RUNNING, "phase": "train", "done": 10.0}

    done = watched(tmp_path, [a_job(**{**at, "status": "pausing"}), a_job(**at), END])

    assert done.stdout.count("resumed before it was paused") == 1


def test_another_attempt_is_told_with_its_reason(tmp_path: Path) -> None:
    readings = [
        a_job(**RUNNING, phase="train", done=10.0),
        a_job(
            last_end="attempt 1 ended: w-0 ended under it: exit code 3", message="w-0 is in backoff", reason="waiting_for_worker", position=1, dir=str(tmp_path)
        ),
        a_job(**{**RUNNING, "attempt": 2}, failures=1, phase="train", done=20.0, progress=40.0),
        a_job(status="failed", reason="worker_crash", message="w-0 ended under it: exit code 3", completed_at="2026-11-25T03:05:00.000+00:00"),
    ]

    done = watched(tmp_path, readings)

    assert done.returncode == 1
    lines = plain(done.stdout)
    told = lines.index("back in the queue: attempt 1 ended: w-0 ended under it: exit code 3; it had saved no checkpoint, and starts over")
    assert lines[told + 1] == "train T   of attempt 1"
    assert lines[-2] == "train T", "of the attempt that ended it"
    assert "attempt 2 of 3" in done.stdout
    assert "j-1 failed: worker_crash: w-0 ended under it: exit code 3" in done.stdout


def test_another_attempt_that_began_between_two_readings_is_told_as_well(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").touch()
    why = "attempt 1 ended: w-0, taken over from another supervisor, is gone"
    readings = [
        a_job(**RUNNING, phase="train", done=10.0),
        a_job(**{**RUNNING, "attempt": 2}, failures=1, last_end=why, phase="train", done=20.0, dir=str(tmp_path)),
        END,
    ]

    done = watched(tmp_path, readings)

    lines = [re.sub(r"checkpoint.*", "checkpoint", line) for line in plain(done.stdout)]
    assert lines.count(f"back at work: {why}; goes on from its checkpoint") == 1
    assert lines.count("train T   of attempt 1") == 1
    assert lines[-2:] == ["train T", "j-1 completed"]


def test_a_wait_whose_time_runs_down_is_said_once(tmp_path: Path) -> None:
    waits = [a_job(position=1, message=f"sam-0 is in backoff, next try in {left} s: exit code 3; again in {left / 10} min") for left in range(31, 11, -1)]

    done = watched(tmp_path, [*waits, END])

    assert done.stdout.count("next try in") == 1


def test_nobody_had_to_leave_is_said_without_a_time(tmp_path: Path) -> None:
    device = a_device(leaving=[], exit_s=0.0, proof_s=0.2)
    readings = [a_job(status="preparing", phase="vacating"), a_job(status="preparing", phase="loading"), END]
    with Scripted(tmp_path, {"jobs.show": one_after_another(readings), "status": always(a_status(devices=[device]))}).answering() as warden:
        done = warden.cli("jobs", "watch", "j-1")

    assert "nobody had to leave, 8GiB proved free twice after 0.2 s" in done.stdout


def test_a_long_wait_says_what_it_waits_for_and_where_to_read_more(tmp_path: Path) -> None:
    waits = a_job(position=2, message="yolo-0 holds host and is busy with j-7")

    done = watched(tmp_path, [waits] * 20 + [END])

    assert done.stdout.count("waits: yolo-0 holds host and is busy with j-7; more: warden jobs why j-1") == 1


def test_a_supervisor_that_comes_back_is_found_again(tmp_path: Path) -> None:
    warden = Scripted(tmp_path, {"jobs.show": always(a_job(**RUNNING, phase="train", done=25.0, progress=50.0)), "status": always(a_status())})
    with warden.answering():
        watch = subprocess.Popen([WARDEN, "jobs", "watch", "j-1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert watch.stdout is not None
        first = watch.stdout.readline()
    away = watch.stdout.readline()
    warden.answers["jobs.show"] = always(END)

    with warden.answering():
        rest, _ = watch.communicate(timeout=WITHIN_S)

    assert "50 %" in first
    assert away == "the supervisor does not answer; the job is kept, trying again (Ctrl-C leaves it as it is)\n"
    assert rest.startswith("back after ")
    assert watch.returncode == 0


def test_a_terminal_gets_a_live_line_with_the_clock_of_its_phase(tmp_path: Path) -> None:
    readings = [a_job(position=1), a_job(**RUNNING, phase="train", done=10.0, progress=20.0), END]
    ours, theirs = pty.openpty()
    with Scripted(tmp_path, {"jobs.show": one_after_another(readings), "status": always(a_status())}).answering():
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        watch = subprocess.Popen([WARDEN, "jobs", "watch", "j-1"], cwd=tmp_path, stdout=theirs, stderr=theirs, env=environ)
        os.close(theirs)
        said = b""
        try:
            while data := os.read(ours, 4096):
                said += data
        except OSError:  # the other end was closed: it has ended
            pass
        os.close(ours)
        code = watch.wait(WITHIN_S)

    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", said).decode()
    assert code == 0
    assert re.search(r"\d\d:\d\d:\d\d waiting +\d+\.\d s", text)
    assert re.search(r"\d\d:\d\d:\d\d train +\d+\.\d s .* 20 %  10/50", text)


def test_ctrl_c_leaves_a_paused_job_paused(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"jobs.show": always(a_job(status="paused"))}).answering() as warden:
        watch = subprocess.Popen([WARDEN, "jobs", "watch", "j-1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert watch.stdout is not None
        line = watch.stdout.readline()

        watch.send_signal(signal.SIGINT)
        code = watch.wait(WITHIN_S)
        watch.stdout.close()

    assert "paused at its start" in line
    assert code == 130
    assert {op for op, _ in warden.asked} == {"jobs.show"}
