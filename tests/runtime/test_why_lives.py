"""Every job of every incident is asked why after each decision: there is always an answer, and never an empty, unknown or impossible one."""

import re
from pathlib import Path

import pytest

from supervisor.core.decide import decide
from supervisor.core.model import Job, JobStatus, Reason
from supervisor.runtime.why import why_view
from supervisor.shapes import WhyView
from tests.support.script import INCIDENTS, Script, parts
from tests.support.world import WALL_S

NONSENSE = re.compile(r"\bNone\b|\bnan\b|\binf\b|-\d+(\.\d)? (s|min|h)\b|<|Reason\.|JobStatus\.")


def wrong(view: WhyView, job: Job) -> list[str]:
    """Return what is wrong with an answer."""
    found = [sentence for sentence in view.sentences if not sentence or NONSENSE.search(sentence)]
    if not view.sentences or not view.sentences[0].startswith(job.id):
        found.append(f"the story does not begin with the job: {view.sentences}")
    if (view.wait is not None) != (job.status is JobStatus.QUEUED):
        found.append("the numbers of a wait belong to a job that waits")
    resting = view.reason in {Reason.HELD, Reason.SCHEDULED, Reason.RETRY_BACKOFF}
    if view.wait is not None and (view.wait.waited_s < 0 or (view.wait.position is None and not resting)):
        found.append(f"a wait that cannot be: {view.wait}")
    return found


@pytest.mark.parametrize("path", sorted(INCIDENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_there_is_always_an_answer(path: Path) -> None:
    script = Script(parts(path)[0])
    script.play()
    world = script.world
    fleet, problems = world.first, list[str]()

    for event, now_s, limits in world.journal:
        before = fleet
        fleet = decide(fleet, event, limits, now_s).fleet
        if fleet is not before:
            for job in fleet.jobs.values():
                problems += wrong(why_view(job, fleet=fleet, limits=limits, now_s=now_s, wall_s=WALL_S + now_s), job)
    for job in (job for job in world.disk.jobs.values() if not job.live):
        problems += wrong(why_view(job, fleet=fleet, limits=world.limits, now_s=world.now_s, wall_s=WALL_S + world.now_s), job)

    assert problems == []
