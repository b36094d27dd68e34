"""Measures what it costs to look out for memory: the CPU of the supervisor and of its guard while two workers idle, far from the line and close to it."""

import sys
import time
from pathlib import Path
from typing import Final

from tests.bench._warden import Warden, arguments, supervised
from tests.support.measure import cpu_s, machine, print_table, tree

PRETENDED: Final = "4GiB"
TOML: Final = """
[workers.idle]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
replicas = 2
"""
PLACES: Final = {
    "no line at all": ("0", "0", "0"),
    "3 GiB over the line: each 96 ms": ("2000MiB", "1GiB", "512MiB"),
    "1 GiB over the line, below warn_below: each 32 ms": ("4000MiB", "3GiB", "1GiB"),
    "within an eighth over the line: each 5 ms": ("4000MiB", "3900MiB", "3800MiB"),
}
"""warn_below, emergency_below and hard_floor on a machine of 4 GiB, of which two idle workers use 60 MiB."""


def guard_of(warden: Warden) -> int:
    """Return the pid of the guard."""
    return next(pid for pid in tree(warden.pid) if b"helpers/guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


def main() -> int:
    """Print the table."""
    asked = arguments()
    window_s = 2.0 if asked.quick else 60.0
    rows = []
    for name, (warn, emergency, floor) in PLACES.items():
        memory = f'[memory]\nwarn_below = "{warn}"\nemergency_below = "{emergency}"\nhard_floor = "{floor}"\n'
        with supervised(TOML, memory=memory, env={"WARDEN_PRETEND_MEMORY": PRETENDED}) as warden:
            warden.wait_ready("idle-0", "idle-1")
            pids = warden.pid, guard_of(warden)
            time.sleep(0.5 if asked.quick else 3.0)  # noqa: TID251  # what the start left to do is not idling
            before, began_s = [cpu_s(pid) for pid in pids], time.monotonic()
            time.sleep(window_s)  # noqa: TID251  # the window of the measurement
            took_s = time.monotonic() - began_s
            used = [100 * (cpu_s(pid) - first) / took_s for pid, first in zip(pids, before, strict=True)]
            rows.append((name, f"{used[0]:.2f}", f"{used[1]:.2f}", f"{0.6 * used[0]:.2f}", f"{0.6 * used[1]:.2f}"))
    columns = ("available", "supervisor, % of a core", "guard, %", "supervisor, CPU s/min", "guard, CPU s/min")
    print_table(f"two idle workers, over {window_s:g} s ({machine()})", columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
