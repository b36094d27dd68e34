"""What can be seen of a worker that is about to be killed: its stacks, its state, the end of its log. For a thread; ends within three seconds."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.adapters import proc
from supervisor.adapters.trees import Record
from supervisor.core.model import Evidence

BUDGET_S: Final = 3.0
_STACK_MAX_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 16 * 1024
_TAIL_LINES: Final = 50
_QUIET_S: Final = 0.1
_BUSY_QUIET_S: Final = 1.0
"""A process that has work to do may be in the middle of its dump and wait for a processor: so long without another line means that it is not."""
_HEADER: Final = b"hread 0x"
"""Of each thread in faulthandler's dump ("Thread 0x", "Current thread 0x"). What comes before one is the program's own output, and no answer."""
_LOOK_S: Final = 0.02
_CHILDREN_MAX: Final = 20
_CANNOT: Final = {"T": "is stopped by a signal", "t": "is held by a debugger", "Z": "has ended", "X": "has ended"}


def gather(record: Record, pidfd: int) -> Evidence:
    """Return the evidence on a recorded generation. pidfd: its leader's.

    Stacks are asked for only where the process catches SIGUSR1 (it would die of the signal otherwise), and can answer: one that is stopped cannot.
    """
    log = Path(record.log)
    story = proc.story(record.pid)
    before = tail(log, record.log_bytes)
    mute = _mute(record.pid)
    stack = "" if mute else _stack(record.pid, pidfd, log)
    why = "" if stack else f"; no stack: it {mute or 'did not answer SIGUSR1'}"
    return Evidence(stack=stack, process=f"{story}; {_children(record)}{why}", log_tail=before)


def _mute(pid: int) -> str:
    """Return why the process cannot be asked for its stacks; empty where it can."""
    seen = proc.look(pid)
    if seen is None or seen.state in _CANNOT:
        return _CANNOT[seen.state if seen else "X"]
    return "" if proc.catches(pid, signal.SIGUSR1) else "does not take SIGUSR1"


def _children(record: Record) -> str:
    """Return who else lives of its tree, by pid and name."""
    others = [f"{member.pid} {member.name}{' (stopped)' if member.state in 'Tt' else ''}" for member in record.members() if member.pid != record.pid]
    more = f" and {len(others) - _CHILDREN_MAX} more" if len(others) > _CHILDREN_MAX else ""
    return f"children: {', '.join(others[:_CHILDREN_MAX])}{more}" if others else "no children"


def tail(log: Path, since: int = 0) -> tuple[str, ...]:
    """Return the last 50 lines of a log, whatever bytes are in it; none where there is no log.

    since: how long it was when its generation began; what stands before is of earlier ones. A log that is shorter by now lost its head meanwhile.
    """
    try:
        with log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ()


def _stack(pid: int, pidfd: int, log: Path) -> str:
    """Make the process write its stacks into its own log, by faulthandler, which needs no GIL; return what it wrote."""
    end_s = time.monotonic() + BUDGET_S - 0.5
    try:
        start = log.stat().st_size
        signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
    except OSError:
        return ""
    size, grown_at_s = start, time.monotonic()
    while time.monotonic() < end_s:
        now_size = log.stat().st_size if log.exists() else start
        quiet_s = time.monotonic() - grown_at_s
        if now_size != size:
            size, grown_at_s = now_size, time.monotonic()
        elif quiet_s >= _QUIET_S and (quiet_s >= _BUSY_QUIET_S or not proc.is_running(pid)) and _HEADER in _added(log, start, size):
            break
        time.sleep(_LOOK_S)
    return _added(log, start, size).decode(errors="replace").strip()


def _added(log: Path, start: int, size: int) -> bytes:
    """Return what was written into a log since it was so long; its end, where it is shorter by now: its head was taken away meanwhile."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(start if size >= start else max(0, size - _TAIL_BYTES))
        return file.read(_STACK_MAX_BYTES)
    return b""
