"""The line to a probe: asks it with a deadline, and abandons, counts and replaces one that does not answer. Nothing here ever waits for one to end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from supervisor.adapters import spawning
from supervisor.core.model import DeviceState
from supervisor.errors import WireError
from supervisor.probing import HELLO, MODULE, Answer, Question, Xid, answer_in, encode
from supervisor.runtime.ports import DeviceError

_CHUNK_BYTES: Final = 64 * 1024
_LINE_MAX_BYTES: Final = 1024 * 1024
_CLOSE_S: Final = 1.0
_NOT_HANDED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_ENDED: Final = "the probe ended before it answered"
HUNG: Final = "look at dmesg (NVRM, Xid) and at nvidia-smi: a driver that hangs wants the machine restarted, as a rule"


class Patience(Struct, frozen=True, kw_only=True):
    """How long is waited, in seconds, and how often it is tried."""

    hello_s: float = 10.0  # for a process to start; it has not touched the driver then
    first_s: float = 10.0  # for its first answer: a driver without another client sets each card up anew, 1 to 3 s by its vendor
    answer_s: float = 2.0  # for each answer after
    start_s: float = 3.0  # for the driver's first answer as the supervisor starts: a card that comes later is taken then
    pause_s: float = 1.0  # before another probe after a failure, doubled with each one more
    pause_max_s: float = 30.0
    tries: int = 3  # failures in a row after which the device is unresponsive; and so many abandoned ones may live at once


def command() -> tuple[str, ...]:
    """Return how a probe is started."""
    return (sys.executable, "-P", "-m", MODULE, str(os.getpid()))


class _GoneError(Exception):
    """The probe ended, or was abandoned, before it answered."""


class _Probe:
    """One process, and what it was asked."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], hear: Callable[[Xid], None]) -> None:
        """Start it. Raises OSError."""
        self._hear = hear
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[None] = loop.create_future()
        self.up.add_done_callback(_retrieved)
        self.answered = False
        self.ended = asyncio.Event()
        self._serial = HELLO
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._torn = b""
        self._line, theirs = socket.socketpair()
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                {name: value for name, value in environ.items() if name not in _NOT_HANDED_ON},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)],
                setsid=True,  # Ctrl-C is for the supervisor, which still needs its readings
                setsigmask=[],
                setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
            )
            self._pidfd = _watched(pid)
            self.pid = pid
        except OSError:
            self._line.close()
            raise
        finally:
            theirs.close()
        self._line.settimeout(0)
        loop.add_reader(self._line, self._readable)
        loop.add_reader(self._pidfd, self._reap)

    def ask(self, card: str, place: int) -> "asyncio.Future[Answer]":
        """Send a question; the answer comes into the future, or _GoneError."""
        self._serial += 1
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        self._asked[self._serial] = future
        try:
            self._line.send(encode(Question(serial=self._serial, card=card, place=place)))  # a line is far smaller than what the kernel takes at once
        except OSError:  # it ended, or has read nothing for a thousand questions
            self.abandon()
        return future

    def abandon(self) -> None:
        """Listen to it no longer, and kill it; whether that helps, and when, is not waited for."""
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()
        if not self.up.done():
            self.up.set_exception(_GoneError())
        for future in self._asked.values():
            if not future.done():
                future.set_exception(_GoneError())
        self._asked.clear()
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _readable(self) -> None:
        try:
            data = self._line.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._torn = (self._torn + data).split(b"\n")
        try:
            for line in lines:
                self._take(answer_in(line))
        except WireError:
            data = b""
        if not data or len(self._torn) > _LINE_MAX_BYTES:
            self.abandon()

    def _take(self, answer: Answer) -> None:
        if answer.serial == HELLO and not self.up.done():
            self.up.set_result(None)
        if answer.xid is not None:
            self._hear(answer.xid)
        future = self._asked.pop(answer.serial, None)
        if future is not None and not future.done():  # one that nobody waits for any more is late
            self.answered = True
            future.set_result(answer)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        spawning.reap(self._pidfd)
        os.close(self._pidfd)
        self.ended.set()
        self.abandon()


def _watched(pid: int) -> int:
    """Return a pidfd of a child. Raises OSError, and the child is gone, where no descriptor is left: nobody could watch it."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is ours
        os.waitpid(pid, 0)
        raise


class ProbeClient:
    """One probe at a time, and those that were abandoned and have not ended yet. abandoned: how many there were in all."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        patience: Patience | None = None,
        argv: Sequence[str] | None = None,
        hear: Callable[[Xid], None] = lambda _: None,
    ) -> None:
        """Start nothing yet. environ: what the probe gets; the driver's library is looked for by it. hear: is told of the faults of the card."""
        self.abandoned = 0
        self._environ = environ
        self._patience = patience or Patience()
        self._argv = argv or command()
        self._hear = hear
        self._probe: _Probe | None = None
        self._left: list[_Probe] = []
        self._failures = 0  # in a row, of a probe or of the card
        self._silent = 0  # in a row, of a probe
        self._why: tuple[str, DeviceState | None] = ("it was not asked yet", None)
        self._retry_at_s = 0.0

    def pids(self) -> set[int]:
        """Return the probes that live, or were abandoned and are not known to have ended."""
        return {probe.pid for probe in (*self._left, *([self._probe] if self._probe else [])) if not probe.ended.is_set()}

    async def begin(self) -> None:
        """Return once a probe is there; the driver has not been asked for anything. Raises DeviceError as `ask` does."""
        await self._up(self._probe or self._start())

    async def _up(self, probe: _Probe) -> None:
        try:
            async with asyncio.timeout(self._patience.hello_s):
                await asyncio.shield(probe.up)
        except TimeoutError:
            self._give_up(probe, f"the probe did not start within {self._patience.hello_s:g} s")
            raise self._error() from None
        except _GoneError:
            self._give_up(probe, _ENDED)
            raise self._error() from None

    async def ask(self, card: str = "", place: int = -1) -> Answer:
        """Return a reading of the card, or the list of cards. Raises DeviceError, at once where the last failure is too short a time ago.

        place: the driver's number for the card, -1 where it is not known.
        """
        patience = self._patience
        probe = self._probe or self._start()
        await self._up(probe)
        within_s = patience.answer_s if probe.answered else patience.first_s
        try:
            async with asyncio.timeout(within_s):
                answer = await probe.ask(card, place)
        except TimeoutError:
            self._give_up(probe, f"the driver gave no answer within {within_s:g} s")
        except _GoneError:
            self._give_up(probe, _ENDED)
        else:
            if answer.trouble is None:
                self._failures = self._silent = 0
                return answer
            self._silent = 0
            if self._probe is probe:  # an open handle would hold off a reset of the card; and a driver that was replaced is loaded anew
                self._drop(probe, f"{answer.trouble.what}; {answer.trouble.hint}", DeviceState(answer.trouble.state))
        raise self._error()

    async def close(self) -> None:
        """End all of them, and wait a moment, no longer."""
        probes = [*self._left, *([self._probe] if self._probe else [])]
        self._probe = None
        for probe in probes:
            probe.abandon()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                for probe in probes:
                    await probe.ended.wait()

    def _start(self) -> _Probe:
        self._left = [probe for probe in self._left if not probe.ended.is_set()]
        if asyncio.get_running_loop().time() < self._retry_at_s:
            raise self._error()
        if len(self._left) >= self._patience.tries:
            self._why = (f"{len(self._left)} probes hang in the driver and cannot be ended; {HUNG}", DeviceState.UNRESPONSIVE)
            raise self._error()
        try:
            self._probe = _Probe(self._argv, self._environ, self._hear)
        except OSError as error:
            self._why = (f"the probe could not be started: {error.strerror}", None)
            raise self._error() from error
        return self._probe

    def _give_up(self, probe: _Probe, why: str) -> None:
        """Abandon a probe that is silent, unless somebody else did already."""
        if self._probe is not probe:
            return
        self.abandoned += 1
        self._silent += 1
        words = f"{why}, and was abandoned ({self._silent} in a row)"
        self._drop(probe, f"{words}; {HUNG}", DeviceState.UNRESPONSIVE if self._silent >= self._patience.tries else None)

    def _drop(self, probe: _Probe, why: str, state: DeviceState | None) -> None:
        self._probe = None
        probe.abandon()
        self._left.append(probe)
        pause_s = min(self._patience.pause_s * 2**self._failures, self._patience.pause_max_s)
        self._failures = min(self._failures + 1, 30)
        self._retry_at_s = asyncio.get_running_loop().time() + pause_s
        self._why = (why, state)

    def _error(self) -> DeviceError:
        return DeviceError(*self._why)


def _retrieved(future: "asyncio.Future[None] | asyncio.Future[Answer]") -> None:
    """Look at what became of a future: whoever asked may be gone."""
    if not future.cancelled():
        future.exception()
