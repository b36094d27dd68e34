"""A worker that is ended leaves the record of its last minute with its job: as a row of blocks, as CSV, and over a restart of Warden."""

import csv
import os
import signal

import msgspec
import pytest

from supervisor.shapes import WhyView
from tests.support.live import Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MIB = 2**20


def wait_for_sample(warden: Live, least_bytes: int) -> None:
    """Wait until a sample was taken after a look saw so much in the worker: two lines of its health are further apart than two samples, on the same loop."""
    before = len(warden.events)
    assert warden.holds(lambda: sum(said.get("mem_bytes", 0) > least_bytes for said in warden.seen("worker_healthy", after=before, worker="sam-0")) > 1)


def why(warden: Live, job: str) -> WhyView:
    return msgspec.convert(warden.ask("jobs.why", job=job), WhyView)


def test_the_last_minute_of_a_worker_that_was_killed_stays_with_its_job(live: MakeLive) -> None:
    warden = live(start=False).start(env={"WARDEN_SUPERVISOR__HEALTH_EVERY": "2s"})
    wait_for_sample(warden, 0)
    params = {"steps": 10_000, "step_s": 0.05, "fault": "memory", "at": 20, "size_mb": 200}
    name = warden.ask("jobs.submit", kind="demo.count", params=params, max_attempts=1)["id"]
    wait_for_sample(warden, 200 * MIB)

    os.kill(warden.worker("sam-0").pid or 0, signal.SIGKILL)

    assert warden.wait_for_job(name).status == "failed"
    seen = why(warden, name)
    rss = [sample.rss_bytes for sample in seen.flight]
    assert max(rss) - min(rss) > 150 * MIB
    assert seen.flight[-1].available_bytes
    assert {sample.job for sample in seen.flight} <= {"", name}
    assert (seen.flight[-1].job, seen.flight[-1].phase, seen.flight[-1].total) == (name, "count", 10_000)
    record = next(line for line in seen.sentences if line.startswith("record: the last "))
    assert f"warden jobs why {name} --csv" in record
    story = warden.cli("jobs", "why", name).stdout
    assert "  memory    ▁" in story
    assert "█" in story

    rows = list(csv.DictReader(warden.cli("jobs", "why", name, "--csv").stdout.splitlines()))
    assert [int(row["rss_bytes"]) for row in rows] == rss
    assert rows[-1]["phase"] == "count"

    warden.stop()
    warden.start()
    assert why(warden, name).flight == seen.flight


def test_a_job_that_goes_on_after_a_crash_has_the_record_of_it(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=200, step_s=0.05, fault="crash", at=100, attempt=1)

    assert warden.wait_for_job(name).status == "completed"

    assert [sample.job for sample in why(warden, name).flight][-1] == name


def test_without_a_record_csv_says_so(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=1, step_s=0.0)
    warden.wait_for_job(name)

    asked = warden.cli("jobs", "why", name, "--csv")

    assert (asked.returncode, asked.stdout) == (1, "")
    assert "no worker has ended under it" in asked.stderr
