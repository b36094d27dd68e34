"""Measures 100 programs: started, stopped, stopped while deaf to SIGTERM; and what 1 and 100 idle ones (500 with --full) cost the supervisor in CPU and memory.

They are the few lines of C of `_blip`, watched by their exit alone, so that nothing beats. Started: from the request to the last main(). Stopped: from the
request to the last process gone. With --peers also supervisord and circus, from the start of the program to the last main(), and from SIGTERM to the last gone.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench._blip import blips, build, pause, wait_for, wait_gone
from tests.bench._peers import circus_command, install, running, supervisord_command
from tests.bench._warden import Warden, arguments, scratch
from tests.support.measure import MIB, cpu_s, machine, print_table, pss_bytes

START_AIM_S: Final = 0.4
STOP_AIM_S: Final = 0.15
GRACE_S: Final = 1.0
DEAF_AIM_S: Final = GRACE_S + 0.1
IDLE_AIM_S_PER_MIN: Final = 0.15
SETTLE_S: Final = 3.0

TOML: Final = """
[watchdog]
stop_grace = "{grace}s"
[workers.many]
command = ["{program}", "{file}", "{how}"]
progress = "none"
autostart = false
replicas = {count}
"""


@contextmanager
def wardens(folder: Path, program: Path, *, count: int, how: str = "sleep") -> Iterator[tuple[Warden, Path]]:
    """Yield a supervisor with so many programs that are down, and the file where each says that it runs."""
    folder.mkdir()
    file = folder / "blips"
    warden = Warden(folder, TOML.format(grace=GRACE_S, program=program, file=file, how=how, count=count))
    try:
        warden.wait_ready()
        yield warden, file
    finally:
        warden.stop()


def up_and_down(folder: Path, program: Path, *, count: int, how: str, runs: int) -> tuple[list[float], list[float]]:
    """Return how long each start and each stop of all of them took, in seconds."""
    starts, stops = [], []
    with wardens(folder, program, count=count, how=how) as (warden, file):
        for number in range(1, runs + 1):
            began_s = time.monotonic()
            warden.ask("workers.start", name="many")
            found = wait_for(file, number * count)
            starts.append(max(blip.value_s for blip in found[-count:]) - began_s)
            pause(1.0)
            pids = [blip.pid for blip in found[-count:]]
            began_s = time.monotonic()
            warden.ask("workers.stop", name="many")
            stops.append(wait_gone(pids) - began_s)
            while {worker.state for worker in warden.status().workers} != {"down"}:
                pause(0.05)
    return starts, stops


def peers(folder: Path, program: Path, *, count: int, runs: int) -> list[tuple[str, ...]]:
    """Return one row for each peer that could be installed."""
    rows: list[tuple[str, ...]] = []
    for name, path in install(folder).items():
        starts, stops = [], []
        for number in range(runs):
            place = folder / f"{name}-{number}"
            place.mkdir()
            file = place / "blips"
            line = (supervisord_command if name == "supervisord" else circus_command)(path, place, f"{program} {file} sleep", count=count)
            began_s = time.monotonic()
            with running(line, place) as process:
                found = wait_for(file, count)
                starts.append(max(blip.value_s for blip in found) - began_s)
                pause(1.0)
                began_s = time.monotonic()
                process.terminate()
                stops.append(wait_gone([blip.pid for blip in found]) - began_s)
        rows.append((f"{name}, its own start included", str(count), f"{statistics.median(starts):.3f}", "", f"{statistics.median(stops):.3f}", ""))
    return rows


def idle(folder: Path, program: Path, *, count: int, window_s: float) -> tuple[float, float]:
    """Return the CPU seconds a minute and the PSS in MiB of a supervisor with so many idle programs."""
    with wardens(folder, program, count=count) as (warden, file):
        warden.ask("workers.start", name="many")
        wait_for(file, count)
        pause(SETTLE_S)
        before, began_s = cpu_s(warden.pid), time.monotonic()
        pause(window_s)
        used_s = 60 * (cpu_s(warden.pid) - before) / (time.monotonic() - began_s)
        assert len(blips(file)) == count, "one of them was started again"
        return used_s, pss_bytes(warden.pid) / MIB


def main() -> int:
    """Print both tables."""
    asked = arguments("peers", "full")
    count, runs, window_s = (20, 1, 2.0) if asked.quick else (100, 5, 60.0)
    judged = not asked.quick
    rows: list[tuple[str, ...]] = []
    with scratch() as folder:
        program = build(folder)
        for how, aim_s in (("sleep", STOP_AIM_S), ("deaf", DEAF_AIM_S)):
            starts, stops = up_and_down(folder / how, program, count=count, how=how, runs=runs)
            start_s, stop_s = statistics.median(starts), statistics.median(stops)
            verdicts = ("ok" if start_s < START_AIM_S else "MISSED", "ok" if stop_s < aim_s else "MISSED") if judged else ("", "")
            label = f"warden, {'deaf, grace 1 s' if how == 'deaf' else 'ordinary'}"
            rows.append((label, str(count), f"{start_s:.3f}", verdicts[0], f"{stop_s:.3f}", verdicts[1]))
        rows += peers(folder, program, count=count, runs=max(1, runs // 2)) if asked.peers else []
        if not asked.peers:
            print("supervisord and circus are skipped: --peers installs and measures them")
        costs = []
        for number in (1, 100, *((500,) if asked.full else ())):
            used_s, size = idle(folder / f"idle-{number}", program, count=number, window_s=window_s)
            verdict = ("ok" if used_s < IDLE_AIM_S_PER_MIN else "MISSED") if judged and number == count else ""
            costs.append((str(number), f"{used_s:.3f}", verdict, f"{size:.1f}"))
    title = f"so many programs, s, median of {runs} (aims: {START_AIM_S} up, {STOP_AIM_S} down, {DEAF_AIM_S} deaf; {machine()})"
    print_table(title, ("what", "count", "up", "aim", "down", "aim"), rows)
    title = f"idle programs without beats over {window_s:g} s (aim at 100: {IDLE_AIM_S_PER_MIN} CPU s a minute; {machine()})"
    print_table(title, ("count", "CPU s/min", "aim", "PSS MiB"), costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
