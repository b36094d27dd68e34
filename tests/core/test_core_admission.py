"""Whether the machine has the memory for one more job: what is known of its need, what others were promised, and what can never be had."""

from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.core import peaks
from supervisor.core.actions import Announce, SaveJob
from supervisor.core.admission import SMALL_BYTES, Estimate, Room, estimate, looked, never, promised, room_bytes, shortage
from supervisor.core.decide import decide
from supervisor.core.events import JobAccepted, JobEnded, MemoryMeasured, Tick
from supervisor.core.limits import GIB, MIB, Limits, MemoryLimits, WorkerSpec
from supervisor.core.model import (
    Fleet,
    Job,
    JobId,
    JobStatus,
    MemoryLooks,
    Peak,
    Process,
    Reason,
    Source,
    Work,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.turn import Turn

A, B = WorkerName("a-0"), WorkerName("b-0")
LIMITS = Limits(workers={name: WorkerSpec(command=(name,), serves=(f"{name}.work",), concurrency=2) for name in ("a", "b")})
PROCESS = Process(spawned_at_s=0.0, pid=7, ready_at_s=1.0)
NOW = 100.0


def worker(name: WorkerName, *jobs: Job, has_bytes: int | None = GIB, **fields: Any) -> Worker:
    """Return a worker that is up, with these jobs."""
    state = WorkerState.BUSY if jobs else WorkerState.READY
    return Worker(
        **{
            "name": name,
            "model": name[0],
            "state": state,
            "generation": 1,
            "process": PROCESS,
            "jobs": tuple(job.id for job in jobs),
            "memory_bytes": has_bytes,
            **fields,
        }
    )


def job(name: str, need_bytes: int = 0, source: Source = Source.DECLARED, **fields: Any) -> Job:
    """Return a job of a's; a queued one unless the fields say something else."""
    memory = {"memory_bytes": need_bytes, "memory_from": source if need_bytes else Source.NONE}
    return Job(**{"id": JobId(name), "kind": "a.work", "queued_at_s": NOW - 1, **memory, **fields})


def at_work(name: str, need_bytes: int = 0, source: Source = Source.DECLARED, **fields: Any) -> Job:
    """Return a job that runs."""
    return job(name, need_bytes, source, **{"status": JobStatus.RUNNING, "attempt": 1, "worker": A, "sent_at_s": 2.0, "begun_at_s": 3.0, **fields})


def fleet(*members: Worker | Job, available_bytes: int | None = 16 * GIB, **fields: Any) -> Fleet:
    """Return a machine of 32 GiB."""
    workers = {one.name: one for one in members if isinstance(one, Worker)}
    jobs = {one.id: one for one in members if isinstance(one, Job)}
    return Fleet(workers=workers, jobs=jobs, available_bytes=available_bytes, memory_bytes=32 * GIB, **fields)


# --- what is known of a need ---

SEEN = {Work("a a.work"): Peak(memory_bytes=5 * GIB), Work("a a.work batch=4"): Peak(seen_bytes=GIB)}


@pytest.mark.parametrize(
    ("one", "known"),
    [
        (job("j", 3 * GIB), Estimate(3 * GIB, Source.DECLARED)),
        (job("j", 3 * GIB, Source.COMPUTED), Estimate(3 * GIB, Source.COMPUTED)),
        (job("j", 3 * GIB, Source.OBSERVED), Estimate(5 * GIB, Source.OBSERVED)),
        (job("j"), Estimate(5 * GIB, Source.OBSERVED)),
        (job("j", params={"batch": 4}), Estimate()),
        (job("j", params={"batch": 8}), Estimate()),
    ],
    ids=["declared", "computed", "observed anew", "observed", "of a device alone", "other work"],
)
def test_who_submits_goes_before_the_worker_and_that_before_what_was_observed(one: Job, known: Estimate) -> None:
    assert estimate(fleet(peaks=SEEN), "a", one) == known


# --- what is promised, and what is left ---


@pytest.mark.parametrize(
    ("members", "sizes"),
    [
        ((worker(A, at_work("j-1", 5 * GIB), has_bytes=2 * GIB), at_work("j-1", 5 * GIB)), {A: 3 * GIB}),
        ((worker(A, at_work("j-1", 5 * GIB), has_bytes=6 * GIB), at_work("j-1", 5 * GIB)), {A: 0}),
        ((worker(A, at_work("j-1", 5 * GIB), has_bytes=None), at_work("j-1", 5 * GIB)), {A: 5 * GIB}),
        ((worker(A, at_work("j-1", 5 * GIB), process=None, state=WorkerState.DOWN), at_work("j-1", 5 * GIB)), {A: 5 * GIB}),
        ((worker(A, at_work("j-1")), at_work("j-1")), {}),
        ((worker(A, at_work("j-1", GIB), at_work("j-2", 2 * GIB)), at_work("j-1", GIB), at_work("j-2", 2 * GIB)), {A: 2 * GIB}),
        ((worker(A), job("j-1", 5 * GIB)), {}),
    ],
    ids=["grows", "has more", "not looked at", "not spawned", "nothing known", "two of one worker", "queued"],
)
def test_what_a_job_at_work_is_taken_to_need_is_promised_as_far_as_it_has_not_grown(members: tuple[Worker | Job, ...], sizes: dict[WorkerName, int]) -> None:
    assert promised(fleet(*members)) == sizes


FOUR = Estimate(4 * GIB, Source.DECLARED)


@pytest.mark.parametrize(
    ("who", "others", "more_bytes", "missing_bytes"),
    [
        (None, (), 4 * GIB, -8 * GIB),
        (worker(A), (), 3 * GIB, -9 * GIB),
        (worker(A, has_bytes=9 * GIB), (), 0, -12 * GIB),
        (None, (worker(B, at_work("j-1", 5 * GIB)), at_work("j-1", 5 * GIB)), 4 * GIB, -4 * GIB),
        (worker(A, at_work("j-1", 3 * GIB)), (worker(A, at_work("j-1", 3 * GIB)), at_work("j-1", 3 * GIB)), 4 * GIB, -6 * GIB),
        (worker(A, at_work("j-1", GIB), has_bytes=2 * GIB), (worker(A, at_work("j-1", GIB), has_bytes=2 * GIB), at_work("j-1", GIB)), 3 * GIB, -9 * GIB),
    ],
    ids=["alone", "its worker has some", "its worker has more", "beside a promise", "beside one of its worker", "beside one that is full grown"],
)
def test_the_need_is_held_against_what_is_available_over_the_line_and_promised_to_nobody(
    who: Worker | None, others: tuple[Worker | Job, ...], more_bytes: int, missing_bytes: int
) -> None:
    found = shortage(fleet(*others), LIMITS, FOUR, who)

    assert found is not None
    assert (found.more_bytes, found.missing_bytes) == (more_bytes, missing_bytes)


def test_what_a_worker_has_loaded_counts_once_for_all_the_jobs_that_it_does_at_the_same_time() -> None:
    loaded = replace(PROCESS, memory=MemoryLooks(first_bytes=3 * GIB))
    busy = worker(A, at_work("j-1", 4 * GIB), at_work("j-2", 4 * GIB), has_bytes=3 * GIB, process=loaded)
    around = fleet(busy, at_work("j-1", 4 * GIB), at_work("j-2", 4 * GIB))

    found = shortage(around, LIMITS, Estimate(4 * GIB, Source.DECLARED), busy)

    assert promised(around) == {A: 2 * GIB}
    assert found is not None
    assert found.more_bytes == GIB


def test_of_two_that_could_do_it_the_one_that_has_most_already_gets_it() -> None:
    limits = Limits(workers={"a": WorkerSpec(command=("a",), serves=("a.work",), replicas=2)}, memory=MemoryLimits(warn_below_bytes=4 * GIB))
    large = worker(WorkerName("a-1"), has_bytes=4 * GIB)
    around = fleet(worker(A), large, job("j-1", 5 * GIB), available_bytes=6 * GIB)

    after = decide(around, Tick(wall_s=NOW), limits, NOW).fleet

    assert after.jobs[JobId("j-1")].worker == large.name


def test_each_attempt_begins_to_be_measured_anew() -> None:
    failed = job("j-1", 0, memory_peak_bytes=20 * GIB, attempt=1)

    after = decide(fleet(worker(A), failed), Tick(wall_s=NOW), LIMITS, NOW).fleet

    assert (after.jobs[JobId("j-1")].worker, after.jobs[JobId("j-1")].memory_peak_bytes) == (A, 0)


def test_who_leaves_for_it_gives_back_what_it_has_and_is_promised_nothing_any_more() -> None:
    leaving = worker(B, at_work("j-1", 5 * GIB), has_bytes=2 * GIB)

    found = shortage(fleet(leaving, at_work("j-1", 5 * GIB)), LIMITS, FOUR, None, leaving=[leaving])

    assert found is not None
    assert (found.back_bytes, found.promised_bytes, found.missing_bytes) == (2 * GIB, 0, -10 * GIB)


@pytest.mark.parametrize("around", [fleet(available_bytes=None), fleet()], ids=["before the first reading", "no need known"])
def test_where_nobody_knows_enough_nothing_is_asked(around: Fleet) -> None:
    assert shortage(around, LIMITS, FOUR if around.available_bytes is None else Estimate(), None) is None


# --- one pass over the queue ---


def missing(around: Fleet, *jobs: Job, room: Room | None = None) -> tuple[list[str], list[str]]:
    """Return what jobs of a's worker hear one after the other, and what is announced."""
    turn = Turn(around, LIMITS, NOW)
    room = Room(turn)
    words = [room.missing(one, around.workers[A]) for one in jobs]
    return words, [action.event for action in turn.actions if isinstance(action, Announce)]


@pytest.mark.parametrize(
    ("available_bytes", "need_bytes", "words"),
    [
        (16 * GIB, 13 * GIB, ""),
        (16 * GIB, 13 * GIB + 1, "it needs 13GiB of the machine's memory (declared), and too little is available"),
        (3 * GIB, GIB + SMALL_BYTES - 1, ""),
        (3 * GIB, GIB + SMALL_BYTES, "it needs 1.25GiB of the machine's memory (declared), and too little is available"),
    ],
    ids=["all there is", "a byte more", "a little below the line", "not so little"],
)
def test_a_job_begins_where_the_line_is_kept_or_it_takes_little(available_bytes: int, need_bytes: int, words: str) -> None:
    limits = replace(LIMITS, memory=MemoryLimits(worker_limit_bytes=0))
    around = fleet(worker(A), available_bytes=available_bytes)

    assert Room(Turn(around, limits, NOW)).missing(job("j", need_bytes), around.workers[A]) == words


def test_one_that_waits_for_a_while_keeps_nobody_waiting_and_one_that_has_for_long_does() -> None:
    large, small, old = job("j-1", 7 * GIB), job("j-2", 3 * GIB), job("j-1", 7 * GIB, queued_at_s=NOW - 1200)
    around = fleet(worker(A), worker(B, at_work("j-0")), at_work("j-0"), available_bytes=8 * GIB)

    assert [bool(words) for words in missing(around, large, small)[0]] == [True, False]
    assert [bool(words) for words in missing(around, old, small)[0]] == [True, True]
    assert [bool(words) for words in missing(around, old, job("j-3"))[0]] == [True, False]


def test_one_that_can_never_begin_says_so_and_keeps_nothing_from_anybody() -> None:
    words, _ = missing(fleet(worker(A), available_bytes=8 * GIB), job("j-1", 9 * GIB, queued_at_s=NOW - 1200), job("j-2", 3 * GIB))

    assert words == [
        "it needs 9GiB of the machine's memory (declared), and memory.worker_limit is 8GiB: its worker would be ended for it; raise memory.worker_limit",
        "",
    ]


def test_what_was_only_observed_holds_up_nobody_who_is_alone() -> None:
    known, one = {Work("a a.work"): Peak(memory_bytes=7 * GIB)}, job("j-1")
    others = (worker(B, at_work("j-0")), at_work("j-0"))

    assert missing(fleet(worker(A), peaks=known, available_bytes=5 * GIB), one)[0] == [""]
    assert missing(fleet(worker(A), *others, peaks=known, available_bytes=5 * GIB), one)[0] != [""]
    declared = job("j-2", 7 * GIB, queued_at_s=NOW - 1200)
    assert missing(fleet(worker(A), peaks=known, available_bytes=5 * GIB), declared, one)[0][1] == "", "no end of ours could help the one before it"
    assert all(missing(fleet(worker(A), *others, peaks=known, available_bytes=5 * GIB), declared, one)[0]), "one before it has waited for too long"


def test_that_it_waits_is_said_once_and_that_it_goes_on_too() -> None:
    around = fleet(worker(A), available_bytes=8 * GIB)
    waiting = job("j-1", 7 * GIB, reason=Reason.WAITING_FOR_MEMORY)

    assert missing(around, job("j-1", 7 * GIB))[1] == ["job_waiting"]
    assert missing(around, waiting)[1] == []
    assert missing(replace(around, available_bytes=12 * GIB), waiting)[1] == ["job_admitted"]
    assert missing(replace(around, available_bytes=12 * GIB), job("j-1", 7 * GIB))[1] == []


# --- what can never be had ---


@pytest.mark.parametrize(
    ("limits", "total_bytes", "need_bytes", "words"),
    [
        (MemoryLimits(), 32 * GIB, 8 * GIB, ""),
        (MemoryLimits(), 0, 8 * GIB + 1, "memory.worker_limit is 8GiB"),
        (MemoryLimits(worker_limit_bytes=0), 32 * GIB, 28 * GIB, ""),
        (MemoryLimits(worker_limit_bytes=0), 32 * GIB, 28 * GIB + 1, "this machine has 32GiB, of which 4GiB stay free (memory.warn_below): 28GiB at the most"),
        (MemoryLimits(worker_limit_bytes=0), 8 * GIB, 7 * GIB, "this machine has 8GiB, of which 2GiB stay free (memory.warn_below): 6GiB at the most"),
        (MemoryLimits(worker_limit_bytes=0, warn_below_bytes=0), 8 * GIB, 8 * GIB, ""),
        (MemoryLimits(worker_limit_bytes=0), 0, 900 * GIB, ""),
        (MemoryLimits(warn_below_bytes=64 * GIB), 32 * GIB, 0, ""),
    ],
    ids=[
        "the limit",
        "over the limit",
        "all but the line",
        "over the line",
        "a small machine",
        "no line",
        "size not known",
        "nothing known, and a line over all there is",
    ],
)
def test_what_can_never_be_had_is_refused_with_the_numbers(limits: MemoryLimits, total_bytes: int, need_bytes: int, words: str) -> None:
    found = never(Limits(memory=limits), total_bytes, Estimate(need_bytes, Source.DECLARED))

    assert words in found
    assert bool(found) is bool(words)


# --- what a worker reckons ---


@pytest.mark.parametrize(
    ("one", "available_bytes", "room"),
    [
        (at_work("j-1"), 16 * GIB, 7 * GIB),
        (at_work("j-1", 3 * GIB, Source.OBSERVED), 16 * GIB, 7 * GIB),
        (at_work("j-1"), 5 * GIB, SMALL_BYTES),
        (at_work("j-1"), None, None),
        (at_work("j-1", GIB), 16 * GIB, None),
        (at_work("j-1", GIB, Source.COMPUTED), 16 * GIB, None),
    ],
    ids=["nothing known", "observed", "no room but a little", "not read yet", "declared", "reckoned before"],
)
def test_a_worker_is_told_its_room_where_it_is_to_reckon(one: Job, available_bytes: int | None, room: int | None) -> None:
    other = at_work("j-2", 6 * GIB, worker=B)
    around = fleet(worker(A, one), one, worker(B, other), other, available_bytes=available_bytes)

    assert room_bytes(Turn(around, LIMITS, NOW), around.workers[A], one) == room


def given(**fields: Any) -> Fleet:
    """Return a fleet whose worker was sent a job that it has not begun."""
    sent = at_work("j-1", **{"status": JobStatus.PREPARING, "begun_at_s": None, "max_attempts": 3, **fields})
    return fleet(worker(A, sent), sent)


def test_what_the_worker_reckons_as_it_begins_is_promised() -> None:
    after = decide(given(), JobAccepted(worker=A, generation=1, job=JobId("j-1"), attempt=1, memory_bytes=5 * GIB), LIMITS, NOW).fleet

    assert (after.jobs[JobId("j-1")].memory_bytes, after.jobs[JobId("j-1")].memory_from) == (5 * GIB, Source.COMPUTED)
    assert promised(after) == {A: 4 * GIB}


def test_a_worker_that_says_the_same_again_and_again_ends_the_job_and_does_not_go_round_for_ever() -> None:
    ended = JobEnded(worker=A, generation=1, job=JobId("j-1"), attempt=1, reason="needs_memory", memory_bytes=5 * GIB)

    known = decide(given(memory_bytes=5 * GIB, memory_from=Source.COMPUTED), ended, LIMITS, NOW)
    nothing = decide(given(), replace(ended, memory_bytes=0), LIMITS, NOW)

    for decision in (known, nothing):
        saved = [action.job for action in decision.actions if isinstance(action, SaveJob)]
        assert [(one.status, one.reason) for one in saved] == [(JobStatus.FAILED, Reason.USER_ERROR)]


# --- what is observed ---


def test_the_most_that_one_job_alone_had_is_kept_and_learned_when_it_ended_well() -> None:
    one = at_work("j-1")
    turn = Turn(fleet(worker(A, one, has_bytes=3 * GIB), one), LIMITS, NOW)

    looked(turn)
    seen = turn.fleet.jobs[one.id]
    turn.put_worker(worker(A, one, has_bytes=2 * GIB))
    looked(turn)
    peaks.ended_well(turn, turn.fleet.workers[A], turn.fleet.jobs[one.id])
    peaks.ended_well(turn, turn.fleet.workers[A], replace(seen, memory_peak_bytes=3 * GIB + MIB))

    assert seen.memory_peak_bytes == 3 * GIB
    assert turn.fleet.peaks == {Work("a a.work"): Peak(memory_bytes=3 * GIB)}


@pytest.mark.parametrize("jobs", [(at_work("j-1"), at_work("j-2")), (at_work("j-1", begun_at_s=None),)], ids=["two at once", "not begun"])
def test_what_cannot_be_told_apart_teaches_nothing(jobs: tuple[Job, ...]) -> None:
    turn = Turn(fleet(worker(A, *jobs, has_bytes=3 * GIB), *jobs), LIMITS, NOW)

    looked(turn)

    assert turn.fleet.jobs == {one.id: one for one in jobs}


def test_a_look_is_what_is_learned_from() -> None:
    one = at_work("j-1")
    look = MemoryMeasured(workers={A: 6 * GIB}, available_bytes=16 * GIB, total_bytes=32 * GIB)

    assert decide(fleet(worker(A, one), one), look, LIMITS, NOW).fleet.jobs[one.id].memory_peak_bytes == 6 * GIB
