"""Starts a program through the shim: a few lines of sh in the child do whatever could block or fail, and say why over a pipe."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

from supervisor.core.model import Exit
from supervisor.runtime.ports import Launch

SPAWN_MAX_S: Final = 10.0
"""A shim that has not run the program by then is stuck (in opening a log on a frozen disk, say)."""

# Runs in the child before the worker's own program. Its stderr is the report pipe: whatever it says there is why the spawn failed.
# The pipe closes at the exec, since the program's stderr is its log; so an empty report means that the program runs.
_SHIM: Final = """
log=$1 umask=$2 oom=$3
umask "$umask" || exit 125
cd -- "$4" || exit 125
shift 4
[ "$oom" = 0 ] || { echo "$oom" > /proc/self/oom_score_adj; } 2>/dev/null
case $1 in */*) [ -f "$1" ] && [ -x "$1" ];; *) command -v -- "$1" > /dev/null;; esac || { echo "command not found or not executable: $1" >&2; exit 127; }
exec "$@" >> "$log" 2>&1
"""


def fork(launch: Launch) -> tuple[int, int, int]:
    """Return the read end of the report pipe, the child's pid and its pidfd. Does nothing that can block: the shim does. Raises OSError or ValueError."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        argv = ("/bin/sh", "-c", _SHIM, "warden-shim", str(launch.log), launch.umask, str(launch.oom_score_adj), str(launch.cwd), *launch.argv)
        pid = os.posix_spawn(
            "/bin/sh",
            argv,
            dict(launch.env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
        )
    except (OSError, ValueError):  # ValueError: a NUL byte in the command or the environment
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        return read_end, pid, os.pidfd_open(pid)
    except OSError:  # no descriptor is left: nobody could watch it
        os.close(read_end)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is ours
        os.waitpid(pid, 0)
        raise


async def report(read_end: int) -> str:
    """Return why the shim did not get as far as the program; empty when it did. Closes the pipe."""
    os.set_blocking(read_end, False)
    said = b""
    try:
        while await readable(read_end, SPAWN_MAX_S):
            data = os.read(read_end, 4096)
            if not data:
                return said.decode(errors="replace").strip().removeprefix("warden-shim: ")
            said += data
        return f"the program did not start within {SPAWN_MAX_S:g} s: its log or its folder does not answer"
    finally:
        os.close(read_end)


async def readable(fd: int, within_s: float) -> bool:
    """Return True once the descriptor is readable, False when that did not happen in time."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(within_s):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


def reap(pidfd: int) -> Exit:
    """Return how the process ended, and let the kernel forget it."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return Exit("unknown")
    if result is None:
        return Exit("unknown")
    if result.si_code == os.CLD_EXITED:
        return Exit("code", result.si_status)
    with suppress(ValueError):
        return Exit("signal", result.si_status, signal.Signals(result.si_status).name)
    return Exit("signal", result.si_status)
