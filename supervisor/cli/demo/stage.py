"""The demo's stage: a supervisor of its own in a fresh folder, what it says and shows, and the screen that tells it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from supervisor.cli.context import Context
from supervisor.cli.screen import ago
from supervisor.control import JSONValue, Unreachable
from supervisor.shapes import JobView, StatusView

LOOK_S: Final = 0.25
STEP_MAX_S: Final = 600.0
_END_MAX_S: Final = 90.0

_TOLD: Final = frozenset({
    "gpu_vacating",
    "gpu_vacated",
    "gpu_refused",
    "lease_released",
    "lease_granted",
    "worker_draining",
    "worker_stopped",
    "worker_exited",
    "worker_spawned",
    "worker_ready",
    "job_started",
    "job_completed",
    "job_failed",
})  # fmt: skip


class DemoFailed(Exception):
    """A step of the story did not happen as it must; the sentence says which."""


class Stage:
    """Where the demo plays. `peaks` keeps the most memory that each worker was seen with."""

    def __init__(self, console: Console, home: Path, environ: Mapping[str, str]) -> None:
        """Play in this folder. The user's own WARDEN_ variables are left out: they are meant for another supervisor."""
        self.home = home
        self.peaks: dict[str, int] = {}
        self.exit_code: int | None = None
        self._environ = {name: value for name, value in environ.items() if not name.startswith("WARDEN_")}
        self._context = Context(config_path=str(home / "supervisor.toml"), environ=self._environ)
        self._console = console
        self._read_to = 0
        self._process: subprocess.Popen[bytes] | None = None

    def chapter(self, text: str) -> None:
        """Begin a chapter."""
        self._console.print(f"\n[bold]{escape(text)}[/]")

    def say(self, text: str) -> None:
        """Print a line of the story."""
        self._console.print(f"   {text}", markup=False)

    def make_input(self) -> Mapping[str, JSONValue]:
        """Return what `workers.samples` says of the video and the data set that it made."""
        out = self.home / "input"
        command = [sys.executable, "-P", "-m", "workers.samples", str(out)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=STEP_MAX_S, check=False)
        if made.returncode:
            raise DemoFailed(f"the input could not be made: {(made.stderr.strip().splitlines() or [f'exit code {made.returncode}'])[-1]}")
        samples: Mapping[str, JSONValue] = json.loads((out / "samples.json").read_text())
        return samples

    @contextmanager
    def supervisor(self) -> Iterator[None]:
        """Run a supervisor for as long as the story lasts, and see it end in order."""
        (self.home / "supervisor.toml").write_text(resources.files("supervisor.cli.demo").joinpath("supervisor.toml").read_text())
        command = [sys.executable, "-P", "-m", "supervisor", "--config", str(self.home / "supervisor.toml"), "run"]
        with (self.home / "supervisor.out").open("wb") as out:
            # A session of its own: Ctrl-C is for the demo, which then stops the supervisor in order.
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=self.home, env=self._environ, start_new_session=True)
        self._process = process
        try:
            yield
        finally:
            process.terminate()
            try:
                self.exit_code = process.wait(_END_MAX_S)
            except subprocess.TimeoutExpired:
                process.kill()
                self.exit_code = process.wait()
            self.tell_log()

    def status(self) -> StatusView:
        """Return the supervisor's status. Raises DemoFailed when it ended, Unreachable while it opens its sockets."""
        if self._process is not None and self._process.poll() is not None:
            raise DemoFailed(f"the supervisor ended with exit code {self._process.returncode}: see {self.home / 'supervisor.out'}")
        view = self._context.status()
        for worker in view.workers:
            if worker.memory_bytes is not None:
                self.peaks[worker.name] = max(worker.memory_bytes, self.peaks.get(worker.name, 0))
        return view

    def submit(self, kind: str, params: Mapping[str, JSONValue]) -> JobView:
        """Submit a job, and say how long its id took."""
        began_s = time.monotonic()
        job = self._context.ask("jobs.submit", {"kind": kind, "params": dict(params)}, JobView)
        self.say(f"{kind} submitted: {job.id} in {1000 * (time.monotonic() - began_s):.0f} ms")
        return job

    def job(self, name: str) -> JobView:
        """Return a job as it is now."""
        return self._context.ask("jobs.show", {"job": name}, JobView)

    def until(self, what: str, look: Callable[["Bars"], bool]) -> None:
        """Look four times a second until `look` says that it is done; the log is told meanwhile. Raises DemoFailed after ten minutes."""
        end_s = time.monotonic() + STEP_MAX_S
        with Bars(self._console) as bars:
            while time.monotonic() < end_s:
                self.tell_log(bars)
                try:
                    if look(bars):
                        self.tell_log(bars)
                        return
                except Unreachable:
                    bars.show(what, None, "the supervisor opens its sockets")
                time.sleep(LOOK_S)
        raise DemoFailed(f"{what}: not done within {ago(STEP_MAX_S)}; see warden status --config {self.home / 'supervisor.toml'}")

    def follow(self, job: JobView, look: Callable[[JobView, "Bars"], None]) -> JobView:
        """Return the job once it completed; look sees each reading. Raises DemoFailed when it ends otherwise."""
        seen = job

        def once(bars: Bars) -> bool:
            nonlocal seen
            self.status()
            seen = self.job(job.id)
            bars.show(job.kind, seen.progress, f"{seen.phase or seen.message or seen.status}")
            look(seen, bars)
            return seen.completed_at is not None

        self.until(f"{job.id} ({job.kind})", once)
        if seen.status != "completed":
            raise DemoFailed(f"{job.id} ({job.kind}) is {seen.status}: {seen.reason}: {seen.message}")
        return seen

    def tell_log(self, bars: "Bars | None" = None) -> None:
        """Print what the supervisor logged since the last look."""
        path = self.home / "logs" / "watchdog.log"
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode().splitlines():
            moment, _level, event, words = (*line.split(maxsplit=3), "")[:4]
            if event in _TOLD:
                (bars.say if bars else self.say)(f"{moment[11:23]} {event:<16} {words}")

    def events(self) -> list[dict[str, JSONValue]]:
        """Return everything the supervisor logged."""
        return [json.loads(line) for line in (self.home / "logs" / "watchdog.jsonl").read_text().splitlines()]


class Bars:
    """Progress bars by name, with lines above them."""

    def __init__(self, console: Console) -> None:
        """Draw on this console; nothing is left behind at the end."""
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("   {task.description:<14}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> "Bars":  # noqa: PYI034  # final by use: nobody subclasses it
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the bars away."""
        self._progress.stop()

    def show(self, name: str, percent: float | None, note: str) -> None:
        """Move a bar; percent is None where nobody knows how far."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, note="")
        total = None if percent is None else 100.0
        self._progress.update(self._tasks[name], total=total, completed=percent or 0.0, note=escape(note))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(f"   {text}", markup=False)
