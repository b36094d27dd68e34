"""The worker under chaos: goes wrong on request as workers.fake does, stamps all that happens to it, and locks whatever must be one process's alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from msgspec import Struct

from tests.chaos.stamps import Claim, Pen
from workers import fake
from workers.base import Job, JobCancelled, Report, Worker, main

HEART_S: Final = 0.4
STEP_STAMPED_S: Final = 0.1
KINDS: Final = ("chaos.alpha", "chaos.beta", "chaos.gamma", "chaos.plain", "chaos.pool")

CHILDREN: Final = (
    ("sleep", "3600"),
    ("setsid", "sleep", "3600"),
    ("sh", "-c", "env -i setsid sleep 3600 & wait"),  # neither session nor tag tells whose that is, and its parent hears the SIGTERM
)


class Options(Struct, frozen=True, kw_only=True):
    """How the process behaves as a whole. children: how many of CHILDREN it starts."""

    children: int = 0
    load_s: float = 0.0


class Chaotic(Worker):
    """Counts, stamps, and misbehaves. who: its name, generation and pid."""

    serves: ClassVar[tuple[str, ...]] = KINDS
    options_type: ClassVar[type[Struct]] = Options
    params: ClassVar[Mapping[str, type[Struct]]] = dict.fromkeys(KINDS, fake.Params)
    pen: ClassVar[Pen]
    who: ClassVar[str]

    def load(self) -> None:
        """Start the children."""
        options: Options = self.options
        _pause(options.load_s)
        self.children = [subprocess.Popen(command) for command in CHILDREN[: options.children]]

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Do what workers.fake does for these parameters, as the only one who does this job. The result names the attempt and the process."""
        pen = self.pen
        alone = Claim(job.dir / "running.lock", f"{self.who}, attempt {job.attempt}")
        if alone.holder:
            pen.write("double", job=job.id, attempt=job.attempt, note=f"job {job.id} is run by {alone.holder} already")
        wrong: fake.Params = job.params
        pen.write("start", job=job.id, attempt=job.attempt, note=wrong.fault if wrong.attempt in (0, job.attempt) else "")
        try:
            value = fake.count(job, _Stamped(report, pen))  # type: ignore[arg-type]  # of a Report it asks what is here
        except JobCancelled as order:
            pen.write("left", job=job.id, attempt=job.attempt, note=str(order))
            raise
        except Exception as error:
            pen.write("error", job=job.id, attempt=job.attempt, note=str(error))
            raise
        else:
            pen.write("end", job=job.id, attempt=job.attempt)
            return value
        finally:
            alone.release()


class _Stamped:
    """A report whose progress is stamped as well."""

    def __init__(self, report: Report, pen: Pen) -> None:
        self._report = report
        self._pen = pen
        self._stamped_at_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)

    def progress(self, done: float, total: float, *, phase: str = "", metrics: Mapping[str, float] | None = None) -> None:
        now_s = time.monotonic()
        if now_s - self._stamped_at_s >= STEP_STAMPED_S:
            self._stamped_at_s = now_s
            self._pen.write("step", job=self._report.job.id, attempt=self._report.job.attempt)
        self._report.progress(done, total, phase=phase, metrics=metrics)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def _beat(pen: Pen) -> None:
    """Stamp that this process runs, and that nobody holds its interpreter."""
    while True:
        pen.write("heart")
        _pause(HEART_S)


def _start() -> list[Claim]:
    """Take what only one process may have: the place, the generation, the device. Stamp whoever had it already. The locks last as long as the list."""
    name, generation = os.environ["WARDEN_WORKER"], int(os.environ["WARDEN_GENERATION"])
    folder = Path(os.environ["WARDEN_STATE_DIR"]).parent
    Chaotic.who = f"{name}#{generation} pid {os.getpid()}"
    Chaotic.pen = Pen(folder, worker=name, generation=generation)
    wanted = [f"place-{name}", f"generation-{name}#{generation}"]
    if "WARDEN_DEVICE" in os.environ:
        wanted.append(f"device-{os.environ['WARDEN_DEVICE']}")
    claims = [Claim(folder / "locks" / one, Chaotic.who) for one in wanted]
    for one, claim in zip(wanted, claims, strict=True):
        if claim.holder:
            Chaotic.pen.write("double", note=f"{one} is held by {claim.holder}")
    Chaotic.pen.write("born")
    threading.Thread(target=_beat, args=(Chaotic.pen,), daemon=True).start()
    return claims


if __name__ == "__main__":
    if "WARDEN_STATE_DIR" not in os.environ:
        sys.exit("this is a worker for `python -m tests.chaos`: it is not started by hand")
    held = _start()
    main(Chaotic)
