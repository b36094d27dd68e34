"""`warden gpu run`: any program under a lease that ends with the program's own process, however that ends.

The child that is forked here waits for the device and then becomes the program: the process that was proved to the supervisor is the one that uses the device.
This process hands signals on, and ends as the program does; if it is killed, the kernel kills the program.
"""

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

import click

from supervisor.cli.context import Context
from supervisor.cli.locks import asking, refuse, wait_s
from supervisor.cli.waiting import locked

_HANDED_ON: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH})
_OF_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and a program that it becomes would go on ignoring."""
_PR_SET_PDEATHSIG: Final = 1
_NOT_FOUND: Final = 127
_NOT_RUNNABLE: Final = 126
_OF_A_SIGNAL: Final = 128


@asking
@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD …")
@click.pass_obj
def run(context: Context, /, *, command: tuple[str, ...], need: str, priority: int, timeout: float | None, device: str, ticket: str) -> None:
    """Run a program when it has the device. It sees that device alone (CUDA_VISIBLE_DEVICES); the lease ends with it, and so does this command.

    Exit: the program's own code, 128+n for signal n; 75 when the device was not granted in time; 127 for a program that is not there.
    """
    program = shutil.which(command[0])
    if program is None:
        print(f"{command[0]}: there is no such program", file=sys.stderr)
        sys.exit(_NOT_FOUND)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_HANDED_ON, signal.SIGCHLD})
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child:
        sys.exit(_end_of(child))
    _die_with(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    asked = {"owner": os.path.basename(program), "need": need, "priority": priority, "device": device, "pid": os.getpid(), "ttl_s": 0.0}  # noqa: PTH119  # of a text
    view = locked(context, asked, timeout_s=wait_s(context, timeout), ticket=ticket)
    if not view.granted:
        refuse(view)
    _become(program, command, {**os.environ, **view.env, "WARDEN_LEASE": view.lease or "", "WARDEN_FENCE": str(view.fence)})


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends. A program that changes its user on its way takes that back."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def _become(program: str, command: tuple[str, ...], environ: Mapping[str, str]) -> NoReturn:
    for number in _OF_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, command, environ)  # noqa: S606  # what the user named
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_RUNNABLE)


def _end_of(child: int) -> int:
    """Hand signals on until the program ends, and return its exit code. A signal of the terminal's went to the program as well: it is not sent twice."""
    while True:
        info = signal.sigwaitinfo({*_HANDED_ON, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code <= 0:  # somebody's kill(); what the kernel sends is above
                os.kill(child, info.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _OF_A_SIGNAL - code
