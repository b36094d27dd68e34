"""When a worker comes back: at once, doubled up to the cap, spread, seldom; and what wipes the slate."""

import pytest
from msgspec.structs import replace

from supervisor.core.limits import Watchdog
from supervisor.core.model import Process, Worker, WorkerName
from supervisor.core.restarts import after_failure

DOG = Watchdog(backoff_first_s=1, backoff_max_s=60, healthy_after_s=600, quarantine_after=10)
FRESH = Worker(name=WorkerName("sam-0"), model="sam", generation=1, process=Process(spawned_at_s=0.0))


def failed(failures: int, generation: int = 1) -> Worker:
    return replace(FRESH, failures=failures, generation=generation)


def test_the_first_restart_is_at_once() -> None:
    comeback = after_failure(failed(0), DOG, 100.0)

    assert (comeback.at_s, comeback.failures, comeback.quarantined) == (100.0, 1, False)


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32)])
def test_the_pause_doubles_within_its_spread(failures: int, pause_s: float) -> None:
    comeback = after_failure(failed(failures), DOG, 100.0)

    assert 0.8 * pause_s <= comeback.at_s - 100.0 <= 1.2 * pause_s
    assert comeback.failures == failures + 1


@pytest.mark.parametrize("failures", [7, 8])
def test_the_pause_is_capped(failures: int) -> None:
    assert after_failure(failed(failures), DOG, 100.0).at_s <= 160.0


def test_the_pause_is_capped_however_many_failures_there_were() -> None:
    dog = replace(DOG, quarantine_after=10**9)

    assert after_failure(failed(10**6), dog, 100.0).at_s == 160.0


@pytest.mark.parametrize(("failures", "quarantined"), [(8, False), (9, True), (10, True), (500, True)])
def test_it_is_set_aside_after_enough_failures_and_still_tried(failures: int, quarantined: bool) -> None:
    comeback = after_failure(failed(failures), DOG, 100.0)

    assert comeback.quarantined is quarantined
    if quarantined:
        assert comeback.at_s == 160.0


@pytest.mark.parametrize(
    ("process", "failures"),
    [
        (Process(spawned_at_s=0.0, ready_at_s=100.0), 6),  # ready for 599.9 s
        (Process(spawned_at_s=0.0, ready_at_s=99.9), 1),  # ready for 600 s
        (Process(spawned_at_s=0.0), 6),  # never ready
        (Process(spawned_at_s=0.0, ready_at_s=699.0, moved=True), 1),  # moved a job
        (None, 6),
    ],
)
def test_a_healthy_run_wipes_the_slate(process: Process | None, failures: int) -> None:
    assert after_failure(replace(failed(5), process=process), DOG, 699.9).failures == failures


def test_the_spread_is_the_same_for_the_same_generation_and_differs_between_workers() -> None:
    others = {after_failure(replace(failed(4), name=WorkerName(f"sam-{i}")), DOG, 0.0).at_s for i in range(20)}

    assert after_failure(failed(4), DOG, 0.0) == after_failure(failed(4), DOG, 0.0)
    assert after_failure(failed(4), DOG, 0.0).at_s != after_failure(failed(4, generation=2), DOG, 0.0).at_s
    assert len(others) == 20
    assert max(others) - min(others) > 2.0
