"""When a worker tells what its jobs do, with the clock put in by hand."""

from pathlib import Path
from typing import Any

import pytest

from workers.beats import BEAT_CHANGED_S, BEAT_IDLE_S, Beats, Identity
from workers.report import Job, Report

IDENTITY = Identity(endpoint="", worker="sam-0", generation=3, token="secret")


class Watched:
    """One report, the beats about it, and when its changes woke the thread."""

    def __init__(self, folder: Path) -> None:
        self.report = Report(Job(id="j-1", attempt=1, kind="demo.count", params={}, dir=folder))
        self.beats = Beats(IDENTITY, lambda: 7)
        self.woken = 0
        self.report.listen(self.wake)

    def wake(self) -> None:
        self.woken += 1

    def look(self, now_s: float) -> Any:
        """Return what of the job is told now: how much is done, or None for no beat."""
        beat = self.beats.due((self.report,), now_s)
        return None if beat is None else beat.jobs[0].done


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    one = Watched(tmp_path)
    assert one.look(0.0) == 0.0
    return one


def test_nothing_that_changes_is_told_once_a_second(watched: Watched) -> None:
    looks = [watched.look(quarter / 4) for quarter in range(1, 9)]

    assert looks == [None, None, None, 0.0, None, None, None, 0.0]


def test_a_change_after_a_rest_wakes_and_is_told_at_once(watched: Watched) -> None:
    assert watched.look(0.25) is None

    watched.report.progress(1, 9)

    assert watched.woken == 1
    assert watched.look(0.26) == 1.0


def test_a_change_soon_after_a_beat_wakes_nobody_and_is_told_when_the_rest_is_over(watched: Watched) -> None:
    watched.report.progress(1, 9)

    assert watched.woken == 0
    assert watched.look(0.1) is None
    assert watched.beats.wait_s(0.1) == pytest.approx(0.15)
    assert watched.look(0.25) == 1.0


def test_fast_work_is_told_four_times_a_second_and_wakes_no_more_often(watched: Watched) -> None:
    told = []
    for millisecond in range(1, 2001):
        watched.report.progress(millisecond, 2000)
        told.append(watched.look(millisecond / 1000))

    assert len([one for one in told if one is not None]) == 2 / BEAT_CHANGED_S
    assert told[-1] == 2000.0
    assert watched.woken == 0


def test_work_that_says_the_same_again_and_again_wakes_at_most_four_times_a_second(watched: Watched) -> None:
    for millisecond in range(1, 4001):
        watched.report.progress(0, 9)
        watched.look(millisecond / 1000)

    assert watched.woken <= 4 / BEAT_CHANGED_S


def test_a_change_between_the_look_and_the_sleep_is_not_lost(watched: Watched) -> None:
    assert watched.look(0.25) is None
    watched.report.progress(1, 9)  # the thread is about to sleep

    assert watched.woken == 1, "its sleep ends at once"
    assert watched.look(0.25) == 1.0


def test_it_sleeps_until_the_next_beat_is_due(watched: Watched) -> None:
    assert watched.look(0.25) is None

    assert watched.beats.wait_s(0.25) == pytest.approx(BEAT_IDLE_S - 0.25)
    assert watched.beats.wait_s(9.0) == 0.0


def test_a_thread_that_was_held_up_past_the_rest_looks_before_it_sleeps(watched: Watched) -> None:
    watched.report.progress(1, 9)

    assert watched.beats.wait_s(0.5) == 0.0
    assert watched.look(0.5) == 1.0


def test_a_job_that_comes_or_goes_is_told(watched: Watched, tmp_path: Path) -> None:
    other = Report(Job(id="j-2", attempt=1, kind="demo.count", params={}, dir=tmp_path))

    both = watched.beats.due((watched.report, other), 0.3)
    none = watched.beats.due((), 0.6)

    assert both is not None
    assert [job.job for job in both.jobs] == ["j-1", "j-2"]
    assert none is not None
    assert (none.jobs, none.seq, none.device_bytes) == ((), 3, 7)
