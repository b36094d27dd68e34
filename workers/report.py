"""What a job's work sees of the supervisor: its orders in, its progress out."""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from supervisor.wire import JobBeat


class BadInput(Exception):
    """What the job was given can never work: it fails with this sentence, and is not tried again."""


class JobCancelled(BaseException):
    """The work must stop now. A BaseException, so that no `except Exception` of a library swallows it."""


class WorkerLeaves(JobCancelled):
    """The work must stop now because its worker leaves: the job goes on in another process, from its checkpoint."""


class WorkPauses(JobCancelled):
    """The work must stop now because its job is paused: once it is resumed it goes on from its checkpoint, in whatever process."""


class EmergencyBrake(BaseException):
    """The machine is out of memory: this job ends so that the rest may live."""


class Job(Struct, frozen=True, kw_only=True):
    """One job as its work gets it. dir exists; resume_from is what an earlier attempt saved with `Report.save_checkpoint`."""

    id: str
    attempt: int
    kind: str
    params: Any
    dir: Path
    resume_from: Path | None = None


class Report:
    """One job's line to the supervisor. `progress` costs under 2 us: it stores numbers, another thread sends them."""

    def __init__(self, job: Job) -> None:
        """Make the report of one job that is about to run."""
        self.job = job
        self.awaited = False  # whether a change is to wake the thread that sends; that thread sets it, the work clears it
        self._wake: Callable[[], None] = lambda: None
        self._where: tuple[str, float, float] = ("", 0.0, 0.0)
        self._metrics: Mapping[str, float] = {}
        self._critical: list[str] = []
        self._interrupted = False  # the one flag of all orders that progress() looks at
        self._order: BaseException | None = None
        self._go = threading.Event()
        self._go.set()
        self._pausing = False
        self._checkpoints = False  # whether a pause waits for the next one
        self._leave_at_checkpoint = ""
        self._extended_until_s = 0.0

    def progress(self, done: float, total: float, *, phase: str = "", metrics: Mapping[str, float] | None = None) -> None:
        """Say how far the whole job is (done of total) and in what phase.

        metrics replace the last ones; without any the last ones stay. Blocks while the job is to hold still.
        Raises JobCancelled or EmergencyBrake when the work must stop, but never inside a critical section.
        """
        self._where = (phase, done, total)
        if metrics is not None:
            self._metrics = metrics
        if self.awaited:
            self._tell()
        if self._interrupted:
            self._obey()

    def check(self) -> None:
        """Obey the supervisor as `progress` does, without moving the counter."""
        if self._interrupted:
            self._obey()

    @contextmanager
    def critical(self, what: str) -> Iterator[None]:
        """Hold off every kill but the hard floor's, up to critical_max, while something must not be torn (a file being saved)."""
        self._critical.append(what)
        self._tell()
        try:
            yield
        finally:
            self._critical.pop()
            self._tell()
        self.check()

    def extend(self, seconds: float) -> None:
        """Ask for so much time, from now, before the lack of progress is judged: for a step that is known to be long. An hour at the most counts."""
        self._extended_until_s = time.monotonic() + seconds
        self._tell()

    def will_checkpoint(self) -> None:
        """Say that checkpoints will come: a pause waits for the next one, where nothing is lost, and the worker may be asked to make room there for others.

        Without it, and before the first checkpoint, a pause takes effect at the next `progress`: what was done since the last checkpoint is done again.
        """
        self._checkpoints = True

    @property
    def checkpoint_wanted(self) -> bool:
        """Whether the job is about to leave at its next checkpoint: work that can save at any step saves now, and not when it is due."""
        return self._pausing or bool(self._leave_at_checkpoint) or isinstance(self._order, WorkerLeaves)

    def save_checkpoint(self, source: Path) -> None:
        """Keep a copy of source as this job's checkpoint: whole or not at all, and given to the next attempt as `resume_from`.

        Raises JobCancelled when the job was to leave at its next checkpoint.
        """
        target = self.job.dir / "checkpoint"
        partial = target.with_name("checkpoint.partial")
        with self.critical("saving a checkpoint"):
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(target)
        self._checkpoints = True
        if self._pausing:
            self.interrupt(WorkPauses("paused at its checkpoint"))
        elif self._leave_at_checkpoint:
            self.interrupt(WorkerLeaves(self._leave_at_checkpoint))
        self.check()

    def beat(self) -> JobBeat:
        """Return where the job is now. Called by the thread that talks to the supervisor."""
        phase, done, total = self._where
        left_s = self._extended_until_s - time.monotonic()
        return JobBeat(
            job=self.job.id,
            attempt=self.job.attempt,
            phase=phase,
            done=float(done),
            total=float(total),
            metrics=dict(self._metrics),
            critical=self._critical[-1] if self._critical else "",
            extend_s=5.0 * math.ceil(left_s / 5.0) if left_s > 0 else 0.0,  # in steps, so that it does not make every beat a new one
            resumable=self._checkpoints,
        )

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` at the next change, and again at the first change after each time that `awaited` was set."""
        self._wake = wake
        self.awaited = True

    def interrupt(self, order: BaseException) -> None:
        """Make the next progress() or check() raise this. The first order stands. Safe in a signal handler."""
        if self._order is None:
            # Whoever asked for the pause still wants it when the worker must leave before the checkpoint.
            to_pause = self._pausing and isinstance(order, WorkerLeaves)
            self._order = WorkPauses(f"paused before its next checkpoint, because its worker leaves: {order}") if to_pause else order
        self._interrupted = True
        self._go.set()

    def leave_at_checkpoint(self, why: str) -> None:
        """Make the work stop right after its next checkpoint, where nothing of it is lost."""
        self._leave_at_checkpoint = why

    def pause(self) -> None:
        """Make the work stop right after its next checkpoint; work that saves none (`will_checkpoint`) stops at its next progress() or check()."""
        if self._order is None:
            self._pausing = self._interrupted = True
            self._go.set()

    def resume(self) -> None:
        """Undo a pause that was not obeyed yet."""
        self._pausing = False
        self._settle()

    def hold_still(self) -> None:
        """Make the next progress() or check() wait, its place and its memory kept."""
        if self._order is None:
            self._go.clear()
            self._interrupted = True

    def go_on(self) -> None:
        """Let a job that holds still go on."""
        self._go.set()
        self._settle()

    def _settle(self) -> None:
        """Lower the flag if no order is left."""
        self._interrupted = self._pausing or not self._go.is_set()
        if self._order is not None:  # looked at last: an order may come between the lines, by a signal
            self._interrupted = True

    def _tell(self) -> None:
        if self.awaited:
            self.awaited = False
            self._wake()

    def _obey(self) -> None:
        if self._critical:
            return
        self._go.wait()
        if self._pausing and not self._checkpoints:
            self.interrupt(WorkPauses("paused; what was not in a checkpoint is done again"))
        if self._order is not None:
            raise self._order
