"""Who can be a member of a tree: pids are given out in a circle, and only those since the leader's are looked at."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.adapters import proc

LAST = Path("/proc/loadavg")


@pytest.fixture
def child() -> Iterator[tuple[int, int]]:
    """A process of ours, and how many had been born before it."""
    before = proc.forks()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process.pid, before
        process.kill()


def test_births_are_counted() -> None:
    before = proc.forks()

    subprocess.run(["true"], check=True)

    assert before > 0
    assert proc.forks() > before


def test_only_those_are_looked_at_who_were_born_since_the_leader(child: tuple[int, int]) -> None:
    pid, before = child
    seen = proc.look(pid)
    assert seen is not None
    tree = proc.Tree(pid, seen.start_ticks, "", {}, before)

    looked_at = set(proc._since(proc._pids(), [tree]))

    assert pid in looked_at
    assert os.getppid() not in looked_at
    assert [seen.pid for seen in proc.trees([tree])[0]] == [pid]


def test_a_pid_that_was_never_given_out_yet_is_nobodys(child: tuple[int, int]) -> None:
    pid, before = child
    last = int(LAST.read_text().split()[-1])

    assert set(proc._since([1, pid, last + 10_000], [proc.Tree(pid, 0, "", {}, before)])) == {pid}


def test_past_the_end_of_the_circle_it_goes_on_from_its_beginning(child: tuple[int, int]) -> None:
    pid, before = child
    ahead = int(LAST.read_text().split()[-1]) + 5_000  # a leader with such a number was born before the circle ended

    looked_at = set(proc._since([1, pid, ahead - 1, ahead, ahead + 1], [proc.Tree(ahead, 0, "", {}, before), proc.Tree(pid, 0, "", {}, before)]))

    assert looked_at == {1, pid, ahead, ahead + 1}


@pytest.mark.parametrize("unknown", ["leader", "count", "a later boot", "a whole circle"])
def test_where_that_cannot_be_known_everybody_is_looked_at(child: tuple[int, int], unknown: str) -> None:
    pid, before = child
    tree = {
        "leader": proc.Tree(0, 0, "", {}, before),
        "count": proc.Tree(pid, 0, "", {}, 0),
        "a later boot": proc.Tree(pid, 0, "", {}, before + 10_000_000),
        "a whole circle": proc.Tree(pid, 0, "", {}, before - int(Path("/proc/sys/kernel/pid_max").read_text())),
    }[unknown]

    assert list(proc._since([1, pid], [proc.Tree(pid, 0, "", {}, before), tree])) == [1, pid]
