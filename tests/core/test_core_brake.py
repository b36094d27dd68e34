"""The line of victims of the emergency brake, two at a time: who of them is the first; and that one ends at a time."""

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Kill
from supervisor.core.brake import Candidate
from supervisor.core.decide import decide
from supervisor.core.events import GuardKilled, MemorySampled
from supervisor.core.limits import GIB, MIB, Limits, WorkerSpec
from supervisor.core.model import Fleet, Process, Worker, WorkerName, WorkerState


def one(**fields: object) -> Candidate:
    """Return a busy worker with 1 GiB, whose job would not be tried again."""
    usual = {"worker": WorkerName("w-0"), "size_bytes": GIB, "grown_bytes": 0, "grower": False, "idle": False, "critical": False, "retriable": False}
    return Candidate(**{**usual, "age_s": 10.0, **fields})  # type: ignore[arg-type]  # as the fields are


RACING = {"grower": True, "grown_bytes": 300 * MIB}
GROWER = {"grower": True, "grown_bytes": 10 * MIB}

FIRST = [
    ("who takes memory fast, before an idle one", one(**RACING), one(idle=True, size_bytes=4 * GIB)),
    ("an idle one, before who takes memory slowly", one(idle=True), one(**GROWER)),
    ("who takes memory slowly, before an idle one that has little", one(**GROWER), one(idle=True, size_bytes=100 * MIB)),
    ("who takes memory, before one with more", one(**GROWER), one(size_bytes=4 * GIB)),
    ("one that is tried again, before one with more", one(retriable=True), one(size_bytes=4 * GIB)),
    ("the larger one", one(size_bytes=2 * GIB), one()),
    ("the younger of two that are the same", one(age_s=1.0), one()),
    ("an innocent one, before who saves", one(), one(critical=True, **RACING)),
]


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
def test_the_first_to_end_is(first: Candidate, second: Candidate) -> None:
    assert first.rank(spares=True) < second.rank(spares=True)


def test_below_the_hard_floor_a_save_spares_nobody() -> None:
    assert one(critical=True, **RACING).rank(spares=False) < one().rank(spares=False)


def test_nobody_else_ends_while_what_the_guard_took_back_is_on_its_way() -> None:
    """The victim of the guard uses nothing any more by its count, and its pages are still being given back."""
    names = (WorkerName("sam-0"), WorkerName("yolo-0"))
    specs = {"sam": WorkerSpec(command=("sam",)), "yolo": WorkerSpec(command=("yolo",))}
    workers = {
        name: Worker(name=name, model=name[:-2], state=WorkerState.READY, generation=1, process=Process(spawned_at_s=0.0, pid=pid))
        for pid, name in enumerate(names, 70)
    }
    low = MemorySampled(available_bytes=1004 * MIB, total_bytes=32 * GIB, workers={names[0]: 0, names[1]: 300 * MIB}, grown={}, fell_bytes=0)
    acted = GuardKilled(worker=names[0], generation=1, available_bytes=900 * MIB, held_bytes=8 * GIB)

    after = decide(Fleet(workers=workers), acted, Limits(workers=specs), 10.0).fleet
    at_once = decide(after, low, Limits(workers=specs), 10.01)
    gone = replace(at_once.fleet, workers={**at_once.fleet.workers, names[0]: replace(workers[names[0]], process=None, state=WorkerState.DOWN)})
    later = decide(gone, low, Limits(workers=specs), 10.5)

    assert [action.worker for action in at_once.actions if isinstance(action, Kill)] == []
    assert [action.worker for action in later.actions if isinstance(action, Kill)] == [names[1]]
