"""Races rules against real processes that take memory: who ends them in time, and how little was left by then.

Nobody's memory is in danger: a machine of 4 GiB is pretended (4 GiB less what the hog has), or made (a cgroup) where pages are shared and RSS would count them
twice. The hog itself writes down when it had how much. Warden is the whole of it: a supervisor with its guard, a worker that runs the hog as its job, another
worker beside it; the others' rules are loops of our own, which do nothing else. A run of the fast hog counts from 8 GB/s on, by its own measure.
"""

import os
import random
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from supervisor.adapters.headroom import Headroom
from supervisor.shapes import WhyView
from tests.bench._box import Box, box
from tests.bench._hog import entries
from tests.bench._rules import RULES
from tests.bench._warden import ENDED, ROOT, Warden, arguments, environment, scratch, supervised
from tests.support.measure import MIB, machine, print_table, rss_bytes

WARDEN: Final = "warden, all of it"
FAST: Final = "numpy"
COUNTS_FROM: Final = 8e9
END_MAX_S: Final = 60.0
SENTENCE: Final = "EMERGENCY BRAKE"

TOML: Final = """
[watchdog]
healthy_after = "100ms"
[workers.hog]
command = ["{python}", "-P", "-m", "tests.bench._hog"]
serves = ["bench.hog"]
[workers.other]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
"""


class Course(NamedTuple):
    """What is raced on: a machine of so many bytes, and the line below which a rule is to act."""

    total: int
    line: int
    floor: int

    @property
    def memory(self) -> str:
        """Warden's [memory] for it. A line that is none of the defaults stands as it is."""
        lines = {"warn_below": self.line + self.line // 2, "emergency_below": self.line, "hard_floor": self.floor}
        return "[memory]\n" + "".join(f'{key} = "{size // MIB}MiB"\n' for key, size in lines.items())


FULL: Final = Course(4096 * MIB, 2049 * MIB, 1023 * MIB)
QUICK: Final = Course(1024 * MIB, 513 * MIB, 255 * MIB)


class Run(NamedTuple):
    """One hog against one rule.

    speed: bytes a second; lowest: available at the least, less than 0 where the machine would have been lost; late_s: from the line to its end, None where it
    did not pass that; by: which part of Warden ended it; wrong: what Warden owed and did not do.
    """

    speed: float
    lowest: int
    late_s: float | None
    by: str = ""
    wrong: str = ""


def judged(folder: Path, left: int, line: int, ended_at_s: float) -> Run:
    """Return how it went by the hog's own book. left: what was available as it began."""
    book = entries(folder)
    taken, took_s = book[-1].taken_bytes, book[-1].at_s - book[0].at_s
    passed_at_s = next((entry.at_s for entry in book if left - entry.taken_bytes < line), None)
    return Run(taken / took_s if took_s else 0.0, left - taken, None if passed_at_s is None else ended_at_s - passed_at_s)


class Ballast:
    """A process that keeps as much memory as a hog will take, until the moment before.

    What the host of a virtual machine must find first comes at a tenth of the speed, and it takes back what is free for two seconds.
    """

    def __init__(self, process: "subprocess.Popen[str] | None") -> None:
        """Take over one that holds; None where the hog is slow in any case."""
        self._process = process

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Let go of it meanwhile."""
        if self._process is not None:
            _turn(self._process, "free")
        try:
            yield
        finally:
            if self._process is not None:
                _turn(self._process, "ready")


def _turn(ballast: "subprocess.Popen[str]", word: str) -> None:
    assert ballast.stdin is not None
    assert ballast.stdout is not None
    ballast.stdin.write("\n")
    ballast.stdin.flush()
    if (said := ballast.stdout.readline().strip()) != word:
        raise RuntimeError(f"the ballast said {said!r}, {word!r} was expected")


def end_of(pidfd: int, within_s: float) -> float | None:
    """Return when the process ended (CLOCK_MONOTONIC), None where it lives on."""
    return time.monotonic() if select.select([pidfd], [], [], within_s)[0] else None


@contextmanager
def started(command: list[str], room: Box | None) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that said that it is ready; it is gone afterwards, with its group."""
    command = room.inside(command) if room else command
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command} ended before it was ready")
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def peer_run(rule: str, shape: str, course: Course, ballast: Ballast, room: Box | None) -> Run:
    """Return how a rule did that is a loop of its own."""
    module = [sys.executable, "-m"]
    with scratch() as folder, started([*module, "tests.bench._hog", "alone", shape, str(course.total), str(folder)], room) as hog:
        left = course.total - (room.used() if room else rss_bytes(hog.pid))
        pidfd = os.pidfd_open(hog.pid)
        available = 0 if room else course.total
        with started([*module, "tests.bench._rules", rule, str(hog.pid), str(available), str(course.line)], room), ballast.gone():
            assert hog.stdin is not None
            hog.stdin.write("\n")
            hog.stdin.flush()
            ended_at_s = end_of(pidfd, END_MAX_S)
        os.close(pidfd)
        return judged(folder, left, course.line, ended_at_s or time.monotonic())


def warden_run(warden: Warden, shape: str, course: Course, ballast: Ballast, room: Box | None) -> Run:
    """Return how Warden did, and whether everybody else was left alone."""
    warden.wait_ready("hog-0", "other-0")
    pids = {name: warden.worker(name).pid or 0 for name in ("hog-0", "other-0")}
    pidfd = os.pidfd_open(pids["hog-0"])
    with scratch() as folder, ballast.gone():
        left = course.total - (room.used() if room else sum(map(rss_bytes, pids.values())))
        params = {"shape": shape, "size": course.total, "folder": str(folder)}
        job = str(warden.ask("jobs.submit", kind="bench.hog", params=params, max_attempts=1)["id"])
        ended_at_s = None
        while ended_at_s is None and warden.ask("jobs.show", job=job)["status"] not in ENDED:
            ended_at_s = end_of(pidfd, 0.25)
        os.close(pidfd)
        run = judged(folder, left, course.line, ended_at_s or time.monotonic())
    return run._replace(by=who(warden, job), wrong="; ".join(owed(warden, job, pids["other-0"])))


def who(warden: Warden, job: str) -> str:
    """Return which part of Warden ended it: the brake, the guard, or the work itself, which was asked to."""
    end_s = time.monotonic() + END_MAX_S
    while time.monotonic() < end_s:
        if said := warden.said("emergency_brake", job=job):
            return "asked" if said[0].get("layer") == "sdk" else "brake"
        if guards := warden.said("emergency_brake", layer="guard"):  # who knows no jobs
            return f"guard ({len(guards)} so far)"
        time.sleep(0.02)  # noqa: TID251  # the line comes once the process is gone
    return "nobody"


def owed(warden: Warden, job: str, other: int) -> list[str]:
    """Return what is not as it must be after the brake."""
    view = warden.ended(job)
    why = msgspec.convert(warden.ask("jobs.why", job=job), WhyView)
    wrong = []
    if (view.status, view.reason) != ("failed", "memory_emergency") or SENTENCE not in view.message:
        wrong.append(f"the job is {view.status}, {view.reason}: {view.message}")
    if not why.flight:
        wrong.append("no flight record")
    if warden.worker("other-0").pid != other or warden.process.poll() is not None:
        wrong.append("the other worker or the supervisor is another")
    warden.wait_ready("hog-0")
    after = warden.ended(str(warden.ask("jobs.submit", kind="bench.hog", params={})["id"]))
    if after.status != "completed":
        wrong.append(f"the next job is {after.status}")
    return wrong


def race(shape: str, rules: list[str], course: Course, wanted: int, *, in_box: bool) -> dict[str, list[Run]]:
    """Return the runs of each rule against one hog, in turns, until so many of each count, or twice as many were tried and some more."""
    runs: dict[str, list[Run]] = {rule: [] for rule in rules}
    order = random.Random(shape)  # noqa: S311  # who comes first in a round
    with ExitStack() as stack:
        command = [sys.executable, "-m", "tests.bench._hog", "ballast", str(course.total)]
        ballast = Ballast(stack.enter_context(started(command, None)) if shape == FAST else None)
        warden = None
        for _ in range(2 * wanted + 4):
            waiting = [rule for rule in rules if len(runs[rule] if course is QUICK else counted(shape, runs[rule])) < wanted]
            for rule in order.sample(waiting, len(waiting)):
                if in_box:
                    runs[rule].append(boxed(rule, shape, course, ballast))
                elif rule == WARDEN:
                    warden = warden or stack.enter_context(supervised(TOML, memory=course.memory, env={"WARDEN_PRETEND_MEMORY": f"{course.total // MIB}MiB"}))
                    runs[rule].append(warden_run(warden, shape, course, ballast, None))
                else:
                    runs[rule].append(peer_run(rule, shape, course, ballast, None))
                note(rule, shape, runs[rule][-1])
    return runs


def boxed(rule: str, shape: str, course: Course, ballast: Ballast) -> Run:
    """Return one run on a machine of its own. What is left there is the kernel's own count, and so is who died of it."""
    with box(course.total) as room:
        assert room is not None
        if rule == WARDEN:
            with supervised(TOML, memory=course.memory, inside=room.inside) as warden:
                run = warden_run(warden, shape, course, ballast, room)
        else:
            run = peer_run(rule, shape, course, ballast, room)
        return run._replace(lowest=-1 if room.kernel_kills() else course.total - room.peak())


def counted(shape: str, runs: list[Run]) -> list[Run]:
    """Return the runs that count: all, but of the fast hog those in which it was fast."""
    return [run for run in runs if shape != FAST or run.speed >= COUNTS_FROM]


def note(rule: str, shape: str, run: Run) -> None:
    """Say how it goes, to whoever waits."""
    late = "before the line" if run.late_s is None else f"{1000 * run.late_s:.0f} ms"
    print(f"{rule} / {shape}: {run.speed / 1e9:.1f} GB/s, {run.lowest / MIB:.0f} MiB left, {late} {run.by} {run.wrong}", file=sys.stderr, flush=True)


def row(rule: str, shape: str, every: list[Run], runs: list[Run]) -> tuple[str, ...]:
    """Return one row of the table."""
    if not runs:
        return (rule, shape, f"0 of {len(every)}", *[""] * 7)
    late = [1000 * run.late_s for run in runs if run.late_s is not None]
    dead = sum(run.lowest < 0 for run in runs)
    lowest = sorted(run.lowest / MIB for run in runs)
    by = ", ".join(f"{name} {sum(run.by == name for run in runs)}" for name in sorted({run.by for run in runs} - {""}))
    aim = "" if rule != WARDEN else "ok" if not dead and not any(run.wrong for run in runs) else "MISSED"
    return (
        rule,
        shape,
        f"{len(runs)} of {len(every)}",
        f"{statistics.median(run.speed for run in runs) / 1e9:.1f}",
        str(dead),
        f"{lowest[0]:.0f}",
        f"{statistics.median(lowest):.0f}",
        f"{statistics.median(late):.0f}" if late else "before it",
        f"{max(late):.0f}" if late else "",
        by,
        aim,
    )


def main() -> int:
    """Print the table."""
    asked = arguments()
    course = QUICK if asked.quick else FULL
    rules = [WARDEN, "poll each 1 s"] if asked.quick else [WARDEN, *RULES]
    wanted = {"numpy": 1} if asked.quick else {"numpy": 20, "bytes": 5, "floats": 5, "leak": 5, "readers": 5}
    rows: list[tuple[str, ...]] = []
    wrong: list[str] = []
    if Headroom().read().available_bytes < 2 * course.total + 2048 * MIB:
        rows.append((f"not run: twice {course.total // MIB} MiB and 2 GiB must be available", *[""] * 10))
        wanted = {}
    for shape, runs_wanted in wanted.items():
        in_box = shape == "readers"
        with box(course.total) as room:
            missing = in_box and room is None
        if missing:
            rows.append((f"not run: {shape} needs a memory cgroup, and none may be made here", *[""] * 10))
            continue
        for rule, runs in race(shape, rules, course, runs_wanted, in_box=in_box).items():
            rows.append(row(rule, shape, runs, runs if asked.quick else counted(shape, runs)))
            wrong += [f"{rule}, {shape}: {run.wrong}" for run in runs if run.wrong]
    columns = ("rule", "hog", "counted", "GB/s", "dead", "least left MiB", "median", "line -> gone ms", "max", "by", "aim")
    print_table(f"a hog on a machine of {course.total // MIB} MiB, the line at {course.line // MIB} MiB ({machine()})", columns, rows)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
