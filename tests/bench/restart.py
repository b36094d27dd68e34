"""Measures SIGKILL of a process -> its successor's main() runs, under Warden, under supervisord and circus (--peers), and under the least that can do it.

The process is a few lines of C that write down when they began. Floor: asyncio, a pidfd, posix_spawn, and nothing else. Aims: under 3 floors with a cgroup
for each generation, under 50 ms without (the tree is then proved gone by a look through /proc). One process is killed at a time, after a healthy run.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from supervisor.adapters.cgroups import find_parent
from tests.bench._blip import blips, build, pause, wait_for
from tests.bench._peers import circus_command, install, running, supervisord_command
from tests.bench._warden import arguments, environment, scratch
from tests.support.measure import machine, print_table, quantile

WITH_AIM: Final = 3.0
WITHOUT_AIM_MS: Final = 50.0
HEALTHY_S: Final = 0.35
"""How long each process lives before it is killed: longer than healthy_after below, so that its restart is the first one and comes at once."""

FLOOR: Final = """
import asyncio, os, sys
argv = sys.argv[1:]
async def main():
    loop = asyncio.get_running_loop()
    def start():
        fd = os.pidfd_open(os.posix_spawn(argv[0], argv, os.environ, setsid=True))
        def ended():
            loop.remove_reader(fd)
            os.waitid(os.P_PIDFD, fd, os.WEXITED)
            os.close(fd)
            start()
        loop.add_reader(fd, ended)
    start()
    await asyncio.sleep(3600)
asyncio.run(main())
"""

TOML: Final = """schema_version = 1
[api]
bind = "off"
[watchdog]
healthy_after = "100ms"
[memory]
warn_below = "0"
emergency_below = "0"
hard_floor = "0"
[workers.one]
command = ["{program}", "{file}", "sleep"]
progress = "none"
"""

WITHOUT_CGROUPS: Final = ("unshare", "--mount", "sh", "-c", 'umount -a -l -t cgroup2 && exec "$@"', "sh")
"""Runs a command that sees no cgroup v2 hierarchy; needs root."""


def restarts(file: Path, runs: int) -> list[float]:
    """Return what each restart took, in ms."""
    took = []
    for number in range(1, runs + 1):
        last = wait_for(file, number)[-1]
        pause(HEALTHY_S)
        began_s = time.monotonic()
        os.kill(last.pid, signal.SIGKILL)
        took.append(1000 * (wait_for(file, number + 1)[-1].value_s - began_s))
    return took


@contextmanager
def started(command: list[str], folder: Path, program: Path, file: Path) -> Iterator[None]:
    """Run a supervisor of ours; it and what it started are gone afterwards."""
    with (folder / "out").open("ab") as out:
        process = subprocess.Popen(command, env=environment(), cwd=folder, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
        for blip in blips(file)[-1:]:  # the floor leaves its last one
            with suppress(OSError):
                if Path(f"/proc/{blip.pid}/exe").readlink() == program:
                    os.kill(blip.pid, signal.SIGKILL)


def warden(folder: Path, program: Path, runs: int, *, around: tuple[str, ...] = ()) -> list[float]:
    """Return the restarts under Warden. around: a command line that runs it in other circumstances."""
    folder.mkdir()
    file = folder / "blips"
    (folder / "supervisor.toml").write_text(TOML.format(program=program, file=file))
    command = [*around, sys.executable, "-m", "supervisor", "--config", str(folder / "supervisor.toml"), "run"]
    with started(command, folder, program, file):
        return restarts(file, runs)


def has_leaves() -> bool:
    """Return whether Warden can make cgroups here."""
    return find_parent() is not None


def ours(folder: Path, program: Path, runs: int) -> dict[str, list[float]]:
    """Return the restarts of the floor and of Warden, as far as this machine can show them."""
    floor = folder / "floor"
    floor.mkdir()
    with started([sys.executable, "-c", FLOOR, str(program), str(floor / "blips"), "sleep"], floor, program, floor / "blips"):
        found = {"floor: asyncio, pidfd, posix_spawn": restarts(floor / "blips", runs)}
    leaves = has_leaves()
    found[f"warden, {'a cgroup' if leaves else 'no cgroup'} for each generation"] = warden(folder / "w1", program, runs)
    if leaves and os.geteuid() == 0 and shutil.which("unshare"):
        found["warden, no cgroup"] = warden(folder / "w2", program, runs, around=WITHOUT_CGROUPS)
    else:
        print("warden with and without cgroups: only one of the two can be shown here; root and a cgroup v2 hierarchy show both")
    return found


def theirs(folder: Path, program: Path, runs: int) -> dict[str, list[float]]:
    """Return the restarts of the peers that could be installed."""
    programs = install(folder)
    found = {}
    for name, check_delay in (("supervisord", None), ("circus", 0.1), ("circus", None)):
        if name not in programs:
            continue
        place = folder / f"{name}-{check_delay}"
        place.mkdir()
        file = place / "blips"
        command = f"{program} {file} sleep"
        if name == "supervisord":
            line = supervisord_command(programs[name], place, command, count=1)
        else:
            line = circus_command(programs[name], place, command, count=1, check_delay=check_delay)
        with running(line, place):
            label = f"{name}, check_delay {check_delay or 5:g} s" if name == "circus" else name
            found[label] = restarts(file, runs if check_delay else max(3, runs // 3))
    return found


def main() -> int:
    """Print the table."""
    asked = arguments("peers")
    runs = 3 if asked.quick else 30
    with scratch() as folder:
        program = build(folder)
        found = ours(folder, program, runs)
        if asked.peers:
            found |= theirs(folder, program, runs)
        else:
            print("supervisord and circus are skipped: --peers installs and measures them")
    floor_ms = statistics.median(next(iter(found.values())))
    rows = []
    for name, took_ms in found.items():
        middle = statistics.median(took_ms)
        good = middle < WITHOUT_AIM_MS if "no cgroup" in name else middle < WITH_AIM * floor_ms
        verdict = ("ok" if good else "MISSED") if name.startswith("warden") and not asked.quick else ""
        rows.append((name, str(len(took_ms)), f"{middle:.2f}", f"{quantile(took_ms, 0.95):.2f}", f"{max(took_ms):.2f}", f"{middle / floor_ms:.1f}", verdict))
    title = f"SIGKILL -> running again, ms (aims: {WITH_AIM:g} floors with a cgroup, {WITHOUT_AIM_MS:g} ms without; {machine()})"
    print_table(title, ("what", "runs", "median", "p95", "max", "floors", "aim"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
