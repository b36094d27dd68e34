"""What a worker measures of itself between two jobs, and what that may cost."""

import gc
from collections import deque

import pytest

from workers import idle
from workers.idle import IdleMeter, own_bytes, release


class _Model:
    def __init__(self) -> None:
        self.cache: dict[int, str] = {}


class _Worker:
    def __init__(self) -> None:
        self.history: deque[int] = deque()
        self.model = _Model()
        self.back = self


@pytest.fixture
def rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count may cost what it likes: this process has the heap of pytest."""
    monkeypatch.setattr(idle, "_FREE_S", 60.0)


@pytest.mark.usefixtures("rich")
def test_containers_are_found_by_where_they_are_also_in_what_the_worker_has() -> None:
    worker = _Worker()
    meter = IdleMeter(worker)
    meter.measure(0)

    worker.history.extend(range(5))
    worker.model.cache.update(dict.fromkeys(range(7), "x"))
    meter.job_ended()
    seen = meter.measure(0)

    assert seen.jobs == 1
    assert {where: count for where, count in seen.items.items() if where.startswith("self.")} == {"self.history": 5, "self.model.cache": 7}


@pytest.mark.usefixtures("rich")
def test_objects_that_came_are_counted_by_type() -> None:
    class Row:
        pass

    meter = IdleMeter(_Worker())
    gc.collect()
    meter.measure(0)

    rows = [Row() for _ in range(300)]

    assert sum(more for name, more in meter.measure(0).grown.items() if name.endswith("Row")) == len(rows)


def test_a_count_that_is_dear_is_left_out_until_it_costs_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_SHARE", 1e9)  # of any time it may cost anything
    meter = IdleMeter(_Worker())
    gc.collect()
    meter.measure(0)
    many = [_Model() for _ in range(100_000)]
    assert meter.measure(0).grown["_Model"] == len(many)

    monkeypatch.setattr(idle, "_FREE_S", 0.0)
    monkeypatch.setattr(idle, "_SHARE", 0.0)
    seen = meter.measure(0)

    assert (seen.grown, seen.graphs) == ({}, None)
    assert seen.blocks is not None
    assert seen.blocks > len(many)
    assert seen.used_bytes > 0


def test_what_malloc_kept_of_freed_memory_is_given_back_and_said() -> None:
    release()
    before = own_bytes()
    many = [bytes(2000) for _ in range(50_000)]
    on_top = bytes(2000)  # under it the heap cannot shrink by itself
    many.clear()

    trimmed = release()

    assert trimmed > 80 * 10**6
    assert own_bytes() < before + 40 * 10**6
    assert len(on_top) == 2000
