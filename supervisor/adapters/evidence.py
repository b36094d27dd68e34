"""What can be seen of a worker that is about to be killed: its stacks, its state, the end of its log. For a thread; ends within three seconds."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.adapters import proc
from supervisor.core.model import Evidence

BUDGET_S: Final = 3.0
_STACK_MAX_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 16 * 1024
_TAIL_LINES: Final = 50
_QUIET_S: Final = 0.1
_LOOK_S: Final = 0.02


def gather(pid: int, pidfd: int, log: Path) -> Evidence:
    """Return the evidence. Stacks are asked for only where the process catches SIGUSR1: it would die of the signal otherwise."""
    story = proc.story(pid)
    before = tail(log)
    stack = _stack(pidfd, log) if proc.catches(pid, signal.SIGUSR1) else ""
    return Evidence(stack=stack, process=story, log_tail=before)


def tail(log: Path) -> tuple[str, ...]:
    """Return the last 50 lines of a log, whatever bytes are in it; none where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ()


def _stack(pidfd: int, log: Path) -> str:
    """Make the process write its stacks into its own log, by faulthandler, which needs no GIL; return what it wrote."""
    end_s = time.monotonic() + BUDGET_S - 0.5
    try:
        start = log.stat().st_size
        signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
    except OSError:
        return ""
    size, grown_at_s = start, None
    while time.monotonic() < end_s:
        now_size = log.stat().st_size if log.exists() else start
        if now_size != size:
            size, grown_at_s = now_size, time.monotonic()
        elif grown_at_s is not None and time.monotonic() - grown_at_s >= _QUIET_S:
            break
        time.sleep(_LOOK_S)
    with suppress(OSError), log.open("rb") as file:
        file.seek(start)
        return file.read(_STACK_MAX_BYTES).decode(errors="replace").strip()
    return ""
