"""`warden jobs`: what each command asks, what it prints of the answer, and what it exits with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.shapes import ErrorView, HoldView, JobsPage, MemoryView, ScheduleView, WhyView
from tests.support.scripted import Scripted, a_job, a_status, always, refuses, written

pytestmark = pytest.mark.slow

WAITS = WhyView(
    job="j-1",
    kind="demo.count",
    status="queued",
    reason="waiting_for_gpu",
    sentences=["j-1 waits: yolo-0 holds host.", "needs: 14GiB", "order: place 1 of 1"],
    you_can=["warden gpu status", "warden jobs cancel j-1"],
)
DEAD = msgspec.structs.replace(
    WAITS,
    status="failed",
    reason="stalled",
    sentences=["j-1 (demo.count) has no result: stalled: Job timed out", "stack:", '  File "x.py"'],
    you_can=["warden jobs retry j-1"],
    error=ErrorView(reason="stalled", message="Job timed out", evidence="", phase="count", stack='File "x.py"', log_tail=[]),
)


def pages(args: Mapping[str, Any]) -> JobsPage:
    """Answer jobs.page: 1,200 jobs, whose cursors are their places."""
    begin = int(args["cursor"] or 0)
    end = min(1200, begin + int(args["limit"]))
    return JobsPage(jobs=[a_job(id=f"j-{number}") for number in range(begin, end)], next=str(end) if end < 1200 else "")


@pytest.mark.parametrize(
    ("args", "op", "asked"),
    [
        (("submit", "demo.count", "steps=3"), "jobs.submit", {"kind": "demo.count", "params": {"steps": 3}}),
        (
            ("submit", "x", "--priority", "0", "--max-attempts", "1", "--idempotency-key", "k", "--hold", "--run-at", "2026-12-24T03:00Z"),
            "jobs.submit",
            {"kind": "x", "params": {}, "priority": 0, "max_attempts": 1, "idempotency_key": "k", "hold": True, "run_at": "2026-12-24T04:00:00+01:00"},
        ),
        (
            ("submit", "x", "--run-at", "2026-12-24T03:00"),
            "jobs.submit",
            {"kind": "x", "params": {}, "run_at": "2026-12-24T03:00:00+01:00"},
        ),
        (("pause", "j-1"), "jobs.pause", {"job": "j-1"}),
        (("resume", "j-1"), "jobs.resume", {"job": "j-1"}),
        (("start", "j-1"), "jobs.start", {"job": "j-1"}),
        (("cancel", "j-1"), "jobs.cancel", {"job": "j-1"}),
    ],
)
def test_what_is_asked_and_what_comes_of_it(tmp_path: Path, args: tuple[str, ...], op: str, asked: dict[str, Any]) -> None:
    with Scripted(tmp_path, {op: always(a_job(status="paused", message="as asked"))}).answering() as warden:
        plain = warden.cli("jobs", *args, env={"TZ": "Europe/Berlin"})
        as_json = warden.cli("jobs", *args, "--json", env={"TZ": "Europe/Berlin"})

    assert (plain.returncode, as_json.returncode) == (0, 0), plain.stderr
    assert plain.stdout.startswith("j-1")
    assert written(as_json)["status"] == "paused"
    assert warden.asked == [(op, asked)] * 2


def test_a_retry_prints_the_id_of_the_new_job(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"jobs.retry": always(a_job(id="j-2", retry_of="j-1"))}).answering() as warden:
        done = warden.cli("jobs", "retry", "j-1")

    assert done.stdout == "j-2\n"
    assert done.stderr == "demo.count of j-1 once more; watch it with: warden jobs watch j-2\n"


def test_the_queue_is_held_and_released(tmp_path: Path) -> None:
    answers = {"jobs.hold": always(HoldView(held=True)), "jobs.release": always(HoldView(held=False))}
    with Scripted(tmp_path, answers).answering() as warden:
        hold, release, as_json = warden.cli("jobs", "hold"), warden.cli("jobs", "release"), warden.cli("jobs", "hold", "--json")

    assert hold.stdout == "the queue is held: nothing new is started until: warden jobs release\n"
    assert hold.stderr == "programs outside Warden (warden gpu run, lock) still take the device in their turns\n"
    assert release.stdout == "the queue is released\n"
    assert written(as_json) == {"held": True}


def test_a_list_says_how_to_go_on_and_goes_on(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"jobs.page": pages}).answering() as warden:
        first = warden.cli("jobs", "list", "-n", "2", "--status", "failed", "--kind", "demo.count")
        second = warden.cli("jobs", "list", "-n", "2", "--cursor", "2", "--json")

    assert [line.split()[0] for line in first.stdout.splitlines()] == ["JOB", "j-0", "j-1"]
    assert first.stderr == "there are more: the same with --cursor 2, or with --all\n"
    assert [job["id"] for job in written(second)] == ["j-2", "j-3"]
    assert warden.asked[0] == ("jobs.page", {"statuses": ["failed"], "kind": "demo.count", "limit": 2, "cursor": ""})


@pytest.mark.parametrize(("args", "count", "limits"), [(("--all",), 1200, [500, 500, 500]), (("-n", "700"), 700, [500, 200])])
def test_a_long_list_is_fetched_page_by_page(tmp_path: Path, args: tuple[str, ...], count: int, limits: list[int]) -> None:
    with Scripted(tmp_path, {"jobs.page": pages}).answering() as warden:
        done = warden.cli("jobs", "list", "--json", *args)

    assert [job["id"] for job in written(done)] == [f"j-{number}" for number in range(count)]
    assert [asked["limit"] for _, asked in warden.asked] == limits
    assert bool(done.stderr) == (count < 1200)


def test_why_prints_the_supervisor_s_sentences_and_what_can_be_done(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"jobs.why": always(WAITS)}).answering() as warden:
        plain, as_json = warden.cli("jobs", "why", "j-1"), warden.cli("jobs", "why", "j-1", "--json")

    assert plain.stdout.splitlines() == [
        "j-1 waits: yolo-0 holds host.",
        "  needs: 14GiB",
        "  order: place 1 of 1",
        "  you can: warden gpu status | warden jobs cancel j-1",
    ]
    assert msgspec.json.decode(as_json.stdout, type=WhyView) == WAITS


def test_show_tells_a_failed_job_in_the_words_of_why(tmp_path: Path) -> None:
    failed = a_job(status="failed", retry_of="j-0", schedule="nightly", run_at="2026-11-25T03:00:00.000+00:00")
    with Scripted(tmp_path, {"jobs.show": always(failed), "jobs.why": always(DEAD)}).answering() as warden:
        done = warden.cli("jobs", "show", "j-1")

    lines = done.stdout.splitlines()
    assert lines[-4:] == [DEAD.sentences[0], "  stack:", '    File "x.py"', "  you can: warden jobs retry j-1"]
    assert any(line.startswith("from      due 2026-11-25") and "by schedule nightly  once more of j-0" in line for line in lines)


def test_show_of_a_completed_job_asks_for_no_reason(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"jobs.show": always(a_job(status="completed", result={"n": 1}))}).answering() as warden:
        done = warden.cli("jobs", "show", "j-1")

    assert done.returncode == 0
    assert '  "n": 1' in done.stdout.replace("    ", "  ")
    assert [op for op, _ in warden.asked] == ["jobs.show"]


@pytest.mark.parametrize(
    ("code", "exits"),
    [
        ("usage", 2),
        ("invalid", 2),
        ("unknown", 1),
        ("gone", 1),
        ("conflict", 1),
        ("failed", 1),
        ("full", 1),
        ("busy", 75),
        ("stopping", 75),
        ("config", 78),
    ],
)
def test_each_refusal_has_its_exit_code_and_its_sentence(tmp_path: Path, code: str, exits: int) -> None:
    with Scripted(tmp_path, {"jobs.submit": refuses(code, "a sentence")}).answering() as warden:
        done = warden.cli("jobs", "submit", "x", "--json")

    assert (done.returncode, done.stdout, done.stderr) == (exits, "", "a sentence\n")


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-01", "", "99999-01-01"])
def test_a_time_that_is_none_is_said_before_anybody_is_asked(tmp_path: Path, text: str) -> None:
    with Scripted(tmp_path, {}).answering() as warden:
        done = warden.cli("jobs", "submit", "x", "--run-at", text)

    assert done.returncode == 2
    assert f"--run-at {text!r}: expected an ISO 8601 time, such as 2026-12-24T03:00 (local) or 2026-12-24T03:00Z" in done.stderr
    assert warden.asked == []


def test_a_worker_is_recycled(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"workers.recycle": always(["sam-0", "sam-1"])}).answering() as warden:
        done = warden.cli("workers", "recycle", "sam")

    assert done.stdout.splitlines() == [
        f"{name}: gets a fresh process at the next boundary of its work; watch it with: warden status" for name in ("sam-0", "sam-1")
    ]
    assert warden.asked == [("workers.recycle", {"name": "sam"})]


NIGHTLY = ScheduleView(
    name="nightly", cron="0 3 * * *", kind="yolo.train", next_at="2199-11-26T03:00:00.000+00:00", last_at="2026-11-25T03:00:00.000+00:00", last_job="j-9"
)
NEVER = ScheduleView(name="never", cron="0 4 * * *", kind="yolo.train", next_at=None, last_at=None, last_job=None)


def test_the_schedules_are_listed(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"schedules": always([NIGHTLY, NEVER])}).answering() as warden:
        plain, as_json = warden.cli("schedules", env={"TZ": "UTC"}), warden.cli("schedules", "--json")
        warden.answers["schedules"] = always([])
        none = warden.cli("schedules")

    assert "nightly   0 3 * * *  yolo.train  2199-11-26 03:00:00 (in " in plain.stdout
    assert plain.stdout.splitlines()[2].split() == ["never", "0", "4", "*", "*", "*", "yolo.train", "-", "-", "-"]
    assert msgspec.json.decode(as_json.stdout, type=list[ScheduleView]) == [NIGHTLY, NEVER]
    assert none.stdout == "there is no [schedules.NAME] in supervisor.toml\n"


def test_the_status_screen_shows_what_is_new_and_only_when_it_matters(tmp_path: Path) -> None:
    troubled = a_status(held=True, memory=MemoryView(available_bytes=2**33, disk_free_bytes=2**29), jobs={"queued": 2, "paused": 1})
    answers = {"status": always(troubled), "schedules": always([NIGHTLY, NEVER])}
    with Scripted(tmp_path, answers).answering() as warden:
        one = warden.cli("status", env={"TZ": "UTC"}).stdout
        warden.answers |= {"status": always(a_status()), "schedules": always([])}
        other = warden.cli("status").stdout

    assert "http://127.0.0.1:8650" in one.splitlines()[0]
    assert "DISK   512MiB free for /var/w; below disk_floor, 1GiB, no job is taken" in one
    assert "JOBS   0 at work, 2 waiting, 1 paused; " in one
    assert "HELD   nothing new is started until: warden jobs release" in one
    assert "NEXT   nightly 2199-11-26 03:00:00 (in " in one
    assert not {line.split()[0] for line in other.splitlines()} & {"DISK", "HELD", "NEXT"}
