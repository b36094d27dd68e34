"""The screen of a watched job: one line with its clock for each phase that is over, one live line for the phase that runs."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from supervisor.cli.screen import ago, clock, size
from supervisor.shapes import HandoverView, JobView
from supervisor.units import format_count, say_attempt

ENDED: Final = ("completed", "failed", "cancelled")
_AT_WORK: Final = ("running", "pausing", "cancelling")
_TEN_PERCENT: Final = 10
_SAYS_WHY_AFTER_S: Final = 2.0
_TIME: Final = re.compile(r"\b\d+(?:\.\d+)? (?:s|min|h|d)\b")


class Show:
    """What a person sees of one job. Phases of the work itself may take turns, as epochs and validations do: their clocks are added up, and said at the end."""

    def __init__(self, *, quiet: bool) -> None:
        """Show nothing at all where quiet; a bar on a terminal, a line for each ten percent elsewhere."""
        self._quiet = quiet
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.fields[at]} {task.description:<10} {task.fields[clock]:>7}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[percent]}  {task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, visible=False, at="", clock="", percent="", note="")
        self._phase = ""
        self._since_s = time.monotonic()
        self._at = ""
        self._last: JobView | None = None
        self._at_work: dict[str, float] = {}
        self._said_why = ""
        self._tens = 0

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the bar away; the lines stay."""
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def reading(self, job: JobView, handover: Callable[[], HandoverView | None]) -> None:
        """Show one reading. handover is asked for the hand-over that was made for the job, where one was."""
        phase = _phase(job)
        last = self._last
        if phase != self._phase or (last is not None and job.attempt != last.attempt):
            self._close(handover)
            self._phase, self._since_s, self._at = phase, time.monotonic(), time.strftime("%H:%M:%S")
        if last is not None:
            self._turn(last, job)
        self._last = job
        if job.status in ENDED:
            self._end(job)
        else:
            self._now(job)
            if job.status == "paused" and (last is None or last.status != "paused"):
                self.say(f"{self._at} paused at {_far(job)}{_checkpoint(job)}; go on with: warden jobs resume {job.id} (Ctrl-C leaves it paused)")

    def _turn(self, last: JobView, job: JobView) -> None:
        """Say what the owner did not ask for, and what was asked for elsewhere: another attempt, a pause, a resume."""
        now = time.strftime("%H:%M:%S")
        if job.status == "queued" and last.status == "paused":
            self.say(f"{now} resumed")
        elif job.status == "queued" and last.status != "queued":
            self.say(f"{now} back in the queue: {job.last_end or job.message or job.reason or 'it is tried again'}{_goes_on(job)}")
            self._say_phases(f"   of attempt {last.attempt}")
        elif job.attempt > last.attempt and last.status in _AT_WORK:  # it was in the queue between two readings
            self.say(f"{now} back at work: {job.last_end or f'attempt {last.attempt} ended'}{_goes_on(job)}")
            self._say_phases(f"   of attempt {last.attempt}")
        elif job.status == "pausing" and last.status != "pausing":
            self.say(f"{now} asked to pause: it leaves right after its next checkpoint{_checkpoint(job)}")
        elif job.status == "running" and last.status == "pausing":
            self.say(f"{now} resumed before it was paused")

    def _close(self, handover: Callable[[], HandoverView | None]) -> None:
        """Say how long the phase took that is over; phases of the work itself are added up, and said at the end."""
        if not self._phase or self._last is None:
            return
        took_s = time.monotonic() - self._since_s
        if self._last.status in _AT_WORK and self._last.phase:
            self._at_work[self._phase] = self._at_work.get(self._phase, 0.0) + took_s
            return
        note = _words(self._last)
        if self._phase == "vacating" and (done := handover()) is not None:
            note = f"{', '.join(done.leaving)} left in {done.exit_s or 0.0:.1f} s, " if done.leaving else "nobody had to leave, "
            note += f"{size(done.need_bytes)} proved free twice after {done.proof_s or 0.0:.1f} s"
        self.say(f"{self._at} {self._phase:<10} {ago(took_s):>7}   {note}".rstrip())

    def _now(self, job: JobView) -> None:
        note = _words(job) + _checkpoint(job)
        if self._live:
            known = job.status in _AT_WORK and job.total > 0
            self._bar.update(
                self._task,
                total=100.0 if known else None,
                completed=job.progress if known else 0.0,
                visible=True,
                description=self._phase,
                at=self._at,
                clock=ago(time.monotonic() - self._since_s + self._at_work.get(self._phase, 0.0)),
                percent=f"{job.progress:>3.0f} %" if known else "",
                note=note,
            )
        elif job.total and job.progress // _TEN_PERCENT != self._tens:
            self._tens = int(job.progress // _TEN_PERCENT)
            self.say(f"{time.strftime('%H:%M:%S')} {self._phase:<10} {job.progress:>5.0f} %   {note}".rstrip())
        why = _TIME.sub("", job.message)  # a time that runs down is the same reason each second
        if job.status == "queued" and why != self._said_why and time.monotonic() - self._since_s > _SAYS_WHY_AFTER_S:
            self._said_why = why
            self.say(f"           waits: {job.message or job.reason or 'for its place'}; more: warden jobs why {job.id}")

    def _say_phases(self, of: str) -> None:
        """Say how long each phase of the work took, and begin to count anew."""
        for phase, took_s in self._at_work.items():
            self.say(f"         {phase:<10} {ago(took_s):>7}{of}")
        self._at_work.clear()

    def _end(self, job: JobView) -> None:
        if self._live:
            self._bar.update(self._task, visible=False)
        self._say_phases("")
        word = {"completed": "completed", "failed": f"failed: {job.reason}: {job.message}", "cancelled": f"cancelled {job.message}".rstrip()}[job.status]
        self.say(f"{clock(job.completed_at)} {job.id} {word}{_metrics(job)}")


def _goes_on(job: JobView) -> str:
    """Return where the next attempt begins, where this user can see it."""
    if checkpoint := _checkpoint(job):
        return f"; goes on from its {checkpoint.strip()}"
    return "; it had saved no checkpoint, and starts over" if Path(job.dir).is_dir() else ""


def _phase(job: JobView) -> str:
    """Return what the job is at, in one word: waiting, vacating, loading, starting, or what its work calls itself."""
    if job.status == "queued":
        return "waiting"
    if job.status in ("paused", "pausing"):
        return job.status
    return job.phase or ("starting" if job.status == "running" else job.status)


def _words(job: JobView) -> str:
    """Return what is known of a job that moves: how far, how long still, its metrics."""
    parts = []
    if job.total:
        parts.append(f"{format_count(job.done)}/{format_count(job.total)}")
    if job.eta_s is not None and job.status == "running":
        parts.append(f"about {ago(job.eta_s)} left")
    if job.attempt > 1:
        parts.append(say_attempt(job.attempt, job.failures, job.max_attempts))
    return "  ".join(parts) + _metrics(job)


def _far(job: JobView) -> str:
    return f"{format_count(job.done)} of {format_count(job.total)} ({job.progress:.0f} %)" if job.total else "its start"


def _checkpoint(job: JobView) -> str:
    """Return when the last checkpoint was saved, where this user can see one: that is where another attempt goes on."""
    try:
        age_s = time.time() - (Path(job.dir) / "checkpoint").stat().st_mtime
    except OSError:
        return ""
    return f"  checkpoint {ago(max(0.0, age_s))} ago"


def _metrics(job: JobView) -> str:
    return "".join(f"  {name} {value:.3g}" for name, value in job.metrics.items())
