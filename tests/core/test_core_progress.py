"""How far a job is said to be, at what pace, and how long it took: over more than one attempt as well."""

from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.actions import Announce, MeasureMemory, SaveJob
from supervisor.core.decide import decide
from supervisor.core.model import Exit, Fleet, Job, JobId, JobStatus, Process, Reason, Worker, WorkerName, WorkerState
from supervisor.runtime.views import eta_s
from tests.support.world import World, usual_limits

LIMITS = usual_limits()
SAM, J = WorkerName("sam-0"), JobId("j-1")


def fleet(**fields: object) -> Fleet:
    """Return a fleet whose worker is at a job."""
    usual = Job(id=J, kind="sam.propagate", status=JobStatus.RUNNING, worker=SAM, attempt=1, sent_at_s=0.0, begun_at_s=0.0, started_wall=0.0)
    worker = Worker(name=SAM, model="sam", state=WorkerState.BUSY, generation=1, process=Process(spawned_at_s=0.0, ready_at_s=0.0), jobs=(J,))
    return Fleet(workers={SAM: worker}, jobs={J: replace(usual, **fields)})


def told(before: Fleet, now_s: float, done: float, total: float, phase: str = "train") -> Fleet:
    """Return the fleet after a beat of the job's attempt."""
    progress = ev.JobProgress(job=J, attempt=before.jobs[J].attempt, phase=phase, done=done, total=total)
    return decide(before, ev.BeatHeard(worker=SAM, generation=1, jobs=(progress,)), LIMITS, now_s).fleet


def test_the_pace_is_measured_anew_when_the_total_changes() -> None:
    """The look at a data set counts by a guess: 2 of 100 in 2 s. Then the training says where it goes on: 60 of 104."""
    seen = told(told(fleet(), 1.0, 0.5, 100, "check"), 3.0, 2, 100, "check")
    seen = told(seen, 10.0, 60, 104)

    at_the_start = eta_s(seen.jobs[J], 10.0)
    later = told(seen, 30.0, 62, 104)

    assert at_the_start is None, "58 of 100 in 7 s is not its pace"
    assert eta_s(later.jobs[J], 30.0) == 20.0 * 42 / 2


def test_an_attempt_stands_where_the_one_before_it_came_until_it_says_where_it_is() -> None:
    world = World()
    world.submit("j-1", "yolo.train")
    world.run(8)
    reached = world.fleet.jobs[J].progress
    world.post(0, ev.WorkerExited(worker=WorkerName("yolo-0"), generation=1, exit=Exit("code", 1)))
    while world.fleet.jobs[J].status is not JobStatus.PREPARING:
        world.run(world.now_s + 0.5)

    again = world.fleet.jobs[J]

    assert reached > 0
    assert (again.attempt, again.progress) == (2, reached)


def test_an_attempt_that_starts_over_says_so_with_its_first_progress() -> None:
    seen = told(fleet(attempt=2, done=30.0, total=100.0, reached=30.0, paced_from=None), 1.0, 1, 100)

    assert seen.jobs[J].progress == 1.0
    assert told(seen, 2.0, 0.5, 100).jobs[J].progress == 1.0, "within an attempt a bar never goes back"


def test_the_end_says_how_long_the_whole_took_and_how_long_its_last_attempt() -> None:
    def fields(before: Fleet) -> dict[str, object]:
        decision = decide(before, ev.JobFinished(worker=SAM, generation=1, job=J, attempt=before.jobs[J].attempt), LIMITS, 100.0)
        [said] = [then for action in decision.actions if isinstance(action, SaveJob) for then in action.then if isinstance(then, Announce)]
        return dict(said.fields)

    assert fields(fleet(begun_at_s=40.0, started_wall=40.0)) == {"kind": "sam.propagate", "took_s": 60.0}
    assert fields(fleet(attempt=3, begun_at_s=90.0, started_wall=40.0)) == {"kind": "sam.propagate", "took_s": 60.0, "attempt": 3, "last_attempt_s": 10.0}


def test_a_worker_that_gets_ready_is_measured_at_once() -> None:
    before = fleet(status=JobStatus.QUEUED, reason=Reason.HELD, worker=None)
    starting = replace(before.workers[SAM], state=WorkerState.STARTING, jobs=())

    decision = decide(replace(before, workers={SAM: starting}), ev.ReadyHeard(worker=SAM, generation=1), LIMITS, 1.0)

    assert MeasureMemory() in decision.actions
