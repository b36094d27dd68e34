"""The line of victims of the emergency brake, two at a time: who of them is the first."""

import pytest

from supervisor.core.brake import Candidate
from supervisor.core.limits import GIB, MIB
from supervisor.core.model import WorkerName


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
