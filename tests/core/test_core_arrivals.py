"""A job that joins a queue hears what a look at the whole queue would tell it, at a cost that the queue's length does not change."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.decide import decide
from supervisor.core.model import Fleet, JobId, JobStatus
from supervisor.core.settle import settle
from supervisor.core.turn import Turn
from tests.support.world import World, usual_limits

KINDS = ("sam.segment", "sam.propagate", "yolo.train")
LIMITS = usual_limits()
JOBS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from((None, 0, 20)), st.sampled_from((0.0, 0.1, 7.0))), min_size=1, max_size=12)


@given(submitted=JOBS, max_running=st.sampled_from((1, 2, 4)), held=st.booleans())
def test_it_hears_what_the_whole_queue_would_tell_it(submitted: list[tuple[str, int | None, float]], max_running: int, held: bool) -> None:
    limits = replace(LIMITS, jobs=replace(LIMITS.jobs, max_running=max_running))
    world = World(limits=limits)
    told: list[tuple[Fleet, JobId, float]] = []

    def watch(_before: Fleet, event: ev.AnyEvent, after: Fleet) -> None:
        if isinstance(event, ev.JobStored):
            told.append((after, event.job, world.now_s))

    world.watch = watch
    world.run(3)
    if held:
        world.post(0, ev.HoldChanged(request="hold", held=True))
    for number, (kind, priority, pause_s) in enumerate(submitted):
        world.submit(f"j-{number}", kind, priority=priority)
        world.run(world.now_s + pause_s)
    world.run(world.now_s + 1)

    assert len(told) == len(submitted)
    for fleet, name, now_s in told:
        turn = Turn(fleet, limits, now_s)
        settle(turn)
        after = turn.end().fleet.jobs[name]
        assert (fleet.jobs[name].status, fleet.jobs[name].reason, fleet.jobs[name].message) == (after.status, after.reason, after.message)


def test_behind_two_of_its_kind_the_queue_is_not_looked_through() -> None:
    world = World(limits=replace(LIMITS, jobs=replace(LIMITS.jobs, max_running=1)))
    world.run(3)
    for number in range(4):
        world.submit(f"j-{number}", "sam.segment")
        world.run(world.now_s + 0.1)
    queued = [job for job in world.fleet.jobs.values() if job.status is JobStatus.QUEUED]
    arriving = replace(queued[0], id=type(queued[0].id)("j-new"), message="", queued_at_s=world.now_s)
    fleet = replace(world.fleet, arriving={arriving.id: arriving}, workers=_Untouchable(world.fleet.workers))

    after = decide(fleet, ev.JobStored(job=arriving.id), world.limits, world.now_s).fleet

    assert after.jobs[arriving.id].message == queued[-1].message != ""


class _Untouchable(dict[Any, Any]):
    """Workers that nobody may look at."""

    def values(self) -> Any:
        raise AssertionError("the workers were looked at")

    def items(self) -> Any:
        raise AssertionError("the workers were looked at")
