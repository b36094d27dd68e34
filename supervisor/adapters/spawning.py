"""Starts a program through the shim: a few lines of sh in the child do whatever could block or fail, and say why over a pipe."""

import asyncio
import fcntl
import os
import signal
from contextlib import suppress
from typing import Final

from supervisor.core.model import Exit
from supervisor.runtime.process_ports import FIRST_DESCRIPTOR, Launch

_ASIDE: Final = 64
"""Descriptors are put there before they get their numbers: in place, one might overwrite another that still has to move."""

SPAWN_MAX_S: Final = 10.0
"""A shim that has not run the program by then is stuck (in opening a log on a frozen disk, say)."""

# Runs in the child before the worker's own program. Its stderr is the report pipe: whatever it says there is why the spawn failed.
# The pipe closes at the exec, since the program's stderr is its log; so an empty report means that the program runs.
# Its names are its own, so that it changes none of the program's environment. It joins the cgroup first, so that nobody is ever born outside;
# where it cannot, the tree is known by its session and tag.
_SHIM: Final = """
warden_log=$1 warden_umask=$2 warden_oom=$3 warden_leaf=$4 warden_user=$5
umask "$warden_umask" || exit 125
[ ! -w "$warden_leaf/cgroup.procs" ] || { echo 0 > "$warden_leaf/cgroup.procs"; } 2>/dev/null
cd -- "$6" || exit 125
shift 6
[ "$warden_oom" = 0 ] || { echo "$warden_oom" > /proc/self/oom_score_adj; } 2>/dev/null
[ -z "$warden_user" ] || [ "$warden_user" = "$(id -un)" ] || {
    AS_USER
}
LOOK_UP
exec "$@" >> "$warden_log" 2>&1
"""

# Looked up before: bash runs no EXIT trap after a failed exec, and its message would go to the log.
_LOOK_UP: Final = """case $1 in */*) [ -f "$1" ] && [ -x "$1" ];; *) command -v -- "$1" > /dev/null;; esac || {
    echo "command not found or not executable${warden_user:+ for $warden_user}: $1" >&2; exit 127; }"""

# The log is opened before the rights are given up, the command is looked up after: that is who runs it.
_AS_USER: Final = r"""case $warden_user in *[!A-Za-z0-9._-]*|-*) echo "user \"$warden_user\" is no user's name" >&2; exit 126;; esac
    [ "$(id -u)" = 0 ] || { echo "user \"$warden_user\" found, but only root can become somebody else: run warden as root, or take it out" >&2; exit 126; }
    command -v setpriv > /dev/null || { echo "user \"$warden_user\" found, but there is no setpriv to become that user: install util-linux" >&2; exit 126; }
    warden_group=$(id -g -- "$warden_user" 2>/dev/null) || { echo "there is no user \"$warden_user\" on this machine: add it, or correct user" >&2; exit 126; }
    eval "warden_home=~$warden_user"
    export USER="$warden_user" LOGNAME="$warden_user" HOME="${HOME:-$warden_home}" warden_user
    exec 3>> "$warden_log" || exit 125
    exec setpriv --reuid="$warden_user" --regid="$warden_group" --init-groups -- /bin/sh -c 'LOOK_UP_AS_USER
unset warden_user
exec "$@" >&3 2>&3 3>&-' warden-shim "$@" """

_SCRIPT: Final = _SHIM.replace("AS_USER", _AS_USER).replace("LOOK_UP_AS_USER", _LOOK_UP).replace("LOOK_UP", _LOOK_UP)


def fork(launch: Launch, leaf: str) -> tuple[int, int, int]:
    """Return the read end of the report pipe, the child's pid and its pidfd. Does nothing that can block: the shim does. Raises OSError or ValueError.

    leaf: the folder of the cgroup that it joins; empty for none.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    aside: list[int] = []
    try:
        aside += (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for fd in launch.descriptors)
        given = (str(launch.log), launch.umask, str(launch.oom_score_adj), leaf, launch.user, str(launch.cwd))
        argv = ("/bin/sh", "-c", _SCRIPT, "warden-shim", *given, *launch.argv)
        pid = os.posix_spawn(
            "/bin/sh",
            argv,
            dict(launch.env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 2),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(aside, FIRST_DESCRIPTOR)),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
        )
    except (OSError, ValueError):  # ValueError: a NUL byte in the command or the environment
        os.close(read_end)
        raise
    finally:
        for fd in (write_end, *aside):
            os.close(fd)
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
