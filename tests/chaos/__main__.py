"""`python -m tests.chaos --seconds 600 --seed N`: one run, its report, and the whole story when an invariant did not hold."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from supervisor.control import Refused, Unreachable
from tests.chaos import config, processes
from tests.chaos.checks import Checks
from tests.chaos.faults import EVERY_S, Hands, schedule
from tests.chaos.scene import STARTED_WITHIN_S, Scene
from tests.chaos.work import Work
from tests.support.measure import MIB, machine, print_table

JOB_EVERY_S: Final = 0.7
PROCESSES_EVERY_S: Final = 1.0
JOBS_EVERY_S: Final = 5.0
LOOK_S: Final = 0.1
QUIET_S: Final = 120.0
STOP_S: Final = 40.0
UNANSWERED_MAX: Final = 2
DEAF_S: Final = 1.0
"""A Python program that is asked to stop this early ends by the signal itself: it does not listen yet."""
STORY_LINES: Final = 40


class Run:
    """One run over a folder."""

    def __init__(self, folder: Path, *, seed: int, seconds: float) -> None:
        """Prepare it; `go` does it."""
        self.story: list[str] = []
        self.scene = Scene(folder)
        self.work = Work(self.scene, seed)
        self.hands = Hands(self.scene, self.work, self.say)
        self.checks = Checks(self.scene, self.work, self.violation)
        self.stories: list[str] = []
        self.seconds = seconds
        self._faults = schedule(seed, seconds)
        self._source = random.Random(f"{seed} pace")  # noqa: S311  # for a schedule, not for secrets
        self._began_s = time.monotonic()
        self._next = dict.fromkeys(("job", "processes", "jobs"), 0.0)

    def say(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{time.monotonic() - self._began_s:8.2f} s  {line}")

    def violation(self, line: str) -> None:
        """Tell a violation at once, with what came before it."""
        self.say(line)
        events = [_short(event, self._began_s) for event in self.scene.events if event["event"] not in ("job_progress", "worker_healthy")]
        self.stories.append("\n".join(["", *self.story[-8:], "the log before it:", *events[-STORY_LINES:]]))
        print(self.story[-1], flush=True)  # noqa: T201  # its report is what it is for

    def go(self) -> None:
        """Run the faults, then let everything settle, and judge the whole."""
        self.scene.start()
        self._wait_started()
        self._began_s = time.monotonic()
        while (now_s := time.monotonic()) < self._began_s + self.seconds:
            self._turn(now_s)
            due_s = min(self._began_s + self._faults[0].at_s if self._faults else float("inf"), self.hands.due_s(), now_s + LOOK_S)
            if (left_s := due_s - time.monotonic()) > 0:
                self.scene.pause(left_s)
        self._settle()

    def _turn(self, now_s: float) -> None:
        self._watch_supervisor()
        self.hands.follow_up(now_s)
        while self.hands.forgotten:
            self.checks.wrong("orders forgotten", f"{self.hands.forgotten.pop()} was stopped by its operator, and is wanted up")
        if self._faults and now_s - self._began_s >= self._faults[0].at_s:
            self.hands.do(self._faults.pop(0))
        if now_s >= self._next["job"]:
            self._next["job"] = now_s + self._source.expovariate(1 / JOB_EVERY_S)
            self.work.submit(now_s)
        self.checks.look()
        if now_s >= self._next["processes"]:
            self._next["processes"] = now_s + PROCESSES_EVERY_S
            self.checks.look_at_processes()
        if now_s >= self._next["jobs"]:
            self._next["jobs"] = now_s + JOBS_EVERY_S
            self.checks.look_at_jobs()
        if self.scene.unanswered > UNANSWERED_MAX:
            self.scene.unanswered = 0
            self.checks.wrong("no answer", "the supervisor runs and did not answer three times in a row")

    def _watch_supervisor(self) -> None:
        asked = self.scene.stopping_since_s
        code = self.scene.reap()
        if code is None:
            if asked is not None and time.monotonic() - asked > STOP_S:
                self.checks.wrong("supervisor", f"it did not stop within {STOP_S:g} s of SIGTERM")
                self.scene.kill()
        elif asked is None:
            self.checks.wrong("supervisor", f"it ended by itself with {code}:\n{self.scene.said()[-3000:]}")
            self.scene.start()
        elif code and not (code == -signal.SIGTERM and asked - self.scene.started_at_s < DEAF_S):
            self.checks.wrong("supervisor", f"it ended with {code} after SIGTERM, 0 was expected:\n{self.scene.said()[-3000:]}")

    def _wait_started(self) -> None:
        end_s = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < end_s:
            try:
                self.scene.ask("status")
            except (Refused, Unreachable):
                continue
            return
        self.checks.wrong("supervisor", f"it did not answer within {STARTED_WITHIN_S:g} s of its start:\n{self.scene.said()[-3000:]}")

    def _settle(self) -> None:
        """No more faults: everything that was acknowledged must come to its end, everything must be well, and nothing may be left after a stop."""
        self.say("quiet: no more faults")
        self.hands.follow_up(0.0, everything=True)
        end_s = time.monotonic() + QUIET_S
        while self.hands.due_s() < float("inf") and time.monotonic() < end_s:
            self.hands.follow_up(time.monotonic())
            self._watch_supervisor()
            self.scene.pause(LOOK_S)
        if self.scene.process is None:
            self.scene.start()
        self.scene.write(config.Knobs(), 0.0)
        self._wait_started()
        trouble = "nothing was asked yet"
        while trouble and time.monotonic() < end_s:
            self._watch_supervisor()
            self.checks.look()
            self.checks.look_at_jobs()
            self.checks.look_at_processes()
            trouble = self._unsettled()
            self.scene.pause(0.5)
        if trouble:
            self.checks.wrong("not settled", f"{QUIET_S:g} s after the last fault: {trouble}")
        self._judge()

    def _unsettled(self) -> str:
        try:
            status = self.scene.ask("status")
        except (Refused, Unreachable) as error:
            return str(error)
        live = {name: count for name, count in status["jobs"].items() if count and name not in ("completed", "failed", "cancelled")}
        expected = {"alpha-0", "beta-0", "gamma-0", "plain-0", "plain-1", "pool-0", "tool-0"}
        names = {worker["name"] for worker in status["workers"]}
        unwell = [*status["unwell"], *(f"workers are {sorted(names)}" for _ in [0] if names != expected)]
        up = {worker["name"]: worker["state"] for worker in status["workers"] if worker["name"] not in ("beta-0", "gamma-0")}
        unwell += [f"{name} is {state}" for name, state in up.items() if state != "ready"]
        return "; ".join([*unwell, *(f"{count} jobs {name}" for name, count in live.items())])

    def _judge(self) -> None:
        try:
            views = self.work.all()
        except (Refused, Unreachable) as error:
            self.checks.wrong("no answer", str(error))
            views = []
        self.checks.end_of_life()
        self.scene.begin_stop()
        end_s = time.monotonic() + STOP_S
        while self.scene.process is not None and time.monotonic() < end_s + 1.0:
            self._watch_supervisor()
            self.scene.pause(LOOK_S)
        self.checks.look()
        self.checks.at_the_end(views)
        self.outcomes = Counter(view["status"] if view["status"] != "failed" else f"failed: {view['reason']}" for view in views)
        if not self.outcomes["completed"]:
            self.checks.wrong("nothing done", "not one job was completed")
        for left in (named := processes.ours(self.scene.state_dir)):
            self.checks.wrong("orphans", f"pid {left.pid} of {left.worker}#{left.generation} lives on after the stop")
            processes.Handle(left.pid).signal(signal.SIGKILL)
        for pid in set(processes.inside(self.scene.folder)) - {left.pid for left in named}:
            self.checks.wrong("orphans", f"pid {pid} lives on after the stop, and nothing but its folder tells whose it is")
            processes.Handle(pid).signal(signal.SIGKILL)
        for path in [*self.scene.state_dir.glob("*.sock"), *(self.scene.state_dir / "run").glob("*.json")]:
            self.checks.wrong("left over", f"{path.name} was left after the stop")
        if "Traceback" in self.scene.said():
            self.checks.wrong("supervisor", f"it printed a traceback:\n{self.scene.said()[-3000:]}")
        if (self.scene.folder / "logs" / "journal.jsonl").exists():
            self.checks.wrong("supervisor", "it dumped its journal")


def _short(event: dict[str, Any], began_s: float) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("timestamp", "level", "event", "at_s"))
    return f"{event['at_s'] - began_s:8.2f} s  {event['event']} {fields}"


def report(run: Run, seed: int) -> int:
    """Print what was done and what held. Returns the exit code."""
    checks = run.checks
    print_table(
        f"chaos, seed {seed}, {run.seconds:g} s, a fault each {EVERY_S:g} s, {run.scene.lives} lives of the supervisor ({machine()})",
        ("fault", "done"),
        [(kind, str(count)) for kind, count in sorted(run.hands.done.items())] + [("all", str(run.hands.done.total()))],
    )
    print_table("jobs", ("end", "count"), [(end, str(count)) for end, count in sorted(run.outcomes.items())])
    did = (
        "worker_spawned",
        "worker_adopted",
        "worker_exited",
        "worker_swept",
        "worker_recycled",
        "config_reloaded",
        "config_refused",
        "supervisor_frozen",
    )
    judged = ("worker_silent", "worker_stalled", "worker_overrun", "worker_killed")
    print_table("what the supervisor did", ("event", "count"), [(name, str(checks.seen[name])) for name in (*did, *judged, "lease_granted")])
    always = ("false kills", "orphans", "doubles", "results lost", "jobs not ended", "zombies", "fences", "supervisor", "growth")
    rows = [(kind, str(checks.counts[kind])) for kind in dict.fromkeys((*always, *checks.counts))]
    print_table(f"invariants (growth within one life: {checks.growth_fds} descriptors, {checks.growth_bytes / MIB:.1f} MiB)", ("violations", "count"), rows)
    if not checks.counts:
        return 0
    for story in run.stories[:10]:
        print(story)  # noqa: T201  # its report is what it is for
    print(f"\nFAILED: {checks.counts.total()} violations with --seed {seed}; everything is kept in {run.scene.folder}")  # noqa: T201  # its report is what it is for
    return 1


def main() -> int:
    """Do one run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Random faults against a whole supervisor, every invariant checked.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults are done; everything settles after it")
    parser.add_argument("--seed", type=int, default=None, help="the same seed draws the same faults and jobs")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else int(time.time()) % 100_000
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"chaos with --seed {seed} in {folder}", flush=True)  # noqa: T201  # its report is what it is for
    run = Run(folder, seed=seed, seconds=asked.seconds)
    try:
        run.go()
    finally:
        run.scene.close()
        for pid in {left.pid for left in processes.ours(run.scene.state_dir)} | set(processes.inside(run.scene.folder)):
            processes.Handle(pid).signal(signal.SIGKILL)
    code = report(run, seed)
    if not code:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
