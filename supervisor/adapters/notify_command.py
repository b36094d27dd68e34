"""Runs the operator's [notify] command when a person is needed: in a thread, one at a time, never for long, never too often."""

import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from supervisor.units import say_duration

NEEDS_A_PERSON: Final = frozenset(
    {
        "worker_quarantined",
        "worker_unkillable",
        "worker_spawn_failed",
        "gpu_refused",
        "disk_low",
        "emergency_brake",
        "memory_outside",
        "memory_limit_helpless",
        "store_failed",
        "log_stuck",
        "device_lost",
        "device_unverifiable",
        "device_unresponsive",
        "config_refused",
    }
)
"""The events that the command is run for."""

DEADLINE_S: Final = 30.0
EVERY_S: Final = 300.0
"""The same event of the same worker runs the command at most this often."""
SAID_EVERY_S: Final = 60.0
WAITING_MAX: Final = 8
_OUTPUT_MAX: Final = 4096
_REASON_MAX: Final = 4096
_LEAVE_S: Final = 2.0
_STEP_S: Final = 0.25
_NOT_HANDED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

# The command is run by sh, which is there and needs no disk: a program on a disk that hangs hangs in a child, not in our fork.
_EXEC: Final = 'exec "$@"'


class _Notice(Struct, frozen=True):
    event: str
    reason: str
    worker: str
    job: str


class NotifyCommand:
    """The [notify] command. An empty one does nothing."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        say: Callable[[str, Mapping[str, object]], None],
        deadline_s: float = DEADLINE_S,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """say(event, fields) must be callable from a thread. The thread starts with the first notice."""
        self._command = tuple(command)
        self._environ = {name: value for name, value in environ.items() if name not in _NOT_HANDED_ON}
        self._say = say
        self._deadline_s = deadline_s
        self._every_s = every_s
        self._clock = clock
        self._last_s: dict[tuple[str, str], float] = {}
        self._failed_s: float | None = None
        self._failures = 0
        self._dropped = 0
        self._waiting: queue.Queue[_Notice | None] = queue.Queue(WAITING_MAX)
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, event: str, *, reason: str = "", worker: str = "", job: str = "") -> bool:
        """Run the command for this. Never waits. Returns False when it will not run: told lately, too many wait, or there is no command."""
        now_s = self._clock()
        last_s = self._last_s.get((event, worker))
        if not self._command or self._leave.is_set() or (last_s is not None and now_s - last_s < self._every_s):
            return False
        try:
            self._waiting.put_nowait(_Notice(event, reason, worker, job))
        except queue.Full:
            self._dropped += 1
            return False
        self._last_s = {key: at_s for key, at_s in self._last_s.items() if now_s - at_s < self._every_s} | {(event, worker): now_s}
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="notify-command", daemon=True)
            self._thread.start()
        return True

    def set_command(self, command: Sequence[str]) -> None:
        """Take another command from the next notice on."""
        self._command = tuple(command)

    def close(self, within_s: float = _LEAVE_S) -> None:
        """Give what runs and waits this long, then end it."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(within_s)
            self._leave.set()
            self._thread.join(2 * _STEP_S)
        self._leave.set()

    def _run(self) -> None:
        while not self._leave.is_set() and (notice := self._waiting.get()) is not None:
            began_s = time.monotonic()
            try:
                problem, output = self._one(notice)
            except (OSError, ValueError) as error:  # no process, no descriptor, a NUL byte in the command
                problem, output = f"it could not be started: {error}", ""
            about = {"about": notice.event, "worker": notice.worker, "output": output, "dropped": self._dropped}
            fields = {key: value for key, value in about.items() if value}
            if problem:
                self._failure({**fields, "reason": problem})
            else:
                self._dropped = 0
                self._say("notify_done", {**fields, "took_s": round(time.monotonic() - began_s, 3)})

    def _one(self, notice: _Notice) -> tuple[str, str]:
        """Run it once. Returns what was wrong (empty: nothing) and what it printed."""
        given = {"WARDEN_EVENT": notice.event, "WARDEN_REASON": notice.reason[:_REASON_MAX], "WARDEN_WORKER": notice.worker, "WARDEN_JOB": notice.job}
        with subprocess.Popen(
            ("/bin/sh", "-c", _EXEC, "warden-notify", *self._command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environ, **{name: value.replace("\0", "") for name, value in given.items()}},
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                output, ended = self._wait(process)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so the group is still its own; nothing of it stays behind
        text = output[:_OUTPUT_MAX].decode(errors="replace").strip()
        if not ended:
            return f"it was still running after {say_duration(self._deadline_s)} and was killed", text
        return (f"it ended with code {process.returncode}" if process.returncode else ""), text

    def _wait(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, bool]:
        """Return what it printed, and whether it ended by itself. A child that it leaves behind may hold the pipe: the end is the process's own."""
        end_s = time.monotonic() + self._deadline_s
        output = bytearray()
        pidfd = os.pidfd_open(process.pid)
        assert process.stdout is not None  # noqa: S101  # stdout=PIPE
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(pipe, selectors.EVENT_READ)
                while (left_s := end_s - time.monotonic()) > 0 and not self._leave.is_set():
                    ready = {key.fd for key, _ in selector.select(min(left_s, _STEP_S))}
                    if pipe in ready and not _read(pipe, output):
                        selector.unregister(pipe)
                    if pidfd in ready:
                        _read(pipe, output)
                        return bytes(output), True
        finally:
            os.close(pidfd)
        return bytes(output), False

    def _failure(self, fields: Mapping[str, object]) -> None:
        """Say it, once a minute."""
        self._failures += 1
        now_s = self._clock()
        if self._failed_s is None or now_s - self._failed_s >= SAID_EVERY_S:
            more = {"failures": self._failures} if self._failures > 1 else {}
            self._say("notify_failed", {**fields, "command": " ".join(self._command), **more})
            self._failed_s, self._failures, self._dropped = now_s, 0, 0


def _read(pipe: int, output: bytearray) -> bool:
    """Take what is there, keep its beginning. Returns False at the end of the pipe."""
    try:
        data = os.read(pipe, 65536)
    except BlockingIOError:
        return True
    output += data[: max(0, _OUTPUT_MAX - len(output))]
    return bool(data)
