"""Jobs through everything: paused and resumed, held, tried again, asked for twice; and fifty of them while whoever can be killed is killed."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pytest

from supervisor.control import Refused
from supervisor.shapes import EventsPage, WhyView
from tests.faults.test_hand_over import two_models
from tests.support.live import FAKE, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TRAINER = f"""
[watchdog]
healthy_after = "100ms"
[workers.trainer]
{FAKE}
serves = ["demo.train"]
"""


def pid_of(warden: Live, worker: str) -> int | None:
    """Return the pid of the process in a worker's place, if there is one."""
    return warden.worker(worker).pid


def events_of(warden: Live, job: str) -> EventsPage:
    """Return all that is told about one job."""
    return msgspec.convert(warden.ask("events.since", after=0, job=job, limit=1000), EventsPage)


ENDINGS = frozenset({"job_completed", "job_failed", "job_cancelled"})


def told_to_the_end(warden: Live, job: str) -> EventsPage:
    """Return all that is told about one job, its end too: that is on disk a moment after the fleet knows it."""
    assert warden.holds(lambda: any(event.event in ENDINGS for event in events_of(warden, job).events)), events_of(warden, job)
    return events_of(warden, job)


def test_a_paused_job_goes_on_from_its_checkpoint_after_everything_was_started_anew(live: MakeLive) -> None:
    warden = live(TRAINER)
    name = warden.submit("demo.train", steps=60, step_s=0.1, checkpoint=True)
    assert warden.holds(lambda: warden.job(name).done >= 3)

    warden.ask("jobs.pause", job=name)
    paused = warden.wait_for_job(name, "paused")
    assert paused.worker is None
    warden.stop()
    warden.start()
    assert warden.job(name).status == "paused"
    warden.ask("jobs.resume", job=name)
    done = warden.wait_for_job(name)

    assert (done.status, done.attempt) == ("completed", 2)
    assert done.result["from"] >= paused.done >= 3
    assert len(warden.told("job_paused", job=name)) == 1


def test_a_pause_frees_the_device_and_sam_comes_back_meanwhile(live: MakeLive) -> None:
    warden = live(two_models())
    name = warden.submit("demo.train", steps=200, step_s=0.05, checkpoint=True)
    assert warden.holds(lambda: warden.job(name).done >= 1)

    warden.ask("jobs.pause", job=name)

    assert warden.wait_for_job(name, "paused").device is None
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")


def test_a_pause_that_comes_while_the_supervisor_is_away_is_not_needed_twice(live: MakeLive) -> None:
    warden = live(TRAINER)
    name = warden.submit("demo.train", steps=100, step_s=0.3, checkpoint=True)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    warden.ask("jobs.pause", job=name)

    warden.kill()
    warden.start()

    assert warden.wait_for_job(name, "paused").attempt == 1


def test_a_held_queue_starts_nothing_and_is_held_over_a_crash(live: MakeLive) -> None:
    warden = live()
    warden.ask("jobs.hold")
    name = warden.submit(steps=1)

    warden.kill()
    warden.start()

    assert warden.status().held
    assert (warden.job(name).status, warden.job(name).reason) == ("queued", "held")
    warden.ask("jobs.release")
    assert warden.wait_for_job(name).status == "completed"


def test_a_job_for_later_waits_for_its_time(live: MakeLive) -> None:
    warden = live()
    at = datetime.now(UTC) + timedelta(seconds=3)

    name = warden.ask("jobs.submit", kind="demo.count", params={"steps": 1}, run_at=at.isoformat())["id"]

    assert warden.job(name).reason in {"", "scheduled"}
    done = warden.wait_for_job(name)
    assert done.started_at is not None
    assert datetime.fromisoformat(done.started_at) >= at


def test_the_same_key_makes_one_job_also_after_a_crash(live: MakeLive) -> None:
    warden = live()
    args = {"kind": "demo.count", "params": {"steps": 1}, "idempotency_key": "once"}
    first = warden.ask("jobs.submit", **args)["id"]
    warden.wait_for_job(first)

    warden.kill()
    warden.start()

    assert warden.ask("jobs.submit", **args)["id"] == first
    with pytest.raises(Refused, match="was used for another request") as refused:
        warden.ask("jobs.submit", **{**args, "params": {"steps": 2}})
    assert refused.value.code == "invalid"


def test_a_retry_is_a_new_job_that_names_the_old_one(live: MakeLive) -> None:
    warden = live()
    old = warden.submit(steps=1, fault="error")
    assert warden.wait_for_job(old).status == "failed"

    again = warden.ask("jobs.retry", job=old)

    assert again["retry_of"] == old
    assert again["params"] == {"steps": 1, "fault": "error"}
    assert warden.job(old).status == "failed"


def test_a_retry_under_a_key_is_one_job(live: MakeLive) -> None:
    warden = live()
    old = warden.submit(steps=1, fault="error")
    warden.wait_for_job(old)

    again = [warden.ask("jobs.retry", job=old, idempotency_key="once")["id"] for _ in range(2)]

    assert again[0] == again[1]


def test_a_paused_job_is_not_started_and_says_what_to_do(live: MakeLive) -> None:
    warden = live(TRAINER)
    name = warden.submit("demo.train", steps=60, step_s=0.1, checkpoint=True)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    warden.ask("jobs.pause", job=name)
    warden.wait_for_job(name, "paused")

    with pytest.raises(Refused, match="warden jobs resume") as refused:
        warden.ask("jobs.start", job=name)

    assert refused.value.code == "conflict"
    cancelled = warden.ask("jobs.cancel", job=name)
    assert "before its work began" not in cancelled["message"]


def test_parameters_that_can_never_work_are_refused_at_the_door(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_job(warden.submit(steps=1))

    with pytest.raises(Refused, match=r"stepz") as refused:
        warden.submit(stepz=3)

    assert refused.value.code == "invalid"
    assert warden.ask("jobs.list")[0]["params"] == {"steps": 1}


@pytest.mark.parametrize("number", [10**23, -(2**63) - 1])
def test_a_number_that_no_worker_can_be_sent_is_refused_at_the_door(live: MakeLive, number: int) -> None:
    warden = live()

    refused = warden.cli("jobs", "submit", "demo.count", f"steps={number}")

    assert refused.returncode == 2, refused
    assert "64 bits" in refused.stderr
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_a_job_of_an_older_release_that_cannot_be_sent_fails_alone(live: MakeLive) -> None:
    warden = live()
    warden.stop()
    with closing(sqlite3.connect(warden.state_dir / "jobs.sqlite")) as file, file:
        doc = json.dumps({"id": "j-old", "kind": "demo.count", "params": {"steps": 10**23}, "max_attempts": 3, "created_wall": 1.0})
        file.execute(
            "INSERT INTO jobs (id, kind, status, attempt, priority, created, doc) VALUES ('j-old', 'demo.count', 'queued', 0, 10, 1.0, ?)", (doc.encode(),)
        )

    warden.start()

    assert warden.wait_for_job("j-old").reason == "bad_input"
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


def test_a_job_that_was_cleaned_up_is_gone_and_not_unknown(live: MakeLive) -> None:
    warden = live('[jobs]\nkeep_finished = "1s"\n' + TRAINER)
    name = warden.submit("demo.train", steps=1)
    folder = warden.wait_for_job(name).dir

    def code() -> str:
        try:
            warden.job(name)
        except Refused as refused:
            return refused.code
        return ""

    assert warden.holds(lambda: code() == "gone", within_s=60.0), code()
    assert warden.holds(lambda: not os.path.exists(folder))  # noqa: PTH110  # the view's own text


def test_what_is_told_of_a_job_has_numbers_that_rise_over_a_crash(live: MakeLive) -> None:
    warden = live(TRAINER)
    name = warden.submit("demo.train", steps=30, step_s=0.3, checkpoint=True)  # it must outlast a start
    assert warden.holds(lambda: warden.job(name).done >= 2)
    before = events_of(warden, name)

    warden.kill()
    warden.start()
    warden.wait_for_job(name)
    after = told_to_the_end(warden, name)

    numbers = [event.seq for event in after.events]
    assert numbers == sorted(set(numbers))
    assert [event.seq for event in before.events] == numbers[: len(before.events)]
    assert next(event.event for event in after.events) == "job_queued"
    assert after.events[-1].event == "job_completed"
    done = [event.data["done"] for event in after.events if event.event == "job_moved" and event.data["attempt"] == 1]
    assert done == sorted(done)


def test_why_says_who_is_in_the_way(live: MakeLive) -> None:
    warden = live(two_models(), api="off")
    training = warden.submit("demo.train", steps=400, step_s=0.05)
    assert warden.holds(lambda: warden.job(training).status == "running")
    waiting = warden.submit("demo.count")
    assert warden.holds(lambda: warden.job(waiting).reason == "waiting_for_gpu")

    why = msgspec.convert(warden.ask("jobs.why", job=waiting), WhyView)

    told = " ".join(why.sentences)
    assert "yolo-0" in told
    assert training in told
    assert why.wait is not None
    assert [holder.owner for holder in why.wait.holders] == ["yolo-0"]


def test_fifty_jobs_end_once_each_while_supervisor_workers_and_front_are_killed_in_turn(live: MakeLive) -> None:
    warden = live(
        f"""
[jobs]
max_running = 4
[jobs.retries]
crash = 50
[watchdog]
backoff_first = "50ms"
backoff_max = "200ms"
healthy_after = "50ms"
[workers.count]
{FAKE}
serves = ["demo.count"]
replicas = 2
[workers.train]
{FAKE}
serves = ["demo.train"]
replicas = 2
""",
        api="127.0.0.1:0",
    )
    kinds = ("demo.count", "demo.train")
    names = [warden.ask("jobs.submit", kind=kinds[i % 2], params={"steps": 6, "step_s": 0.05, "checkpoint": True}, max_attempts=200)["id"] for i in range(50)]
    victims = ["count-0", "api-0", "train-1", "supervisor", "count-1", "train-0", "api-0", "supervisor"]

    for victim in victims:
        mark = warden.mark()
        if victim == "supervisor":
            warden.kill()
            warden.start()
            continue
        assert warden.holds(partial(pid_of, warden, victim))
        pid = pid_of(warden, victim)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        warden.wait_for_event("worker_exited", worker=victim, after=mark)

    ended = [warden.wait_for_job(name, within_s=120.0) for name in names]
    assert {job.status for job in ended} == {"completed"}, [(job.id, job.status, job.message) for job in ended if job.status != "completed"]
    for name in names:
        endings = [event for event in told_to_the_end(warden, name).events if event.event in ENDINGS]
        assert len(endings) == 1, (name, endings)


def missed_a_run(live: MakeLive) -> Live:
    """Return a supervisor that is about to start after it was away for long; its schedule is due once a year."""
    warden = live('[schedules.yearly]\ncron = "0 3 1 1 *"\njob = { kind = "demo.train", params = { steps = 1 } }\n' + TRAINER)
    assert [(found["name"], found["last_job"]) for found in warden.ask("schedules")] == [("yearly", None)]
    warden.stop()
    counted = {"schedule:yearly": "2024-06-01T00:00:00+00:00", "schedule_last:yearly": json.dumps({"line": "0 3 1 1 *"})}
    with closing(sqlite3.connect(warden.state_dir / "jobs.sqlite")) as file, file:
        file.executemany("INSERT OR REPLACE INTO marks (name, value) VALUES (?, ?)", counted.items())
    return warden


def test_a_run_that_was_missed_is_caught_up_once_and_not_doubled_by_a_crash(live: MakeLive) -> None:
    warden = missed_a_run(live)

    warden.start()
    assert warden.holds(lambda: warden.ask("jobs.list", kind="demo.train"))
    warden.kill()  # at whatever moment: the job is on disk or not, and its instant remembered or not
    warden.start()

    assert warden.holds(lambda: warden.ask("jobs.list", kind="demo.train"))
    assert warden.wait_for_job(warden.ask("jobs.list", kind="demo.train")[0]["id"]).status == "completed"
    jobs = warden.ask("jobs.list", kind="demo.train")
    assert [job["schedule"] for job in jobs] == ["yearly"]
    assert jobs[0]["id"].startswith("s-yearly-")
    assert warden.holds(lambda: warden.ask("schedules")[0]["last_job"] == jobs[0]["id"])
