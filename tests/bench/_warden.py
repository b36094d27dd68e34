"""A supervisor for the benchmarks to measure: a real `warden run` in a folder of its own, asked through its control socket."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.control import Client, Unreachable, endpoint_of
from supervisor.shapes import JobView, StatusView, WorkerView

ROOT: Final = Path(__file__).resolve().parents[2]
READY_MAX_S: Final = 180.0
LOOK_S: Final = 0.02
ENDED: Final = ("completed", "failed", "cancelled")


def environment() -> dict[str, str]:
    """Return the environment of everything that is measured: one thread of arithmetic, the project importable, nobody's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WARDEN_", "JOB_", "SAM2_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def quick() -> bool:
    """Return whether the script was asked for a fast run, whose numbers mean little."""
    return arguments().quick


def arguments(*more: str) -> argparse.Namespace:
    """Return the flags of a script: --quick, and those named. From here on SIGTERM ends the script in order, so that nothing it started stays."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser()
    for name in ("quick", *more):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


MEMORY: Final = '[memory]\nwarn_below = "0"\nemergency_below = "0"\nhard_floor = "0"\n'
"""What other programs use must end no worker that is measured."""


class Warden:
    """A running supervisor. folder: where its file, state and logs lie."""

    def __init__(
        self,
        folder: Path,
        toml: str,
        *,
        api: str = "off",
        env: Mapping[str, str] | None = None,
        memory: str = MEMORY,
        inside: Callable[[Sequence[str]], list[str]] = list,
    ) -> None:
        """Write the file and start; `wait` says when it answers.

        api: where HTTP is served, such as 127.0.0.1:0; env: what it gets besides; memory: the file's [memory]; inside: makes of the command one that starts it
        elsewhere.
        """
        self.folder = folder
        file = folder / "supervisor.toml"
        file.write_text(f'schema_version = 1\n[api]\nbind = "{api}"\n{memory}{toml}')
        with (folder / "run.out").open("wb") as out:
            command = inside([sys.executable, "-m", "supervisor", "--config", str(file), "run"])
            self.process = subprocess.Popen(command, cwd=folder, env={**environment(), **(env or {})}, stdout=out, stderr=subprocess.STDOUT)
        self._client: Client | None = None

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        return self.process.pid

    @property
    def endpoint(self) -> str:
        """Where its control socket is."""
        return endpoint_of(self.folder / "var")

    def ask(self, op: str, **args: Any) -> Any:
        """Return the answer's data."""
        if self._client is None:
            self._client = Client(lambda: self.endpoint)
        return self._client.ask(op, args)

    def status(self) -> StatusView:
        """Return everything it knows."""
        return msgspec.convert(self.ask("status"), StatusView)

    def worker(self, name: str) -> WorkerView:
        """Return one worker."""
        return next(worker for worker in self.status().workers if worker.name == name)

    def wait_ready(self, *names: str) -> None:
        """Return once all these workers are ready."""
        self._wait(lambda: self._states(names) == {"ready"}, f"{', '.join(names) or 'the supervisor'} to be ready")

    def submit(self, kind: str, params: dict[str, Any]) -> str:
        """Return the id of a new job."""
        return str(self.ask("jobs.submit", kind=kind, params=params)["id"])

    def finished(self, job: str, *, look_s: float = LOOK_S) -> JobView:
        """Return the job once it is completed; it is looked at every look_s. Raises RuntimeError when it ends in another way."""
        view = msgspec.convert(self.ask("jobs.show", job=job), JobView)
        end_s = time.monotonic() + READY_MAX_S
        while view.status not in ENDED and time.monotonic() < end_s:
            time.sleep(look_s)  # noqa: TID251  # the pause between two looks is part of what is measured
            view = msgspec.convert(self.ask("jobs.show", job=job), JobView)
        if view.status != "completed":
            raise RuntimeError(f"job {job} is {view.status}, completed was expected: {view.error}")
        return view

    def ended(self, job: str) -> JobView:
        """Return the job once it has ended, in whatever way. Raises RuntimeError when it does not."""
        end_s = time.monotonic() + READY_MAX_S
        while (view := msgspec.convert(self.ask("jobs.show", job=job), JobView)).status not in ENDED:
            if time.monotonic() > end_s:
                raise RuntimeError(f"job {job} is {view.status} after {READY_MAX_S:g} s, an end was expected")
            time.sleep(LOOK_S)  # noqa: TID251  # as in `finished`
        return view

    def said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of this name with these fields that the log has."""
        lines = (self.folder / "logs" / "watchdog.jsonl").read_text().rpartition("\n")[0].splitlines()
        return [one for one in map(json.loads, lines) if one["event"] == event and fields.items() <= one.items()]

    def stop(self) -> None:
        """Stop in order, and kill what does not; the pid is our own child's."""
        if self._client is not None:
            self._client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _states(self, names: tuple[str, ...]) -> set[str]:
        try:
            workers = self.status().workers
        except Unreachable:
            return set()
        return {worker.state for worker in workers if worker.name in names} if names else {"ready"}

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + READY_MAX_S
        while not true():
            if self.process.poll() is not None or time.monotonic() > end_s:
                said = (self.folder / "run.out").read_text()[-2000:]
                raise RuntimeError(f"waited for {what} in vain; the supervisor said:\n{said}")
            time.sleep(LOOK_S)  # noqa: TID251  # the control socket tells states when asked, not by itself


@contextmanager
def supervised(toml: str, **more: Any) -> Iterator[Warden]:
    """Yield a supervisor with this configuration in a fresh folder; it and the folder are gone afterwards. more: as Warden takes it."""
    with scratch() as folder:
        warden = Warden(folder, toml, **more)
        try:
            yield warden
        finally:
            warden.stop()
