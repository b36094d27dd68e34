"""Runs a worker class without Warden: the same `load` and `run`, with a Report that nobody reads. A program, told what to do on stdin; see `Bare`."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from tests.bench._warden import ROOT, environment
from workers.report import Job, Report

if TYPE_CHECKING:
    from workers.base import Worker

_FIRST_FREE: Final = 3


class Bare:
    """A process that has loaded a worker class and does one job at a time."""

    def __init__(self, folder: Path, worker: str, options: dict[str, Any]) -> None:
        """Start it. worker: module:Class.  options: as in supervisor.toml."""
        folder.mkdir(parents=True, exist_ok=True)
        answers, told = os.pipe()
        with (folder / "out.log").open("wb") as log:
            command = [sys.executable, "-P", "-m", "tests.bench._bare", worker, json.dumps(options), str(folder), str(told)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(told,))
        os.close(told)
        self._answers: IO[str] = os.fdopen(answers)
        self._log = folder / "out.log"

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def wait_ready(self) -> None:
        """Return once it has loaded."""
        self._answer()

    def run(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of one job."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode([kind, params]) + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        self._answers.close()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"the bare worker ended; it said:\n{self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _work(worker_name: str, options: str, folder: Path, told: IO[str]) -> None:
    module, _, name = worker_name.partition(":")
    worker_class: type[Worker] = getattr(importlib.import_module(module), name)
    worker = worker_class()
    worker.name, worker.state_dir, worker.config_dir = "bare-0", folder, folder
    worker.options = msgspec.json.decode(options, type=worker_class.options_type)
    worker.load()
    print("{}", file=told, flush=True)
    for number, line in enumerate(sys.stdin):
        kind, params = json.loads(line)
        place = folder / f"job-{number}"
        place.mkdir()
        job = Job(id=f"job-{number}", attempt=1, kind=kind, params=msgspec.convert(params, worker_class.params[kind]), dir=place)
        print(json.dumps(worker.run(job, Report(job))), file=told, flush=True)


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], Path(sys.argv[3]), os.fdopen(int(sys.argv[4]), "w"))
