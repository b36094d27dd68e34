"""What chaos found, each as the smallest case that shows it."""

import asyncio
import ctypes
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.decide import first_fleet
from supervisor.core.events import AnyEvent, ConfigChanged, SupervisorStarted, Tick
from supervisor.core.limits import Limits
from supervisor.runtime.inbox import Inbox
from supervisor.runtime.loop import Loop
from tests.faults.conftest import live
from tests.support.live import ONE_WORKER, MakeLive

__all__ = ["live"]


class Seen:
    """A journal that keeps the events' order, and ends the loop after the last."""

    def __init__(self, count: int) -> None:
        self.events: list[AnyEvent] = []
        self.count = count
        self.loop: Loop | None = None

    def record(self, _fleet: Any, event: AnyEvent, _limits: Limits, _now_s: float) -> None:
        self.events.append(event)
        if len(self.events) == self.count and self.loop is not None:
            self.loop.leave()


def order(count: int, fill: Callable[[Loop, Inbox], None]) -> list[type]:
    """Return the kinds of events in the order in which they were decided."""
    limits, journal, inbox = Limits(), Seen(count), Inbox()
    journal.loop = Loop(first_fleet(limits, (), fence=0, generations={}), limits, inbox, perform=lambda _decision: None, journal=journal)
    fill(journal.loop, inbox)
    asyncio.run(journal.loop.run())
    return [type(event) for event in journal.events]


def test_what_runs_already_is_known_before_a_request_that_came_in_earlier() -> None:
    # `warden workers start` while a new supervisor opened its store: the worker was spawned a second time, and taking the first one back was an illegal move.
    def fill(loop: Loop, inbox: Inbox) -> None:
        inbox.post(Tick(wall_s=0.0, lag_s=0.0))
        loop.begin(SupervisorStarted(wall_s=0.0, jobs=(), leases=(), adopted=()))

    assert order(2, fill) == [SupervisorStarted, Tick]


def test_an_edit_reaches_the_fleet_before_any_event_is_decided_by_it() -> None:
    # A worker that had lost its need for a device was spawned by an event in between, and ordered to leave in the same turn.
    def fill(loop: Loop, inbox: Inbox) -> None:
        inbox.post(Tick(wall_s=0.0, lag_s=0.0))
        loop.change_limits(Limits(), generation=2, changed=())

    assert order(2, fill) == [ConfigChanged, Tick]


def listening_threads(pid: int) -> list[int]:
    """Return the threads of a process, but for the first, that may be handed a SIGTERM."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        if int(task.name) != pid and not int(status["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1:
            found.append(int(task.name))
    return found


@pytest.mark.faults
@pytest.mark.slow
def test_an_idle_worker_leaves_also_when_another_thread_is_handed_the_sigterm(live: MakeLive) -> None:
    # The kernel did so to a worker that had been frozen: its main thread waited on for orders, and it was killed though it would have listened.
    warden = live()
    pid = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]
    warden.wait_for_event("worker_ready", worker="sam-0")
    (thread, *_) = listening_threads(pid)

    ctypes.CDLL(None).tgkill(pid, thread, signal.SIGTERM)

    assert "exit code 0" in warden.wait_for_event("worker_exited", worker="sam-0")["reason"]


@pytest.mark.faults
@pytest.mark.slow
def test_a_job_for_a_worker_that_was_leaving_when_its_supervisor_died_is_given_back(live: MakeLive) -> None:
    # The new supervisor took the worker for a ready one, the job was never begun, and failed as stalled.
    warden = live(ONE_WORKER + "concurrency = 2\n")
    first = warden.submit(fault="stall")
    warden.wait_for_event("job_started", job=first)
    warden.ask("workers.restart", name="sam-0")
    warden.wait_for_event("worker_draining", worker="sam-0")
    warden.kill()
    warden.start()
    warden.wait_for_event("worker_adopted", worker="sam-0")

    second = warden.submit(steps=1)
    warden.wait_for_event("job_returned", job=second)
    warden.ask("jobs.cancel", job=first)

    assert warden.wait_for_job(second).status == "completed"
    assert warden.wait_for_job(first).status == "cancelled"
