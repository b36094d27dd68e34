"""The operator's command: run with the event in its environment, killed when it hangs, said when it breaks, never in the way."""

import json
import os
import queue
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supervisor.adapters.notify_command import SAID_EVERY_S, WAITING_MAX, NotifyCommand

WITHIN_S = 20.0
SHOW = (
    "import json, os, sys; names = ('WARDEN_EVENT', 'WARDEN_REASON', 'WARDEN_WORKER', 'WARDEN_JOB', 'NOTIFY_SOCKET', 'KEPT');"
    "print(json.dumps({name: os.environ.get(name) for name in names}))"
)


class Heard:
    """What was said, as it comes."""

    def __init__(self) -> None:
        self._said: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def say(self, event: str, fields: Mapping[str, object]) -> None:
        self._said.put((event, dict(fields)))

    def next(self) -> tuple[str, dict[str, Any]]:
        return self._said.get(timeout=WITHIN_S)

    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        return [self._said.get_nowait() for _ in range(self._said.qsize())]


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def made(heard: Heard, *command: str, deadline_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> NotifyCommand:
    environ = {**os.environ, "NOTIFY_SOCKET": "/not/for/you", "KEPT": "yes"}
    return NotifyCommand(command, environ=environ, say=heard.say, deadline_s=deadline_s, clock=clock)


def gone(pid: int) -> bool:
    """Return whether the process is gone, or goes soon: SIGKILL works when it is scheduled."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], WITHIN_S)[0])
    finally:
        os.close(pidfd)


def test_it_gets_the_event_in_its_environment_and_its_output_is_said() -> None:
    heard = Heard()
    notify = made(heard, sys.executable, "-c", SHOW)

    assert notify.tell("worker_quarantined", reason="10 crashes\0 in a row", worker="sam-0", job="j1")
    event, fields = heard.next()
    notify.close()

    assert event == "notify_done"
    assert fields["about"] == "worker_quarantined"
    assert json.loads(fields["output"]) == {
        "WARDEN_EVENT": "worker_quarantined",
        "WARDEN_REASON": "10 crashes in a row",
        "WARDEN_WORKER": "sam-0",
        "WARDEN_JOB": "j1",
        "NOTIFY_SOCKET": None,
        "KEPT": "yes",
    }


def test_one_that_hangs_is_killed_with_its_children_at_the_deadline() -> None:
    heard, fields = Heard(), dict[str, Any]()

    for deadline_s, words in ((0.5, "0.5 seconds"), (3.0, "3 seconds"), (15.0, "15 seconds")):  # a slow machine may not get as far as the child
        notify = made(heard, "/bin/sh", "-c", "sleep 600 & echo $!; sleep 600", deadline_s=deadline_s)
        notify.tell("disk_low")
        event, fields = heard.next()
        notify.close()
        assert event == "notify_failed"
        assert fields["reason"] == f"it was still running after {words} and was killed"
        if "output" in fields:
            break

    assert gone(int(fields["output"]))


def test_a_child_that_keeps_the_pipe_open_does_not_hold_it_up_and_does_not_stay() -> None:
    heard = Heard()
    notify = made(heard, "/bin/sh", "-c", "sleep 600 & echo $!")

    began_s = time.monotonic()
    notify.tell("disk_low")
    event, fields = heard.next()
    notify.close()

    assert event == "notify_done"
    assert time.monotonic() - began_s < WITHIN_S
    assert gone(int(fields["output"]))


def test_a_missing_command_is_said_once_a_minute_with_the_number_of_failures() -> None:
    heard, clock = Heard(), Clock()
    notify = made(heard, "/no/such/program", clock=clock)

    for number in range(5):
        notify.tell("worker_quarantined", worker=f"sam-{number}")
    event, fields = heard.next()
    notify.close(within_s=WITHIN_S)

    assert event == "notify_failed"
    assert fields["reason"] == "it ended with code 127"
    assert "/no/such/program" in fields["output"]
    assert heard.rest() == [], "the other four wait for the minute to pass"


def test_after_a_minute_it_says_how_many_failed_meanwhile(tmp_path: Path) -> None:
    heard, clock = Heard(), Clock()
    done = tmp_path / "done"
    os.mkfifo(done)
    notify = made(heard, "/bin/sh", "-c", 'echo x > "$0"; exit 3', str(done), clock=clock)
    for event in ("a", "b", "c"):
        notify.tell(event)
        done.read_text()
    clock.now_s += SAID_EVERY_S - 1.0
    notify.tell("d")
    done.read_text()
    first = heard.next()
    clock.now_s += 1.0
    notify.tell("e")
    done.read_text()
    second = heard.next()
    notify.close()

    assert (first[1]["about"], first[1]["reason"], first[1].get("failures")) == ("a", "it ended with code 3", None)
    assert second[1]["failures"] in {2, 3, 4}, "b, c, and d or e, whichever the clock's step found"


def test_the_same_event_of_the_same_worker_runs_it_once_in_five_minutes() -> None:
    heard, clock = Heard(), Clock()
    notify = made(heard, "/bin/true", clock=clock)

    first = notify.tell("worker_quarantined", worker="sam-0")
    again = notify.tell("worker_quarantined", worker="sam-0")
    other_worker = notify.tell("worker_quarantined", worker="yolo-0")
    other_event = notify.tell("worker_unkillable", worker="sam-0")
    clock.now_s += 300.0
    later = notify.tell("worker_quarantined", worker="sam-0")
    notify.close(within_s=WITHIN_S)

    assert [first, again, other_worker, other_event, later] == [True, False, True, True, True]
    assert [event for event, _ in heard.rest()] == ["notify_done"] * 4


def test_tell_never_waits_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    heard = Heard()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    notify = made(heard, "/bin/sh", "-c", 'read line < "$0"', str(gate))

    taken = [notify.tell("disk_low", worker=str(number)) for number in range(WAITING_MAX + 5)]
    ended = heard.rest()
    with gate.open("w") as opened:  # the first one may go on
        opened.write("go\n")
    _, fields = heard.next()
    notify.close(within_s=0.0)

    assert ended == [], "nobody waited until one of them was done"
    assert taken.count(True) in {WAITING_MAX, WAITING_MAX + 1}, "one runs, the others wait"
    assert fields["dropped"] == taken.count(False)


def test_an_empty_command_does_nothing() -> None:
    heard = Heard()
    notify = made(heard)

    assert not notify.tell("disk_low")
    notify.close()

    assert heard.rest() == []


def test_close_does_not_wait_for_one_that_hangs(tmp_path: Path) -> None:
    heard = Heard()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    notify = made(heard, "/bin/sh", "-c", 'echo $$ > "$0"; sleep 600', str(gate))
    notify.tell("disk_low")
    pid = int(gate.read_text())

    began_s = time.monotonic()
    notify.close(within_s=0.1)

    assert time.monotonic() - began_s < WITHIN_S, "it would hang until the deadline, 30 s"
    heard.next()
    assert gone(pid)
