"""The faults: which come when (drawn from the seed beforehand), and how each is done."""

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from supervisor.control import Refused, Unreachable
from tests.chaos import config
from tests.chaos.floods import flood, for_control, for_workers
from tests.chaos.processes import Handle, leaders, ours
from tests.chaos.scene import Scene
from tests.chaos.work import Work

EVERY_S: Final = 1.6
"""The mean pause between two faults."""

WEIGHTS: Final = {
    "kill a worker": 9,
    "kill a worker's child": 4,
    "freeze a worker": 8,
    "ask a worker to leave by SIGTERM": 4,
    "freeze a worker's child": 2,
    "kill the supervisor": 6,
    "kill the supervisor as it starts": 3,
    "kill the supervisor as it stops": 2,
    "stop the supervisor": 3,
    "freeze the supervisor": 3,
    "edit the file": 9,
    "break the file": 4,
    "flood the control socket": 3,
    "flood the workers' socket": 3,
    "cancel a job": 8,
    "operator stops a worker": 4,
    "operator restarts a worker": 4,
    "operator recycles a worker": 3,
    "burst of jobs": 4,
    "remove a log": 3,
}


class Fault(NamedTuple):
    """One fault: when (seconds from the start), what, and two numbers from 0 to 1 that choose its target and its way."""

    at_s: float
    kind: str
    which: float
    how: float


def schedule(seed: int, seconds: float) -> list[Fault]:
    """Return the faults of a run; the same for the same seed."""
    source = random.Random(f"{seed} faults")  # noqa: S311  # for a schedule, not for secrets
    found, at_s = [], 2.0
    while (at_s := at_s + source.expovariate(1 / EVERY_S)) < seconds:
        kind = source.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        found.append(Fault(at_s, kind, source.random(), source.random()))
    return found


_COME_AND_GO: Final = ("gamma-0", "plain-1")
"""Workers that edits take away and bring back: that is the operator's word as well."""


class Hands:
    """Does the faults. done: how many of each kind found a target. story: one line for each, with the time."""

    def __init__(self, scene: Scene, work: Work, say: Callable[[str], None]) -> None:
        """Act on this scene."""
        self.done: Counter[str] = Counter()
        self.forgotten: list[str] = []  # workers that were found wanted up though the operator had stopped them, and nobody started them
        self._downs: dict[str, bool] = {}  # workers that were stopped; True where no other order or edit can have changed that since
        self._scene = scene
        self._work = work
        self._say = say
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._ways: dict[str, Callable[[Fault], str]] = {
            "kill a worker": lambda fault: self._signal_leader(fault, signal.SIGKILL),
            "kill a worker's child": lambda fault: self._child(fault, signal.SIGKILL),
            "freeze a worker": lambda fault: self._signal_leader(fault, signal.SIGSTOP),
            "ask a worker to leave by SIGTERM": lambda fault: self._signal_leader(fault, signal.SIGTERM),
            "freeze a worker's child": lambda fault: self._child(fault, signal.SIGSTOP),
            "kill the supervisor": self._kill_supervisor,
            "kill the supervisor as it starts": self._kill_starting,
            "kill the supervisor as it stops": self._kill_stopping,
            "stop the supervisor": self._stop_supervisor,
            "freeze the supervisor": self._freeze_supervisor,
            "edit the file": self._edit,
            "break the file": self._break,
            "flood the control socket": lambda fault: self._flood(fault, "control", for_control),
            "flood the workers' socket": lambda fault: self._flood(fault, "workers", for_workers),
            "cancel a job": lambda fault: "one job" if self._work.cancel(fault.which, time.monotonic()) else "",
            "operator stops a worker": self._operator_stop,
            "operator restarts a worker": self._operator_restart,
            "operator recycles a worker": self._operator_recycle,
            "burst of jobs": self._burst,
            "remove a log": self._remove_log,
        }

    def do(self, fault: Fault) -> None:
        """Do one fault, if it finds a target."""
        what = self._ways[fault.kind](fault)
        if what:
            self.done[fault.kind] += 1
            self._say(f"{fault.kind}: {what}")

    def due_s(self) -> float:
        """Return when the next thing is due that an earlier fault left to be done."""
        return self._later[0][0] if self._later else float("inf")

    def follow_up(self, now_s: float, *, everything: bool = False) -> None:
        """Do what is due: thaw what was frozen, start what was ended."""
        while self._later and (everything or self._later[0][0] <= now_s):
            heapq.heappop(self._later)[2]()

    def _in(self, seconds: float, do: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._serial, do))

    # --- workers ---

    def _signal_leader(self, fault: Fault, number: signal.Signals) -> str:
        found = leaders(self._scene.state_dir)
        return self._hit(found[int(fault.which * len(found))].pid, number, 0.3 + 7.0 * fault.how) if found else ""

    def _child(self, fault: Fault, number: signal.Signals) -> str:
        heads = {seen.pid for seen in leaders(self._scene.state_dir)}
        found = [seen for seen in ours(self._scene.state_dir) if seen.pid not in heads]
        return self._hit(found[int(fault.which * len(found))].pid, number, 0.3 + 7.0 * fault.how) if found else ""

    def _hit(self, pid: int, number: signal.Signals, thaw_s: float) -> str:
        try:
            handle = Handle(pid)
        except ProcessLookupError:
            return ""
        handle.signal(number)
        if number is not signal.SIGSTOP:
            handle.close()
            return f"{number.name} to {pid}"

        def thaw() -> None:
            handle.signal(signal.SIGCONT)
            handle.close()

        self._in(thaw_s, thaw)
        return f"SIGSTOP to {pid} for {thaw_s:.1f} s"

    # --- the supervisor ---

    def _kill_supervisor(self, fault: Fault) -> str:
        if self._scene.process is None:
            return ""
        pause_s = 4.0 * fault.how**2
        self._kill_and_start(pause_s)
        return f"up again after {pause_s:.1f} s"

    def _kill_and_start(self, pause_s: float) -> None:
        self._scene.kill()
        self._in(pause_s, self._start)

    def _start(self) -> None:
        if self._scene.process is None:
            self._scene.start()

    def _kill_starting(self, fault: Fault) -> str:
        if self._scene.process is None:
            return ""
        self._scene.kill()
        self._start()
        self._in(1.2 * fault.how, lambda: self._kill_and_start(0.04))
        return f"and again {1.2 * fault.how:.2f} s after its start"

    def _kill_stopping(self, fault: Fault) -> str:
        if not self._scene.up:
            return ""
        self._scene.begin_stop()
        self._in(1.5 * fault.how, lambda: self._kill_and_start(0.04))
        return f"{1.5 * fault.how:.2f} s after SIGTERM"

    def _stop_supervisor(self, fault: Fault) -> str:
        if not self._scene.up:
            return ""
        self._scene.begin_stop()
        self._in(2.0 * fault.how, self._start_when_gone)
        return "SIGTERM"

    def _start_when_gone(self) -> None:
        if self._scene.process is None:
            self._start()
        else:
            self._in(0.2, self._start_when_gone)

    def _freeze_supervisor(self, fault: Fault) -> str:
        if not self._scene.up:
            return ""
        life, thaw_s = self._scene.lives, 0.5 + 7.0 * fault.how
        self._scene.signal(signal.SIGSTOP)

        def thaw() -> None:
            if self._scene.lives == life:
                self._scene.signal(signal.SIGCONT)

        self._in(thaw_s, thaw)
        return f"SIGSTOP for {thaw_s:.1f} s"

    # --- the file ---

    def _edit(self, fault: Fault) -> str:
        before = self._scene.knobs
        self._scene.write(config.turned(before, fault.which, fault.how), fault.how if self._scene.settled else 0.0)
        changed = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(self._scene.knobs, name)]
        return ", ".join(f"{name} = {getattr(self._scene.knobs, name)}" for name in changed)

    def _break(self, fault: Fault) -> str:
        if not self._scene.settled:
            return ""
        self._scene.write_broken(fault.how)

        def mend() -> None:
            if not self._scene.whole:
                self._scene.write(self._scene.knobs, fault.which)

        self._in(2.5, mend)
        return f"way {int(8 * fault.how)}, for 2.5 s"

    # --- the sockets ---

    def _flood(self, fault: Fault, name: str, messages: Callable[[float], list[bytes]]) -> str:
        return f"{flood(self._scene.state_dir, name, messages(fault.how))} messages" if self._scene.up else ""

    # --- people ---

    def _operator_stop(self, fault: Fault) -> str:
        name = self._some_worker(fault)
        if not name:
            return ""
        self._downs[name] = self._order("workers.stop", name) and name not in _COME_AND_GO  # without an answer it may be stopped all the same
        self._in(1.0 + 6.0 * fault.how, lambda: self.start_worker(name))
        return name

    def start_worker(self, name: str) -> None:
        """Let a worker that was stopped run again, as soon as somebody hears it."""
        if name not in self._downs:
            return
        if self._downs[name] and self._scene.up and self._wanted(name) == "up":
            self.forgotten.append(name)
        self._downs[name] = False  # an order without an answer may be carried out all the same
        if self._order("workers.start", name, gone_ok=True):
            self._downs.pop(name, None)
        else:
            self._in(0.5, lambda: self.start_worker(name))

    def _operator_restart(self, fault: Fault) -> str:
        name = self._some_worker(fault)
        if name in self._downs:
            self._downs[name] = False
        return name if name and self._order("workers.restart", name) else ""

    def _operator_recycle(self, fault: Fault) -> str:
        name = self._some_worker(fault)
        return name if name and self._order("workers.recycle", name) else ""

    def _wanted(self, name: str) -> str:
        try:
            workers = self._scene.ask("status")["workers"]
        except (Refused, Unreachable):
            return ""
        return next((str(worker["wanted"]) for worker in workers if worker["name"] == name), "")

    def _some_worker(self, fault: Fault) -> str:
        names = ["alpha-0", "beta-0", "gamma-0", "plain-0", "plain-1", "pool-0", "tool-0"]
        return names[int(fault.which * len(names))] if self._scene.up else ""

    def _order(self, op: str, name: str, *, gone_ok: bool = False) -> bool:
        if not self._scene.up:
            return False
        try:
            self._scene.ask(op, name=name)
        except Refused:
            return gone_ok  # an edit has taken the worker away
        except Unreachable:
            return False
        return True

    def _burst(self, fault: Fault) -> str:
        count = 5 + int(15 * fault.how)
        for _ in range(count):
            self._work.submit(time.monotonic())
        return f"{count} jobs"

    def _remove_log(self, fault: Fault) -> str:
        names = ["watchdog.log", "watchdog.jsonl", "workers/alpha-0.log", "workers/pool-0.log"]
        name = names[int(fault.which * len(names))]
        if not os.path.lexists(self._scene.folder / "logs" / name):
            return ""
        self._scene.remove_log(name)
        return name
