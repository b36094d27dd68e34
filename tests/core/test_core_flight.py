"""The record of a worker's last minute goes with the job that it ended under, also where that is tried again; a planned end leaves none."""

import pytest
from msgspec.structs import replace

from supervisor.core.decide import decide
from supervisor.core.events import AnyEvent, JobEnded, TreeGone, WorkerExited
from supervisor.core.limits import Limits
from supervisor.core.model import Exit, Fleet, FlightSample, Job, JobId, JobStatus, WorkerName
from tests.support.world import World, usual_limits

SAM, JOB = WorkerName("sam-0"), JobId("j-1")
RECORD = (FlightSample(at_wall=1.0, rss_bytes=10), FlightSample(at_wall=2.0, rss_bytes=20))


def _at_work() -> tuple[Fleet, Limits, int]:
    world = World(usual_limits())
    world.run(5)
    world.submit("j-1", "sam.propagate")
    world.run(8)
    assert world.fleet.jobs[JOB].status is JobStatus.RUNNING
    return world.fleet, world.limits, world.fleet.workers[SAM].generation


def _after(fleet: Fleet, limits: Limits, *events: AnyEvent) -> Job | None:
    for event in events:
        fleet = decide(fleet, event, limits, 9.0).fleet
    return fleet.jobs.get(JOB)


def test_a_crash_leaves_its_record_with_the_job_that_is_tried_again() -> None:
    fleet, limits, generation = _at_work()

    job = _after(
        fleet,
        limits,
        WorkerExited(worker=SAM, generation=generation, exit=Exit("signal", 9)),
        TreeGone(worker=SAM, generation=generation, flight=RECORD),
    )

    assert job is not None
    assert (job.status, job.flight) == (JobStatus.QUEUED, RECORD)


@pytest.mark.parametrize("flight", [RECORD, ()])
def test_a_job_that_ended_for_want_of_memory_has_what_came_with_its_end(flight: tuple[FlightSample, ...]) -> None:
    fleet, limits, generation = _at_work()
    limits = replace(limits, jobs=replace(limits.jobs, retries=replace(limits.jobs.retries, memory=1)))

    job = _after(fleet, limits, JobEnded(worker=SAM, generation=generation, job=JOB, attempt=1, reason="memory_emergency", error="full", flight=flight))

    assert job is not None
    assert job.flight == flight
