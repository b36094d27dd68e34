"""The line to the guard: two pieces of shared memory, what it may do on one and what it did on the other. It is started anew where it ends."""

import asyncio
import fcntl
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import supervisor
from supervisor.adapters import spawning
from supervisor.core.events import GuardActed, GuardKilled
from supervisor.core.limits import JSONValue
from supervisor.core.model import WorkerName

_SCRIPT: Final = Path(supervisor.__file__).parent / "helpers" / "guard.py"
HEAD: Final = struct.Struct("<ddQQQ")
HEAD_AT: Final = 8
"""As in the guard, which imports nothing of ours: a test compares."""
_PAGE_BYTES: Final = 2**20
_AGAIN_S: Final = 1.0
_ASIDE: Final = 64
"""Descriptors are put there, for the guard gets them under low numbers."""


class Page:
    """What the guard goes by, so written that it never takes the half of it."""

    def __init__(self, memory: mmap.mmap) -> None:
        """Write into this memory, which is all zero."""
        self._memory = memory
        self._words = memoryview(memory).cast("Q")  # one word of it is written at once; what `struct` writes is not
        self._instants = memoryview(memory).cast("d")
        self._published: tuple[bytes, float, int, int] = (b"", 0.0, -1, 0)

    def publish(self, text: str, *, floor_bytes: int, pretended_bytes: int, ending_at_s: float, now_s: float) -> None:
        """Let it act by this from now on: below the floor (0: never), on the victims in the text, the first first.

        ending_at_s: when the supervisor killed the last of those whose process is still there (0: nobody's is).
        """
        body = text.encode()[: len(self._memory) - HEAD_AT - HEAD.size]
        fresh = (body, ending_at_s, floor_bytes, pretended_bytes)
        if fresh == self._published:
            self._instants[1] = now_s
            return
        self._published = fresh
        self._words[0] += 1  # odd: it is being written
        HEAD.pack_into(self._memory, HEAD_AT, now_s, ending_at_s, floor_bytes, pretended_bytes, len(body))
        self._memory[HEAD_AT + HEAD.size : HEAD_AT + HEAD.size + len(body)] = body
        self._words[0] += 1


class GuardClient:
    """One guard at a time."""

    def __init__(self, say: Callable[[str, Mapping[str, JSONValue]], None]) -> None:
        """Say by `say` when it had to be started again, and what it could not do."""
        self._say = say
        self._closing = False
        self._pidfd = 0
        self._told, self._begun = 1, 0  # lines of its text, which begins with a break; the last whose kill was told
        self._page, self._kills = Page(mmap.mmap(-1, _PAGE_BYTES)), mmap.mmap(-1, _PAGE_BYTES)  # nobody's, until one is started
        self._start()

    @property
    def page(self) -> Page:
        """What the one guard goes by that there is."""
        return self._page

    def ended(self, worker: WorkerName, generation: int) -> bool:
        """Return whether it ended this process: it writes that down before it does."""
        return f"\n{worker}#{generation}\t" in self._text()

    def news(self) -> list[GuardKilled | GuardActed]:
        """Return what it did since the last question: whom it has killed, and whose end it has seen."""
        found: list[GuardKilled | GuardActed] = []
        lines = self._text().split("\n")
        for place, line in enumerate(lines[self._told :], self._told):
            over = place < len(lines) - 1
            if "\t" in line:
                name, available, floor, held, *took = line.split("\t")
                text, _, number = name.rpartition("#")
                worker, generation, available_bytes, held_bytes = WorkerName(text), int(number), int(available), int(held)
                if place > self._begun:
                    self._begun = place
                    found.append(GuardKilled(worker=worker, generation=generation, available_bytes=available_bytes, held_bytes=held_bytes))
                if over:
                    found.append(
                        GuardActed(
                            worker=worker,
                            generation=generation,
                            available_bytes=available_bytes,
                            floor_bytes=int(floor),
                            freed_bytes=held_bytes,
                            took_s=float(took[0]),
                        )
                    )
            elif over and line != "locked":
                self._say("guard_weak", {"reason": f"the guard's pages are {line}: where memory is short it may have to be read from the disk first"})
        self._told = len(lines) - 1
        return found

    def close(self) -> None:
        """End it, and wait for that: it is ours and asks nobody."""
        self._closing = True
        if self._pidfd:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._pidfd = 0

    def _text(self) -> str:
        return "\n" + self._kills[: self._kills.find(b"\0")].decode()

    def _start(self) -> None:
        """Start one. Where the system has no room for another process it is said, and tried again: that ends nobody."""
        try:
            with ExitStack() as stack:
                (page, page_fd), (kills, kills_fd) = _shared("warden-guard-page", stack), _shared("warden-guard-kills", stack)
                self._pidfd = _spawned(page_fd, kills_fd, self._exited)
        except OSError as error:
            self._say("guard_ended", {"reason": f"another could not be started: {error}: tried again in {_AGAIN_S:g} s"})
            self._start_later()
            return
        self._page, self._kills, self._told, self._begun = Page(page), kills, 1, 0

    def _start_later(self) -> None:
        asyncio.get_running_loop().call_later(_AGAIN_S, lambda: None if self._closing else self._start())

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        how = spawning.reap(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = 0
        if not self._closing:
            self._say("guard_ended", {"reason": f"{how}: another is started"})
            self._start_later()


def _shared(name: str, stack: ExitStack) -> tuple[mmap.mmap, int]:
    """Return shared memory, and a descriptor of it that the stack closes. Raises OSError."""
    made = os.memfd_create(name)
    try:
        os.ftruncate(made, _PAGE_BYTES)
        aside = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _ASIDE)
        stack.callback(os.close, aside)
        return mmap.mmap(made, _PAGE_BYTES), aside
    finally:
        os.close(made)


def _spawned(page: int, kills: int, exited: Callable[[], None]) -> int:
    """Start a guard, and return a pidfd of it; `exited` is called when it ends. Raises OSError, and then there is none."""
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", str(_SCRIPT), str(os.getpid()), "3", "4"],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, page, 3), (os.POSIX_SPAWN_DUP2, kills, 4)],
        setsid=True,
        setsigmask=[],
        setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
    )
    with ExitStack() as undo:
        undo.callback(os.waitpid, pid, 0)
        undo.callback(os.kill, pid, signal.SIGKILL)  # until it is waited for, its number is nobody else's
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        asyncio.get_running_loop().add_reader(pidfd, exited)
        undo.pop_all()
    return pidfd
