"""What a job's work sees of the supervisor: its orders in, its progress out."""

import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
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
        self._where: tuple[str, float, float] = ("", 0.0, 0.0)
        self._metrics: Mapping[str, float] = {}
        self._critical: list[str] = []
        self._interrupted = False  # the one flag that progress() looks at
        self._order: BaseException | None = None
        self._go = threading.Event()
        self._go.set()
        self._leave_at_checkpoint = ""
        self._extended_until_s = 0.0

    def progress(self, done: float, total: float, *, phase: str = "", metrics: Mapping[str, float] | None = None) -> None:
        """Say how far the whole job is (done of total) and in what phase.

        metrics replace the last ones; without any the last ones stay. Blocks while the job is paused.
        Raises JobCancelled or EmergencyBrake when the work must stop, but never inside a critical section.
        """
        self._where = (phase, done, total)
        if metrics is not None:
            self._metrics = metrics
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
        try:
            yield
        finally:
            self._critical.pop()
        self.check()

    def extend(self, seconds: float) -> None:
        """Ask for so much time, from now, before the lack of progress is judged: for a step that is known to be long. An hour at the most counts."""
        self._extended_until_s = time.monotonic() + seconds

    def save_checkpoint(self, source: Path) -> None:
        """Keep a copy of source as this job's checkpoint: whole or not at all, and given to the next attempt as `resume_from`."""
        target = self.job.dir / "checkpoint"
        partial = target.with_name("checkpoint.partial")
        with self.critical("saving a checkpoint"):
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(target)
        if self._leave_at_checkpoint:
            raise WorkerLeaves(self._leave_at_checkpoint)

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
        )

    def interrupt(self, order: BaseException) -> None:
        """Make the next progress() or check() raise this. The first order stands. Safe in a signal handler."""
        if self._order is None:
            self._order = order
        self._interrupted = True
        self._go.set()

    def leave_at_checkpoint(self, why: str) -> None:
        """Make the work stop right after its next checkpoint, where nothing of it is lost."""
        self._leave_at_checkpoint = why

    def pause(self) -> None:
        """Make the next progress() or check() wait."""
        if self._order is None:
            self._go.clear()
            self._interrupted = True

    def resume(self) -> None:
        """Let a paused job go on."""
        if self._order is None:
            self._interrupted = False
            self._go.set()

    def _obey(self) -> None:
        if self._critical:
            return
        self._go.wait()
        if self._order is not None:
            raise self._order
