"""Jobs that say, reckon or showed how much of the machine's memory they need: they begin when there is as much, wait with the numbers, or are refused."""

import json
import re

import httpx
import pytest

from tests.faults.test_http import ANY_PORT, url_of
from tests.faults.test_memory import PRETENDED, edit, log_of
from tests.support.live import FAKE, ONE_WORKER, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO = f"""
[jobs]
max_running = 5
{ONE_WORKER}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
"""
"""Both are up, and have some 50 MiB each of the 4 GiB that are pretended: of these 1 GiB is to stay free."""


def pretending(live: MakeLive, toml: str = TWO, **more: str) -> Live:
    """Return a supervisor on a machine of 4 GiB less what its workers use."""
    warden = live(toml, start=False, memory={"look_every": "500ms", "warn_below": "1GiB"}, **more).start(env=PRETENDED)
    assert warden.holds(lambda: warden.status().memory.available_bytes is not None)
    return warden


def test_two_that_fit_alone_do_not_begin_on_the_same_bytes(live: MakeLive) -> None:
    warden = pretending(live)
    first = warden.cli("jobs", "submit", "demo.count", "steps=100000", "--memory", "2GiB").stdout.strip()
    warden.wait_for_job(first, "running")

    second = warden.cli("jobs", "submit", "demo.train", "steps=2", "--memory", "2GiB").stdout.strip()
    waiting = warden.wait_for_event("job_waiting", job=second)
    screen = warden.cli("jobs", "why", second).stdout
    told = json.loads(warden.cli("jobs", "why", second, "--json").stdout)["wait"]["memory"]
    promised = warden.status().memory.promised_bytes
    warden.cli("jobs", "cancel", first)
    job = warden.wait_for_job(second)

    assert "it needs 2GiB of the machine's memory (declared), and too little is available" in screen
    assert f"promised to {first} on sam-0" in screen
    assert "1GiB of which stay free (memory.warn_below)" in screen
    assert "warden status" in screen
    assert told["need_bytes"] == 2 * 2**30
    assert 0 < told["missing_bytes"] < 2 * 2**30
    assert 1.5 * 2**30 < promised < 2 * 2**30
    assert (waiting["warn_below_bytes"], waiting["level"]) == (2**30, "info")
    assert (job.status, job.memory_bytes, job.memory_from) == ("completed", 2 * 2**30, "declared")
    assert warden.wait_for_event("job_admitted", job=second)["available_bytes"] > 3 * 2**30
    assert warden.holds(lambda: re.search(rf" info +job_waiting +job={second} .*warn_below=1GiB", log_of(warden)) is not None)
    assert "memory    2GiB needed (declared)" in warden.cli("jobs", "show", second).stdout


def test_what_can_never_be_had_is_refused_at_once_with_the_number(live: MakeLive) -> None:
    warden = pretending(live, api=ANY_PORT)
    url = url_of(warden)

    typed = warden.cli("jobs", "submit", "demo.count", "--memory", "3.5GiB")
    asked = httpx.post(f"{url}/v1/jobs", json={"kind": "demo.count", "memory": "3.5GiB"}, timeout=60.0)
    wrong = httpx.post(f"{url}/v1/jobs", json={"kind": "demo.count", "memory": "much"}, timeout=60.0)
    taken = httpx.post(f"{url}/v1/jobs", json={"kind": "demo.count", "memory": "2GiB", "params": {"steps": 1}}, timeout=60.0)

    says = "it needs 3.5GiB of the machine's memory (declared), and this machine has 4GiB, of which 1GiB stay free (memory.warn_below): 3GiB at the most"
    assert typed.returncode == 2
    assert says in typed.stderr
    assert asked.status_code == 422
    assert says in asked.json()["detail"]
    assert wrong.status_code == 422
    assert taken.status_code == 202
    assert (taken.json()["memory_bytes"], taken.json()["memory_from"]) == (2 * 2**30, "declared")
    assert "warden_memory_promised_bytes" in httpx.get(f"{url}/metrics", timeout=60.0).text


def test_a_job_waits_for_what_its_worker_reckons_and_begins_as_soon_as_the_line_is_lowered(live: MakeLive) -> None:
    warden = pretending(live)
    other = warden.cli("jobs", "submit", "demo.train", "steps=100000", "--memory", "1GiB").stdout.strip()
    warden.wait_for_job(other, "running")
    name = warden.submit(steps=2, tells_mb=2300)
    warden.wait_for_event("job_waiting", job=name)
    waiting = warden.job(name)

    edit(warden, 'warn_below = "1GiB"', 'warn_below = "100MiB"')
    job = warden.wait_for_job(name)
    warden.cli("jobs", "cancel", other)

    assert (waiting.status, waiting.reason, waiting.memory_from) == ("queued", "waiting_for_memory", "computed")
    assert waiting.memory_bytes is not None
    assert 2300 * 2**20 < waiting.memory_bytes < 2500 * 2**20
    assert (job.status, job.attempt, job.failures) == ("completed", 2, 0)
    assert warden.told("job_returned", job=name)


def test_what_can_never_be_had_by_its_workers_reckoning_fails_with_the_number(live: MakeLive) -> None:
    warden = pretending(live)

    job = warden.wait_for_job(warden.submit(steps=2, tells_mb=5000))

    assert (job.status, job.reason) == ("failed", "bad_input")
    assert "and this machine has 4GiB, of which 1GiB stay free (memory.warn_below): 3GiB at the most can be given" in job.message


def test_what_a_job_took_is_known_of_the_next_one_over_a_restart(live: MakeLive) -> None:
    warden = pretending(live)
    first = warden.submit(steps=100000, fault="memory", size_mb=300, checkpoint=True)
    assert warden.holds(lambda: (warden.job(first).memory_peak_bytes or 0) > 300 * 2**20)
    warden.cli("jobs", "cancel", first)
    cancelled = warden.wait_for_job(first)
    second = warden.submit(steps=100, fault="memory", size_mb=300)
    ended = warden.wait_for_job(second)
    warden.stop()

    warden.start(env=PRETENDED)
    third = warden.wait_for_job(warden.submit(steps=2))

    assert cancelled.status == "cancelled"
    assert (ended.memory_bytes, ended.memory_from) == (None, ""), "one that has no result teaches nothing"
    assert (ended.memory_peak_bytes or 0) > 300 * 2**20
    assert (third.status, third.memory_from) == ("completed", "observed")
    assert third.memory_bytes == ended.memory_peak_bytes
