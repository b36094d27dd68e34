"""Watching one job to its end: each phase with its own clock, a bar on a terminal, and no loss of heart while the supervisor is away."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from supervisor.cli.context import Context
from supervisor.cli.screen import ago, clock, size
from supervisor.control import Client, Unreachable, endpoint_of
from supervisor.shapes import HandoverView, JobView, StatusView

LOOK_S: Final = 0.2
_ASK_S: Final = 2.0
_ENDED: Final = ("completed", "failed", "cancelled")
_TEN_PERCENT: Final = 10
_SAYS_WHY_AFTER_S: Final = 2.0


def watch_job(context: Context, job: str, *, quiet: bool = False) -> JobView:
    """Return the job once it ended. Shows it meanwhile, unless quiet. Outlives the supervisor: a later one is found again."""
    with Client(partial(endpoint_of, context.state_dir)) as client, _Show(quiet=quiet) as show:
        away_since_s: float | None = None
        while True:
            try:
                view = msgspec.convert(client.ask("jobs.show", {"job": job}, timeout_s=_ASK_S), JobView)
            except Unreachable:
                if away_since_s is None:
                    away_since_s = time.monotonic()
                    show.say("the supervisor does not answer; the job is kept, trying again (Ctrl-C leaves it as it is)")
                time.sleep(LOOK_S)
                continue
            if away_since_s is not None:
                show.say(f"back after {ago(time.monotonic() - away_since_s + _ASK_S)}")
                away_since_s = None
            job = view.id
            show.reading(view, partial(_last_handover, client, view.id))
            if view.status in _ENDED:
                return view
            time.sleep(LOOK_S)


def _last_handover(client: Client, job: str) -> HandoverView | None:
    """Return the hand-over that was made for this job, if one was."""
    try:
        status = msgspec.convert(client.ask("status", timeout_s=_ASK_S), StatusView)
    except Unreachable:  # it went away this moment: the phase is told without the hand-over
        return None
    for device in status.devices:
        if device.last_handover is not None and device.last_handover.job == job:
            return device.last_handover
    return None


class _Show:
    """The screen of a watched job: one line for each phase that is over, one live line for the phase that runs."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.fields[at]} {task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=100.0, visible=False, at="", note="")
        self._phase = ""
        self._since_s = time.monotonic()
        self._at = ""
        self._last: JobView | None = None
        self._at_work: dict[str, float] = {}  # seconds in each phase of the work itself: they may take turns, as epochs and validations do
        self._said_why = ""
        self._tens = 0

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def reading(self, job: JobView, handover: Callable[[], HandoverView | None]) -> None:
        """Show one reading."""
        phase = "waiting" if job.status == "queued" else (job.phase or ("starting" if job.status == "running" else job.status))
        if phase != self._phase:
            self._close(handover)
            self._phase, self._since_s, self._at = phase, time.monotonic(), time.strftime("%H:%M:%S")
        self._last = job
        if job.status in _ENDED:
            self._end(job)
        else:
            self._now(job)

    def _close(self, handover: Callable[[], HandoverView | None]) -> None:
        """Say how long the phase took that is over; phases of the work itself are added up, and said at the end."""
        if not self._phase or self._last is None:
            return
        took_s = time.monotonic() - self._since_s
        if self._last.status in ("running", "cancelling") and self._last.phase:
            self._at_work[self._phase] = self._at_work.get(self._phase, 0.0) + took_s
            return
        note = _words(self._last)
        if self._phase == "vacating" and (done := handover()) is not None:
            note = f"{', '.join(done.leaving) or 'nobody'} left in {done.exit_s or 0.0:.1f} s, "
            note += f"{size(done.need_bytes)} proved free twice after {done.proof_s or 0.0:.1f} s"
        self.say(f"{self._at} {self._phase:<10} {ago(took_s):>7}   {note}".rstrip())

    def _now(self, job: JobView) -> None:
        note = _words(job)
        if self._live:
            self._bar.update(self._task, completed=job.progress, visible=True, description=self._phase, at=self._at, note=note)
        elif job.total and job.progress // _TEN_PERCENT != self._tens:
            self._tens = int(job.progress // _TEN_PERCENT)
            self.say(f"{time.strftime('%H:%M:%S')} {self._phase:<10} {job.progress:>5.0f} %   {note}".rstrip())
        if job.status == "queued" and job.message != self._said_why and time.monotonic() - self._since_s > _SAYS_WHY_AFTER_S:
            self._said_why = job.message
            self.say(f"           waits: {job.message or job.reason or 'for its place'}")

    def _end(self, job: JobView) -> None:
        if self._live:
            self._bar.update(self._task, visible=False)
        for phase, took_s in self._at_work.items():
            self.say(f"         {phase:<10} {ago(took_s):>7}")
        word = {"completed": "completed", "failed": f"failed: {job.reason}: {job.message}", "cancelled": f"cancelled {job.message}".rstrip()}[job.status]
        self.say(f"{clock(job.completed_at)} {job.id} {word}{_metrics(job)}")


def _words(job: JobView) -> str:
    """Return what is known of a job that moves: how far, how long still, its metrics."""
    parts = []
    if job.total:
        parts.append(f"{job.done:g}/{job.total:g}")
    if job.eta_s is not None and job.status == "running":
        parts.append(f"about {ago(job.eta_s)} left")
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return "  ".join(parts) + _metrics(job)


def _metrics(job: JobView) -> str:
    return "".join(f"  {name} {value:.3g}" for name, value in job.metrics.items())
