"""Rules by which others end whoever takes the memory, as small loops of our own; each a process for hogs.py. Started as: RULE PID AVAILABLE LINE.

All see the same: AVAILABLE less the RSS that the hog has, in bytes, or with 0 what this machine has; below LINE they kill it, with its group. What they differ
in is when they look.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.adapters.headroom import Headroom

RULES: Final[dict[str, Callable[[int], float]]] = {
    "poll each 1 s": lambda _over: 1.0,
    "earlyoom's formula": lambda over: min(1.0, max(0.1, over / (6000 * 2**20))),
    "poll each 250 ms (Ray)": lambda _over: 0.25,
    "poll each 100 ms (Dask)": lambda _over: 0.1,
    "floor: poll each 5 ms, and nothing else": lambda _over: 0.005,
}
"""How long each waits before it looks again, where so many bytes are left over the line. earlyoom takes it that memory is filled at 6000 MiB a second at the
most, and looks between once a second and ten times."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def watch(rule: str, pid: int, available: int, line: int) -> None:
    """Look until the process is gone."""
    statm, headroom = os.open(f"/proc/{pid}/statm", os.O_RDONLY), Headroom()
    with suppress(ProcessLookupError):
        while True:
            left = available - _PAGE_BYTES * int(os.pread(statm, 128, 0).split()[1]) if available else headroom.read().available_bytes
            if left < line:
                os.killpg(pid, signal.SIGKILL)
                return
            time.sleep(RULES[rule](left - line))  # noqa: TID251  # what the rule is


if __name__ == "__main__":
    hog = int(sys.argv[2])
    assert Path(f"/proc/{hog}").exists()
    print("ready", flush=True)  # who started it waits for it
    watch(sys.argv[1], hog, int(sys.argv[3]), int(sys.argv[4]))
