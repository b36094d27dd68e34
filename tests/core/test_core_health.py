"""The clocks: which are armed in which state, and both edges of every limit."""

import pytest
from msgspec.structs import replace

from supervisor.core.health import CANCEL_GRACE_S, EXTEND_MAX_S, clocks, job_sentence, judge
from supervisor.core.jobs import RELEASING
from supervisor.core.limits import Watchdog, WorkerSpec
from supervisor.core.model import Cause, Job, JobId, JobStatus, Process, Worker, WorkerName, WorkerState

SPEC = WorkerSpec(command=("x",), phases={"validate": 1800.0}, watchdog=Watchdog(start_timeout_s=300, silent_after_s=60, stall_after_s=600, critical_max_s=30))
J = JobId("j-1")
EDGE_S = 0.001


def worker(state: WorkerState, *, beat_at_s: float | None = None, spawned_at_s: float = 100.0, jobs: tuple[JobId, ...] = ()) -> Worker:
    return Worker(name=WorkerName("sam-0"), model="sam", state=state, jobs=jobs, process=Process(spawned_at_s=spawned_at_s, beat_at_s=beat_at_s))


def job(status: JobStatus = JobStatus.RUNNING, *, critical: str = "", phase: str = "train", **at_s: float) -> Job:
    return Job(id=J, kind="yolo.train", status=status, phase=phase, critical=critical, done=3, total=10, **at_s)  # type: ignore[arg-type]


BUSY, READY, STARTING = WorkerState.BUSY, WorkerState.READY, WorkerState.STARTING
FRESH = 1e6
EDGES = [
    ("not ready past start_timeout", worker(STARTING), None, 400.0, Cause.START_TIMEOUT, "not ready 300.0 s after its start, start_timeout is 300 s"),
    ("silent while it starts", worker(STARTING, beat_at_s=100.0), None, 160.0, Cause.SILENT, "no heartbeat for 60.0 s, silent_after is 60 s"),
    ("silent with nothing to do", worker(READY, beat_at_s=100.0), None, 160.0, Cause.SILENT, "no heartbeat for 60.0 s"),
    ("silent at work", worker(BUSY, beat_at_s=100.0, jobs=(J,)), job(progress_at_s=FRESH), 160.0, Cause.SILENT, "no heartbeat for 60.0 s"),
    ("silent while it drains", worker(WorkerState.DRAINING, beat_at_s=100.0), None, 160.0, Cause.SILENT, "no heartbeat"),
    ("stalled", worker(BUSY, beat_at_s=FRESH, jobs=(J,)), job(progress_at_s=100.0), 700.0, Cause.STALL, "stall_after is 600 s, phase train at 3 of 10"),
    ("never begun", worker(BUSY, jobs=(J,)), job(JobStatus.PREPARING, phase="", sent_at_s=100.0), 700.0, Cause.STALL, "phase ? at 3 of 10"),
    (
        "stalled in a critical section",
        worker(BUSY, jobs=(J,)),
        job(progress_at_s=100.0, critical="saving"),
        730.0,
        Cause.STALL,
        "and 30 s more for its critical",
    ),
    (
        "stalled past an extension",
        worker(BUSY, jobs=(J,)),
        job(progress_at_s=100.0, extend_until_s=900.0),
        900.0,
        Cause.STALL,
        "stall_after is 600 s and 200 s more that it asked for",
    ),
    (
        "an extension has an end",
        worker(BUSY, jobs=(J,)),
        job(progress_at_s=100.0, extend_until_s=FRESH),
        700.0 + EXTEND_MAX_S,
        Cause.STALL,
        "and 3600 s more that it asked for",
    ),
    (
        "stalled in a phase with its own limit",
        worker(BUSY, jobs=(J,)),
        job(progress_at_s=100.0, phase="validate"),
        1900.0,
        Cause.STALL,
        'phases."validate" is 1800 s, phase validate at 3 of 10',
    ),
    ("cancel ignored", worker(BUSY, jobs=(J,)), job(JobStatus.CANCELLING, cancel_at_s=100.0), 110.0, Cause.CANCEL, "did not stop within 10 s of the cancel"),
    (
        "cancel in a critical section",
        worker(BUSY, jobs=(J,)),
        job(JobStatus.CANCELLING, cancel_at_s=100.0, critical="saving"),
        140.0,
        Cause.CANCEL,
        "of the cancel and 30 s more for its critical section",
    ),
]


@pytest.mark.parametrize(("what", "who", "at_work", "limit_at_s", "cause", "words"), EDGES, ids=[edge[0] for edge in EDGES])
def test_a_clock_expires_just_past_its_limit(  # noqa: PLR0917  # a row of the table
    what: str, who: Worker, at_work: Job | None, limit_at_s: float, cause: Cause, words: str
) -> None:
    jobs = {J: at_work} if at_work else {}

    before = judge(who, jobs, SPEC, limit_at_s - EDGE_S)
    at = judge(who, jobs, SPEC, limit_at_s)
    after = judge(who, jobs, SPEC, limit_at_s + EDGE_S)

    assert before is None
    assert at is None
    assert after is not None
    assert (after.cause, after.job) == (cause, J if cause in {Cause.STALL, Cause.CANCEL} else None)
    assert words in after.sentence


UNTOUCHED = [
    ("queued", job(JobStatus.QUEUED)),
    ("preparing, not sent", job(JobStatus.PREPARING)),
    ("paused", job(JobStatus.PAUSED, progress_at_s=100.0)),
    ("cancelled, its memory being read", job(JobStatus.CANCELLING, phase=RELEASING, cancel_at_s=100.0)),
    ("ended", job(JobStatus.COMPLETED, progress_at_s=100.0)),
]


@pytest.mark.parametrize(("what", "at_work"), UNTOUCHED, ids=[row[0] for row in UNTOUCHED])
def test_a_job_that_does_not_run_has_no_clock(what: str, at_work: Job) -> None:
    assert clocks(worker(BUSY, jobs=(J,)), {J: at_work}, SPEC) == ()


def test_a_job_that_is_not_in_the_fleet_has_no_clock() -> None:
    assert clocks(worker(BUSY, jobs=(J,)), {}, SPEC) == ()


@pytest.mark.parametrize("state", sorted(set(WorkerState) - {STARTING, READY, BUSY, WorkerState.DRAINING}))
def test_a_worker_on_its_way_out_or_without_a_process_has_no_clock(state: WorkerState) -> None:
    assert clocks(worker(state, beat_at_s=0.0), {}, SPEC) == ()


def test_a_worker_whose_process_is_gone_has_no_clock() -> None:
    assert clocks(Worker(name=WorkerName("sam-0"), model="sam", state=READY), {}, SPEC) == ()


PROGRAMS = [
    ("none has no clock", "none", Process(spawned_at_s=0.0, ready_at_s=100.0), None),
    ("output from ready on", "output", Process(spawned_at_s=0.0, ready_at_s=100.0), 700.0),
    ("output from its last line on", "output", Process(spawned_at_s=0.0, ready_at_s=100.0, shown_at_s=300.0), 900.0),
    ("output that asked for time", "output", Process(spawned_at_s=0.0, ready_at_s=100.0, extend_until_s=800.0), 800.0),
    ("a file from ready on", "file:/x", Process(spawned_at_s=0.0, ready_at_s=100.0), 700.0),
    ("notify only once it showed some", "notify", Process(spawned_at_s=0.0, ready_at_s=100.0), None),
    ("notify from what it showed on", "notify", Process(spawned_at_s=0.0, ready_at_s=100.0, shown_at_s=150.0), 750.0),
]


@pytest.mark.parametrize(("what", "progress", "process", "due_s"), PROGRAMS, ids=[row[0] for row in PROGRAMS])
def test_a_program_without_the_sdk_is_stalled_by_what_it_shows(what: str, progress: str, process: Process, due_s: float | None) -> None:
    who, spec = replace(worker(READY), process=process), replace(SPEC, progress=progress)

    assert [clock.armed_at_s + clock.limit_s + clock.extra_s for clock in clocks(who, {}, spec)] == ([] if due_s is None else [due_s])


def test_the_verdict_names_the_limit_that_was_passed() -> None:
    verdict = judge(worker(BUSY, jobs=(J,)), {J: job(progress_at_s=0.0, phase="validate")}, SPEC, 1801.0)

    assert verdict is not None
    assert verdict.limit_s == 1800.0


def test_the_clock_that_expired_first_gives_the_verdict() -> None:
    who = worker(BUSY, beat_at_s=100.0, jobs=(J,))

    stalled_longer = judge(who, {J: job(progress_at_s=-600.0)}, SPEC, 200.0)
    silent_longer = judge(who, {J: job(progress_at_s=-400.5)}, SPEC, 200.0)

    assert stalled_longer is not None
    assert stalled_longer.cause is Cause.STALL
    assert silent_longer is not None
    assert silent_longer.cause is Cause.SILENT


def test_the_grace_of_a_cancel_is_ten_seconds() -> None:
    assert CANCEL_GRACE_S == 10.0


@pytest.mark.parametrize(
    ("cause", "kind", "sentence"),
    [
        (Cause.STALL, "yolo.train", "Training timed out - no progress updates for 10 minutes"),
        (Cause.STALL, "sam.propagate", "Propagation timed out - no progress updates for 10 minutes"),
        (Cause.STALL, "sam.segment", "Job timed out - no progress updates for 10 minutes"),
        (Cause.SILENT, "yolo.train", "Training ended - its worker sent no heartbeat for 10 minutes"),
        (Cause.START_TIMEOUT, "yolo.train", "Training ended - its worker was not ready within 10 minutes"),
    ],
)
def test_the_owner_of_a_job_reads_a_sentence(cause: Cause, kind: str, sentence: str) -> None:
    assert job_sentence(cause, Job(id=J, kind=kind), "10 minutes") == sentence
