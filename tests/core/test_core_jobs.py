"""The queue's order and ageing, and what becomes of a job when its worker ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.jobs import (
    BUDGET_OF_CAUSE,
    REASON_OF_CAUSE,
    after_worker_end,
    aged_priority,
    in_line,
    in_order,
    noun,
    place_of,
    rank,
    returned,
)
from supervisor.core.limits import JobLimits, Retries
from supervisor.core.model import PLANNED, Cause, DeviceId, Failure, Job, JobId, JobStatus, Reason, WorkerName

LIMITS = JobLimits(age_step_s=60, retries=Retries(crash=2, memory=1, lost=2, stall=0))
WHY = Failure(reason=Reason.WORKER_CRASH, message="exit code 1")


def job(name: str = "j-1", *, priority: int = 10, queued_at_s: float = 0.0, status: JobStatus = JobStatus.QUEUED) -> Job:
    return Job(id=JobId(name), kind="sam.propagate", priority=priority, queued_at_s=queued_at_s, status=status, max_attempts=6)


RUNNING = replace(job(status=JobStatus.RUNNING), worker=WorkerName("sam-0"), device=DeviceId("host"), attempt=1, sent_at_s=5.0, begun_at_s=6.0, phase="train")


@pytest.mark.parametrize(
    ("priority", "waited_s", "aged"), [(15, 0, 15), (15, 59.9, 15), (15, 60, 14), (15, 119.9, 14), (15, 300, 10), (15, 900, 0), (15, 1e9, 0), (0, 600, 0)]
)
def test_a_job_gains_a_level_each_age_step_and_never_passes_zero(priority: int, waited_s: float, aged: int) -> None:
    assert aged_priority(job(priority=priority), LIMITS, waited_s) == aged


def test_the_order_is_urgency_then_waiting_time_then_name() -> None:
    jobs = [job("d", queued_at_s=5), job("c", priority=0, queued_at_s=9), job("b", queued_at_s=1), job("a", queued_at_s=5), job("x", status=JobStatus.RUNNING)]

    for order in itertools.permutations(jobs):
        assert [found.id for found in in_order(order, LIMITS, 10.0)] == ["c", "b", "a", "d"]


QUEUES = st.lists(
    st.builds(
        replace,
        st.builds(job, st.sampled_from("abcdefgh"), priority=st.integers(0, 4), queued_at_s=st.sampled_from([0.0, 59.9, 60.0, 60.1, 120.0, 500.0])),
        status=st.sampled_from([JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.RUNNING]),
        held=st.booleans(),
        retry_at_s=st.sampled_from([0.0, 0.0, 700.0]),
        run_at_wall=st.sampled_from([None, None, 550.0, 650.0]),
    ),
    unique_by=lambda one: one.id,
)


@pytest.mark.slow
@given(QUEUES, st.sampled_from([500.0, 540.0, 559.9, 600.0, 1e6]))
def test_order_and_place_are_those_of_the_rank_of_each_job(jobs: list[Job], now_s: float) -> None:
    queued = [one for one in jobs if one.status is JobStatus.QUEUED]

    queue = in_line(jobs, LIMITS, now_s, 600.0)

    assert in_order(jobs, LIMITS, now_s) == sorted(queued, key=lambda one: rank(one, LIMITS, now_s))
    assert [place_of(one, jobs, LIMITS, now_s, 600.0) for one in jobs] == [queue.index(one) + 1 if one in queue else None for one in jobs]


def test_a_waiting_training_passes_every_newer_propagation_after_five_minutes() -> None:
    training = job("y", priority=15)

    assert [found.id for found in in_order([job("s", queued_at_s=299), training], LIMITS, 299.0)] == ["s", "y"]
    assert [found.id for found in in_order([job("s", queued_at_s=300), training], LIMITS, 300.0)] == ["y", "s"]


def test_a_job_that_goes_back_keeps_its_age_and_forgets_its_worker() -> None:
    back = returned(RUNNING, Reason.WAITING_FOR_WORKER, "why", 500.0, 1e9)

    assert (back.status, back.worker, back.device, back.sent_at_s, back.begun_at_s, back.phase) == (JobStatus.QUEUED, None, None, None, None, "")
    assert back.queued_at_s == 0.0
    assert back.attempt == 1


@pytest.mark.parametrize("cause", sorted(BUDGET_OF_CAUSE))
def test_each_cause_has_its_budget(cause: Cause) -> None:
    budget = BUDGET_OF_CAUSE[cause]
    current, failure, attempts = RUNNING, replace(WHY, reason=REASON_OF_CAUSE[cause]), 0
    while current.status is JobStatus.RUNNING:
        after = after_worker_end(current, cause, failure, LIMITS, 10.0, 1e9)
        attempts += 1
        current = replace(after, status=JobStatus.RUNNING, attempt=attempts + 1, sent_at_s=5.0) if after.live else after

    assert attempts == LIMITS.retries.for_cause(budget) + 1
    assert current.tries == {budget: attempts}
    assert current.error is not None
    assert current.reason is (Reason.POISON if cause is Cause.CRASH else REASON_OF_CAUSE[cause])


def test_every_unplanned_cause_has_a_budget_and_a_reason() -> None:
    assert set(BUDGET_OF_CAUSE) == set(REASON_OF_CAUSE) == set(Cause) - PLANNED


def test_budgets_of_different_causes_do_not_add_up() -> None:
    tried = replace(RUNNING, tries={"crash": 2, "lost": 2})

    assert after_worker_end(tried, Cause.MEMORY, WHY, LIMITS, 10.0, 1e9).status is JobStatus.QUEUED
    assert after_worker_end(tried, Cause.CRASH, WHY, LIMITS, 10.0, 1e9).status is JobStatus.FAILED


def test_max_attempts_bounds_all_budgets() -> None:
    last = replace(RUNNING, tries={"crash": 1, "lost": 2, "memory": 1, "stall": 1})

    ended = after_worker_end(last, Cause.CRASH, WHY, LIMITS, 10.0, 1e9)

    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.WORKER_CRASH)


def test_planned_returns_use_up_no_attempt() -> None:
    often = replace(RUNNING, attempt=40, max_attempts=2)

    once = after_worker_end(often, Cause.CRASH, WHY, LIMITS, 10.0, 1e9)
    twice = after_worker_end(replace(once, status=JobStatus.RUNNING, sent_at_s=5.0), Cause.CRASH, WHY, LIMITS, 10.0, 1e9)

    assert once.status is JobStatus.QUEUED
    assert twice.status is JobStatus.FAILED


def test_a_job_that_no_worker_ever_had_poisons_nothing() -> None:
    unsent = replace(RUNNING, status=JobStatus.PREPARING, sent_at_s=None, tries={"crash": 2})

    ended = after_worker_end(unsent, Cause.CRASH, WHY, LIMITS, 10.0, 1e9)

    assert ended.reason is Reason.WORKER_CRASH


def test_a_failed_job_keeps_the_phase_it_was_in() -> None:
    ended = after_worker_end(RUNNING, Cause.STALL, WHY, LIMITS, 10.0, 1e9)

    assert ended.error is not None
    assert ended.error.phase == "train"


@pytest.mark.parametrize(
    ("status", "done", "total", "percent"),
    [
        (JobStatus.RUNNING, 0, 0, 0.0),
        (JobStatus.RUNNING, 1, 3, 100 / 3),
        (JobStatus.RUNNING, 3, 3, 99.0),
        (JobStatus.CANCELLED, 3, 3, 99.0),
        (JobStatus.COMPLETED, 0, 0, 100.0),
    ],
)
def test_a_hundred_percent_comes_only_with_completed(status: JobStatus, done: float, total: float, percent: float) -> None:
    assert replace(RUNNING, status=status, done=done, total=total).progress == percent


@pytest.mark.parametrize(("kind", "word"), [("yolo.train", "Training"), ("sam.propagate", "Propagation"), ("sam.segment", "Job"), ("train", "Training")])
def test_a_kind_has_its_noun(kind: str, word: str) -> None:
    assert noun(kind) == word
