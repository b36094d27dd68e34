"""The verdict on leaks, over series of what a worker held between its jobs: what grows is named, and what only looks so is not."""

import math
import random
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Announce
from supervisor.core.decide import decide
from supervisor.core.events import BeatHeard
from supervisor.core.growth import Graphs, Idle, judge_growth
from supervisor.core.limits import MIB
from supervisor.core.model import Worker, WorkerName
from tests.support.world import World, usual_limits

_JOBS = 60


def _measured(used_mb: Callable[[int], float], *, jobs: int = _JOBS, **more: Callable[[int], object]) -> list[Idle]:
    """Return what a process with these values after its n-th job, from 1 on, said of itself. used_mb: above 100 MiB."""
    plain = (Idle(jobs=n, used_bytes=100 * MIB + round(used_mb(n) * MIB)) for n in range(1, jobs + 1))
    return [replace(idle, **{name: value(idle.jobs) for name, value in more.items()}) for idle in plain]


def _chances() -> Iterator[random.Random]:
    """Yield sources of numbers, each time the same."""
    yield from (random.Random(seed) for seed in range(40))  # noqa: S311  # noise, no secret


def _first_verdict(series: list[Idle]) -> tuple[int, str] | None:
    """Return after which job there was a verdict for the first time, and its kind."""
    for end in range(1, len(series) + 1):
        leak = judge_growth(series[:end])
        if leak is not None:
            return leak.jobs, leak.kind
    return None


_QUIET: list[tuple[str, Callable[[int], float]]] = [
    ("level", lambda _: 0.0),
    ("warm-up", lambda n: 300.0 * (1 - math.exp(-n / 2))),
    ("slow warm-up", lambda n: 300.0 * (1 - math.exp(-n / 4))),
    ("a cache that is filled at once", lambda n: 500.0 if n > 7 else 0.0),
    ("a cache that is filled in three steps", lambda n: 200.0 * min(3, n // 4)),
    ("a cache that is filled in four late steps", lambda n: 100.0 * max(0, min(4, (n - 20) // 6))),
    ("saw teeth", lambda n: 50.0 * (n % 5)),
    ("two levels by turns", lambda n: 400.0 * (n % 2)),
    ("one spike", lambda n: 2000.0 if n == 9 else 0.0),
    ("falling", lambda n: 600.0 - 10 * n),
    ("growth too small to matter", lambda n: 0.5 * n),
]


@pytest.mark.parametrize(("what", "used_mb"), _QUIET, ids=[what for what, _ in _QUIET])
def test_what_is_no_leak_is_never_called_one(what: str, used_mb: Callable[[int], float]) -> None:
    assert _first_verdict(_measured(used_mb)) is None, what


def test_noise_is_no_leak() -> None:
    """80 series, 60 looks at each: chance alone brings no verdict."""
    calm = [_measured([chance.gauss(0.0, 200.0) for _ in range(_JOBS + 1)].__getitem__) for chance in _chances()]
    spiky = [_measured([chance.choice((0.0, 0.0, 200.0, 600.0)) for _ in range(_JOBS + 1)].__getitem__) for chance in _chances()]

    assert [_first_verdict(series) for series in (*calm, *spiky)] == [None] * 80


_LEAKS: list[tuple[str, Callable[[int], float], int]] = [
    ("2 MiB a job", lambda n: 2.0 * n, 10),
    ("50 MiB a job", lambda n: 50.0 * n, 10),
    ("faster and faster", lambda n: n * n / 2, 10),
    ("after a warm-up", lambda n: 300.0 * (1 - math.exp(-n)) + 20 * n, 10),
    ("by a list that doubles", lambda n: 5.0 * n + 2.0 ** (int(math.log2(n)) + 1), 20),
    ("from the 20th job on", lambda n: 10.0 * max(0, n - 20), 45),
    ("a step each third job, for ever", lambda n: 30.0 * (n // 3), 30),
]


@pytest.mark.parametrize(("what", "used_mb", "by_job"), _LEAKS, ids=[what for what, _, _ in _LEAKS])
def test_steady_growth_is_a_leak_within_so_many_jobs(what: str, used_mb: Callable[[int], float], by_job: int) -> None:
    found = _first_verdict(_measured(used_mb))

    assert found is not None, what
    assert found[0] <= by_job
    assert found[1] == "native"


def test_a_leak_under_noise_is_found_and_measured() -> None:
    chance = next(_chances())
    series = _measured(lambda n: 10.0 * n + chance.uniform(-8.0, 8.0))

    assert _first_verdict(series) is not None
    leak = judge_growth(series)
    assert leak is not None
    assert abs(leak.per_job_bytes - 10 * MIB) < MIB


def test_a_leak_that_ended_is_no_verdict_any_more() -> None:
    series = _measured(lambda n: 10.0 * min(n, 15))

    assert _first_verdict(series[:15]) is not None
    assert judge_growth(series) is None


def _graphs(count: int) -> Graphs:
    return Graphs(count=count, used_bytes=4 * count, shapes=("[64, 64] float32",), held_in="self.losses")


@pytest.mark.parametrize(
    ("series", "kind", "words"),
    [
        (_measured(lambda n: 5.0 * n, jobs=10, graphs=lambda n: _graphs(40 * n)), "graph_retention", "40 more with each job"),
        (_measured(lambda n: 0.01 * n, jobs=10, graphs=_graphs), "graph_retention", "kept in self.losses"),
        (_measured(lambda n: 5.0 * n, jobs=10, graphs=lambda _: _graphs(12)), "native", "grows by 5MiB with each job"),
        (_measured(lambda n: 5.0 * n, jobs=10, pinned_bytes=lambda n: 8 * MIB * n), "pinned_cache", "8MiB more with each job"),
        (_measured(lambda n: 5.0 * n, jobs=10, items=lambda n: {"self.kept": n}), "python", "self.kept has 1 more item with each job"),
        (_measured(lambda n: 5.0 * n, jobs=10, blocks=lambda n: 10**6 + 60_000 * n, grown=lambda _: {"dict": 900}), "python", "900 dict"),
        (_measured(lambda n: 5.0 * n, jobs=10, blocks=lambda n: 10**6 + 100 * n, items=lambda _: {"self.kept": 8}), "native", "native library"),
        (_measured(lambda _: 0.0, jobs=10, trimmed_bytes=lambda _: 400 * MIB), "allocator_retention", "malloc keeps about 400MiB"),
    ],
)
def test_what_grows_is_named(series: list[Idle], kind: str, words: str) -> None:
    leak = judge_growth(series)

    assert leak is not None
    assert (leak.kind, leak.harmless) == (kind, kind == "allocator_retention")
    assert words in leak.sentence


def test_one_large_buffer_that_the_allocator_kept_is_not_retention() -> None:
    assert _first_verdict(_measured(lambda _: 0.0, trimmed_bytes=lambda n: 900 * MIB if n == 9 else 32 * MIB)) is None


def test_counts_that_were_left_out_to_save_time_leave_the_rest_to_judge_by() -> None:
    series = [replace(idle, graphs=None) if idle.jobs % 2 else idle for idle in _measured(lambda n: 5.0 * n, jobs=20, graphs=lambda n: _graphs(40 * n))]

    leak = judge_growth(series)

    assert leak is not None
    assert leak.kind == "graph_retention"


def _with_sam() -> tuple[World, Worker]:
    world = World(usual_limits())
    world.run(5)
    return world, world.fleet.workers[WorkerName("sam-0")]


def test_a_leak_is_told_once_for_each_process_and_shown_until_it_ends() -> None:
    world, sam = _with_sam()
    fleet = world.fleet
    told: list[Announce] = []
    for idle in _measured(lambda n: 10.0 * min(n, 20)):
        decision = decide(fleet, BeatHeard(worker=sam.name, generation=sam.generation, idle=idle), world.limits, world.now_s)
        told += [action for action in decision.actions if isinstance(action, Announce) and action.event == "leak_found"]
        fleet = decision.fleet
        if idle.jobs == 20:
            process = fleet.workers[sam.name].process
            assert process is not None
            assert process.leak is not None

    assert [(one.worker, one.fields["kind"]) for one in told] == [(sam.name, "native")]
    process = fleet.workers[sam.name].process
    assert process is not None
    assert process.leak is None


def test_a_measurement_that_was_overtaken_is_left_out() -> None:
    world, sam = _with_sam()
    fleet = world.fleet
    for jobs in (1, 3, 2, 3, 4):
        beat = BeatHeard(worker=sam.name, generation=sam.generation, idle=Idle(jobs=jobs, used_bytes=MIB))
        fleet = decide(fleet, beat, world.limits, world.now_s).fleet

    process = fleet.workers[sam.name].process
    assert process is not None
    assert [idle.jobs for idle in process.idle] == [1, 3, 4]


def test_what_is_kept_of_a_process_is_bounded() -> None:
    world, sam = _with_sam()
    fleet = world.fleet
    for idle in _measured(lambda _: 0.0):
        fleet = decide(fleet, BeatHeard(worker=sam.name, generation=sam.generation, idle=idle), world.limits, world.now_s).fleet

    process = fleet.workers[sam.name].process
    assert process is not None
    assert len(process.idle) == 30
