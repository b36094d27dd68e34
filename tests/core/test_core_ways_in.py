"""Who comes for the device finds SAM in any state, by any way in; and however its time with the device ends, SAM is back. All in virtual time."""

from collections.abc import Iterable
from typing import Final

import pytest

from supervisor.core.model import JobId, JobStatus, WorkerName, WorkerState
from tests.support.script import Script
from tests.support.world import World

SAM: Final = WorkerName("sam-0")
END_S: Final = 300

STATES: Final[dict[str, tuple[float, list[str]]]] = {
    "down": (8, ["@3 down sam-0"]),
    "starting": (5, ["@0.05 switch sam-0 load_s=60s", "@6 switch sam-0 load_s=1s"]),
    "ready": (5, []),
    "busy": (5, ["@2 submit j-0 sam.propagate"]),
    "draining": (5, ["@1 switch sam-0 exit_s=5s", "@4 recycle sam-0"]),
    "stopping": (33, ["@1 switch sam-0 ignores_drain=yes exit_s=5s", "@2 restart sam-0"]),
    "exited": (5.01, ["@1 switch sam-0 exit_s=0s", "@5 recycle sam-0"]),
    "backoff": (2.6, ["@0.05 switch sam-0 crash_in_load=yes", "@8 switch sam-0 crash_in_load=no"]),
    "quarantined": (20, ["worker sam quarantine_after=3 backoff_max=60s", "@0.05 switch sam-0 crash_in_load=yes", "@60 switch sam-0 crash_in_load=no"]),
    "unkillable": (90, ["worker sam stall_after=30s", "@1 switch sam-0 stalls_at=3 unkillable=yes", "@5 submit j-0 sam.propagate", "@95 crash sam-0"]),
}
"""For each state of SAM: when it is in it, and what brings it there; those that never end by themselves are ended later."""

WAYS: Final[dict[str, list[str]]] = {
    "a job that is submitted": ["@{at} submit j-1 yolo.train"],
    "a job that was held is started": ["@0.1 submit j-1 yolo.train held=1", "@{at} start j-1"],
    "a job that was paused is resumed": ["@0.1 hold", "@0.2 submit j-1 yolo.train", "@0.3 pause j-1", "@0.4 release", "@{at} resume j-1"],
    "a job whose time has come": ["@0.1 submit j-1 yolo.train run_at={at:.0f}"],
    "a program": ["@{at} lock t-a 8GiB timeout=5m pid=900", "@200 unlock t-a"],
    "a program on another machine": ["@{at} lock t-a 8GiB timeout=5m ttl=10s"],
}


def played(lines: Iterable[str], *, until_s: float = END_S) -> World:
    """Return the world after an incident of these lines, in whatever order they are."""
    script = Script("\n".join([*lines, f"@{until_s} end"]))
    script.steps = sorted((step for step in script.steps if step[0] <= until_s), key=lambda step: step[0])
    script.play()
    return script.world


def test_the_table_has_every_state_of_a_worker() -> None:
    assert set(STATES) == {state.value for state in WorkerState}


@pytest.mark.parametrize("state", STATES)
def test_sam_is_in_that_state_when_somebody_comes(state: str) -> None:
    at_s, lines = STATES[state]

    world = played(lines, until_s=at_s)

    assert world.fleet.workers[SAM].state.value == state


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
def test_whoever_comes_is_served_and_sam_returns_to_where_it_must_be(state: str, way: str) -> None:
    at_s, lines = STATES[state]

    world = played([*lines, *(line.format(at=at_s) for line in WAYS[way])])

    assert world.wrongs == []
    sam = world.fleet.workers[SAM]
    assert sam.state is (WorkerState.DOWN if state == "down" else WorkerState.READY), sam
    if way.startswith("a program"):
        assert world.replies["lock t-a"].lease is not None, world.replies["lock t-a"]
    else:
        assert world.disk.jobs[JobId("j-1")].status is JobStatus.COMPLETED


TRAINING: Final = "@5 submit j-1 yolo.train"
PROGRAM: Final = "@5 lock t-a 8GiB pid=900"

ENDS: Final[dict[str, tuple[list[str], JobStatus | None]]] = {
    "it succeeds": ([TRAINING], JobStatus.COMPLETED),
    "it fails": ([TRAINING, "@4 switch yolo-0 fails_at=2"], JobStatus.FAILED),
    "it is cancelled": ([TRAINING, "@9 cancel j-1"], JobStatus.CANCELLED),
    "it is cancelled on its way": ([TRAINING, "@5.1 cancel j-1"], JobStatus.CANCELLED),
    "it crashes until it may no more": ([TRAINING, "@4 switch yolo-0 crashes_at=2"], JobStatus.FAILED),
    "it stalls": ([TRAINING, "worker yolo stall_after=30s", "@4 switch yolo-0 stalls_at=2"], JobStatus.FAILED),
    "it is paused": ([TRAINING, "@9 pause j-1"], JobStatus.PAUSED),
    "it never starts": ([TRAINING, "@4 switch yolo-0 spawn_fails=yes"], JobStatus.FAILED),
    "it is refused": ([TRAINING, "limit gpu.vacate_timeout=20s", "@4 switch sam-0 memory_back_s=50s"], JobStatus.FAILED),
    "its worker is wanted down": ([TRAINING, "@9 down yolo-0"], JobStatus.COMPLETED),
    "our restart, it goes on": ([TRAINING, "@9 new-supervisor keeps all"], JobStatus.COMPLETED),
    "our restart, it is lost": ([TRAINING, "@9 new-supervisor"], JobStatus.COMPLETED),
    "our restart while SAM leaves": ([TRAINING, "@5.1 new-supervisor keeps all"], JobStatus.COMPLETED),
    "our restart while memory is awaited": (
        [TRAINING, "@4 switch sam-0 memory_back_s=20s", "@10 new-supervisor"],
        JobStatus.COMPLETED,
    ),
    "it ends while no supervisor runs": ([TRAINING, "@9 supervisor-dies", "@30 new-supervisor"], JobStatus.COMPLETED),
    "a program gives it back": ([PROGRAM, "@9 unlock t-a"], None),
    "a program dies": ([PROGRAM, "@9 dies t-a"], None),
    "a program dies on its way": ([PROGRAM, "@5.1 dies t-a"], None),
    "a program is withdrawn on its way": ([PROGRAM, "@5.1 withdraw t-a"], None),
    "a program is refused": ([PROGRAM, "limit gpu.vacate_timeout=20s", "@4 switch sam-0 memory_back_s=50s"], None),
    "a program renews no more": (["@5 lock t-a 8GiB ttl=10s"], None),
    "a program gives it back after our restart": ([PROGRAM, "@9 new-supervisor", "@12 unlock t-a"], None),
    "a program dies while no supervisor runs": ([PROGRAM, "@9 supervisor-dies", "@15 dies t-a", "@20 new-supervisor"], None),
}
"""How the time with the device ends of whoever SAM left for; and what the job is then."""


@pytest.mark.parametrize("end", ENDS)
def test_sam_is_back_after_every_end(end: str) -> None:
    lines, status = ENDS[end]

    world = played(lines)

    assert world.wrongs == []
    sam = world.fleet.workers[SAM]
    lease = world.fleet.lease_of(SAM)
    assert (sam.state, lease is not None) == (WorkerState.READY, True)
    assert sam.generation == 2, "it was away"
    if status is not None:
        assert world.disk.jobs[JobId("j-1")].status is status
