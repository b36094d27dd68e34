"""Watches programs without the SDK by what they show: sd_notify, the growth of their output, or a file that they rewrite."""

import asyncio
import hashlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.adapters.program_looks import File, Look, Output
from supervisor.adapters.program_notices import USEC, Notice, NoticeSocket, watchdog_s
from supervisor.core.events import ProgramSeen
from supervisor.core.limits import Watchdog, WorkerSpec
from supervisor.core.model import WorkerName
from supervisor.runtime.process_ports import SpawnError

LOOK_EVERY_S: Final = 0.5
_LOOK_MAX_S: Final = 1.0
_LOOK_SHARE: Final = 10
"""A program is looked at ten times within its stall_after, but every half second at the most and every second at the least.

One that shows something less than that before its limit runs out may be judged too early: nobody should set a limit so close to what is ordinary.
"""

_GAP_MAX_S: Final = 1.0
_GAP_SHARE: Final = 4
"""One event a second for each program at the most, and four within each of its limits: what it shows in between is put together."""
_EXTENSION_STEP_S: Final = 0.1
_STUCK_S: Final = 2.0
_SOCKET_PATH_MAX: Final = 107
_FILE_PREFIX: Final = "file:"


class Program:
    """One generation under watch, and what it showed that was not posted yet."""

    def __init__(self, worker: WorkerName, generation: int, spec: WorkerSpec, *, adopted: bool) -> None:
        self.worker, self.generation = worker, generation
        self.look: Look | None = None
        self.socket: NoticeSocket | None = None
        self.held_since_s: float | None = None  # a look is under way since then
        self.look_at_s = 0.0
        self.look_every_s = self._gap_s = 0.0
        self._told_s = self._silent_after_s = spec.watchdog.silent_after_s
        self._beat_at_s = float("-inf")
        self._settled = adopted  # it said READY=1, and has not said RELOADING=1 or STOPPING=1 since: a new STATUS is now progress
        self._status: str | None = None
        self._ready = self._alive = self._moved = self._news = False
        self._extend_until_s = self._extended_to_s = 0.0
        self._posted_at_s = float("-inf")
        self.take(spec.watchdog)

    def take(self, watchdog: Watchdog) -> None:
        """Go by these limits from now on."""
        self.look_every_s = min(_LOOK_MAX_S, max(LOOK_EVERY_S, watchdog.stall_after_s / _LOOK_SHARE))
        self._gap_s = min(_GAP_MAX_S, watchdog.silent_after_s / _GAP_SHARE, watchdog.stall_after_s / _GAP_SHARE)
        self._silent_after_s = watchdog.silent_after_s

    def was_told(self, silent_after_s: float) -> None:
        """Note the limit in its WATCHDOG_USEC, which is an earlier supervisor's."""
        self._told_s = silent_after_s

    def vouch(self, now_s: float) -> None:
        """Count its last beat for as long as it was told at its start: it cannot know of a silent_after that was lowered since."""
        if now_s < self._beat_at_s + self._told_s - self._silent_after_s:
            self._alive = True

    def shows(self) -> None:
        """Note progress."""
        self._moved = True

    def extend(self, until_s: float) -> None:
        """Note that it must not be judged before this instant."""
        self._extend_until_s = max(self._extend_until_s, until_s)

    def hear(self, notice: Notice, now_s: float) -> None:
        """Take in a message. WATCHDOG=1 is life, and nothing else is: a program sends it from where it can vouch for itself.

        A STATUS= that changes while the program is up is progress. What it says as it gets ready, reloads or stops is not: many programs say just that,
        and then nothing for weeks.
        """
        if notice.watchdog:
            self._alive, self._beat_at_s = True, now_s
        was_settled, changes = self._settled, notice.ready or notice.reloading or notice.stopping
        self._ready = self._ready or (notice.ready and not notice.stopping)
        self._settled = notice.ready or (self._settled and not changes)
        status = notice.status or ("stopping" if notice.stopping else None)
        if status is not None and status != self._status:
            self._moved = self._moved or (was_settled and not changes and self._status is not None)
            self._status, self._news = status, True
        if notice.extend_s:
            self.extend(now_s + notice.extend_s)

    def due(self, now_s: float) -> ProgramSeen | None:
        """Return what is to be posted now: at once that it is ready or needs more time, the rest when the last event is a gap ago."""
        longer_s = self._extend_until_s - max(self._extended_to_s, now_s)
        urgent = longer_s >= _GAP_MAX_S or (longer_s >= _EXTENSION_STEP_S and self._extended_to_s - now_s < _GAP_MAX_S)
        rest = self._alive or self._moved or self._news or longer_s > 0
        if not (self._ready or urgent or (rest and now_s - self._posted_at_s >= self._gap_s)):
            return None
        seen = ProgramSeen(
            worker=self.worker,
            generation=self.generation,
            ready=self._ready,
            alive=self._alive,
            moved=self._moved,
            status=(self._status or "") if self._news or self._ready else "",
            extend_s=self._extend_until_s - now_s if longer_s > 0 else 0.0,
        )
        self._ready = self._alive = self._moved = self._news = False
        self._extended_to_s = max(self._extended_to_s, self._extend_until_s)
        self._posted_at_s = now_s
        return seen


class ProgramWatch:
    """All programs that show something. dropped counts notices that were not believed, by reason. Lives on the loop; only looks at a disk are in threads."""

    def __init__(
        self, folder: Path, *, post: Callable[[ProgramSeen], None], leader_of: Callable[[WorkerName], int], watchdog_of: Callable[[WorkerName], Watchdog]
    ) -> None:
        """Put sockets into this folder, which must be private; those that a killed supervisor left go.

        leader_of returns a pid, 0 for none; watchdog_of a worker's limits as they are now.
        """
        self.dropped: Counter[str] = Counter()
        self._folder = folder
        self._post = post
        self._leader_of = leader_of
        self._watchdog_of = watchdog_of
        self._programs: dict[tuple[WorkerName, int], Program] = {}
        self._todo: deque[tuple[Program, Look, int]] = deque()
        self._done: deque[tuple[Program, bool]] = deque()
        self._woken = False
        for left in folder.glob("n.*"):
            with suppress(OSError):
                if left.is_socket():
                    left.unlink()

    def begin(self, worker: WorkerName, generation: int, spec: WorkerSpec, *, log: Path, file: Path | None = None, adopted: bool = False) -> Mapping[str, str]:
        """Watch a generation that is about to start, or was taken back. Returns what to add to its environment. Raises SpawnError.

        log: where its output goes; file: the progress file of `file:PATH`. adopted: it has been up for a while, under the same socket as now.
        """
        self.end(worker, generation)
        program = Program(worker, generation, spec, adopted=adopted)
        environment: dict[str, str] = {}
        if spec.progress == "notify":
            path = self._socket_path(worker, generation)
            try:
                program.socket = NoticeSocket(
                    path, leader=lambda: self._leader_of(worker), hear=lambda notice: self._hear(program, notice), drop=self._count_dropped
                )
            except OSError as error:
                raise SpawnError(
                    f"{path}: {error.strerror or error}: its NOTIFY_SOCKET must be possible there; put state_dir on another file system"
                ) from error
            environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(spec.watchdog.silent_after_s * USEC))}
            if adopted and (told_s := watchdog_s(self._leader_of(worker))) is not None:
                program.was_told(told_s)
        elif spec.progress == "output":
            program.look = Output(log)
        elif spec.progress.startswith(_FILE_PREFIX):
            program.look = File(file or Path(spec.progress.removeprefix(_FILE_PREFIX)))
        else:
            return environment
        self._programs[worker, generation] = program
        return environment

    def end(self, worker: WorkerName, generation: int) -> None:
        """Forget a generation that is gone, or never came to be."""
        program = self._programs.pop((worker, generation), None)
        if program is not None and program.socket is not None:
            program.socket.close()

    def close(self) -> None:
        """Stop watching. Programs that outlive us find the same sockets again when the next supervisor takes them back."""
        for worker, generation in tuple(self._programs):
            self.end(worker, generation)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Look at what programs write, and post what was put together. Never waits: a disk that does not answer holds a thread, and no program is blamed."""
        now_s = time.monotonic()
        for program in self._programs.values():
            if program.look is not None and program.held_since_s is None and now_s >= program.look_at_s:
                program.held_since_s = now_s
                program.look_at_s = now_s + program.look_every_s - LOOK_EVERY_S / 2
                self._todo.append((program, program.look, self._leader_of(program.worker)))
            elif program.held_since_s is not None and now_s - program.held_since_s >= _STUCK_S:
                program.extend(now_s + _STUCK_S)
            program.take(self._watchdog_of(program.worker))
            program.vouch(now_s)
            self._post_due(program, now_s)
        if self._todo:
            # a new thread each time: one that a frozen disk holds keeps its own program alone, and never our end
            threading.Thread(target=self._look, args=(asyncio.get_running_loop(),), name="program-look", daemon=True).start()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work through what is to be looked at. In a thread."""
        while True:
            try:
                program, look, leader = self._todo.popleft()
            except IndexError:
                return
            self._done.append((program, look.moved(leader)))
            if not self._woken:  # one wake for many results: each costs a system call
                self._woken = True
                with suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False  # before the results are taken: one that comes now wakes us again
        while self._done:
            self._looked(*self._done.popleft())

    def _looked(self, program: Program, moved: bool) -> None:  # noqa: FBT001  # one of a pair
        program.held_since_s = None
        if moved and self._programs.get((program.worker, program.generation)) is program:
            program.shows()
            self._post_due(program, time.monotonic())

    def _hear(self, program: Program, notice: Notice) -> None:
        now_s = time.monotonic()
        program.hear(notice, now_s)
        self._post_due(program, now_s)

    def _post_due(self, program: Program, now_s: float) -> None:
        seen = program.due(now_s)
        if seen is not None:
            self._post(seen)

    def _count_dropped(self, why: str) -> None:
        self.dropped[why] += 1

    def _socket_path(self, worker: WorkerName, generation: int) -> Path:
        """Return where this generation's socket is: always the same, also for the supervisor after us."""
        path = self._folder / f"n.{worker}.{generation}"
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
            return path
        digest = hashlib.blake2b(f"{worker}.{generation}".encode(), digest_size=5).hexdigest()
        return self._folder / f"n.{digest}"  # as long as control.sock, for which the folder was chosen
