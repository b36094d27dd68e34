"""Workers that keep something from job to job are found out within ten jobs, and what they keep is named; none of them is restarted for it."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Live, MakeLive
from tests.support.programs import leaky

pytestmark = [pytest.mark.faults, pytest.mark.slow]

needs_torch = [
    pytest.mark.models,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra models: make test installs it"),
]
JOBS = 10


def toml(*, torch: bool = False) -> str:
    serves = ", ".join(f'"{kind}"' for kind in leaky.Leaky.serves)
    return f"""
[workers.leaky]
command = ["{{python}}", "-P", "{Path(leaky.__file__)}"]
serves = [{serves}]
env = {{ OMP_NUM_THREADS = "1" }}
options = {{ torch = {str(torch).lower()} }}
"""


def work(warden: Live, kind: str) -> None:
    """Do ten jobs of a kind, one after the other."""
    for _ in range(JOBS):
        job = warden.wait_for_job(warden.submit(kind))
        assert job.status == "completed", job.error


def found(warden: Live, event: str) -> dict[str, Any]:
    """Return the verdict as it was told: once, within the ten jobs, by a worker that lives, and to be seen in the status."""
    told = warden.wait_for_event(event, worker="leaky-0")
    assert told["jobs"] <= JOBS
    assert len(warden.seen(event)) == 1
    worker = warden.worker("leaky-0")
    assert (worker.generation, worker.restarts) == (1, {})
    assert worker.leak is not None
    assert worker.leak.kind == told["kind"]
    assert told["reason"] in (warden.log_dir / "watchdog.log").read_text()
    assert worker.leak.sentence in warden.cli("status").stdout
    return told


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        ("leak.bytes", "python", "self.kept has 1 more item with each job"),
        ("leak.dicts", "python", "self.rows has 200 more items with each job; more objects with each job: 200 "),
        ("leak.native", "native", "a native library keeps it"),
    ],
)
def test_what_grows_from_job_to_job_is_named(live: MakeLive, kind: str, verdict: str, words: str) -> None:
    warden = live(toml())

    work(warden, kind)

    told = found(warden, "leak_found")
    assert told["kind"] == verdict
    assert words in told["reason"]
    assert 3 * 2**20 < told["growth_bytes"] < 8 * 2**20


@pytest.mark.parametrize("torch", [False, pytest.param(True, marks=needs_torch)])
def test_what_malloc_keeps_is_given_back_and_the_worker_lives(live: MakeLive, torch: bool) -> None:
    warden = live(toml(torch=torch))

    work(warden, "leak.fragments")

    told = found(warden, "memory_trimmed")
    assert told["kind"] == "allocator_retention"
    assert told["growth_bytes"] == 0
    assert not warden.seen("leak_found")
    assert len(warden.seen("worker_ready", worker="leaky-0")) == 1


@pytest.mark.parametrize("kind", [pytest.param("leak.graphs", marks=needs_torch)])
def test_graphs_that_are_kept_in_a_list_are_named(live: MakeLive, kind: str) -> None:
    warden = live(toml(torch=True))

    work(warden, kind)

    told = found(warden, "leak_found")
    assert told["kind"] == "graph_retention"
    assert "kept in self.losses" in told["reason"]
    assert "the biggest [256, 256] float32" in told["reason"]
    assert any(int(more) >= 20 for more in re.findall(r"(\d+) more with each job", told["reason"]))
    assert told["growth_bytes"] > 4 * 2**20


@pytest.mark.parametrize("kind", ["leak.nothing", pytest.param("leak.detached", marks=needs_torch)])
def test_a_worker_that_keeps_nothing_is_left_in_peace(live: MakeLive, kind: str) -> None:
    warden = live(toml(torch=kind == "leak.detached"))

    work(warden, kind)

    assert warden.cli("workers", "restart", "leaky-0").returncode == 0
    warden.wait_for_event("worker_stopped", worker="leaky-0")  # it said all that it had to say
    assert not warden.seen("leak_found")
