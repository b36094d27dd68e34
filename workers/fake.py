"""A worker that misbehaves on request: it stalls, leaks, ignores SIGTERM, crashes, forks and lies. For tests and drills; the process and the faults are real.

Its jobs are of the kinds it is told to serve (options.serves, default demo.count) and all take the same parameters: `steps` of `step_s` each, and one
`fault` at step `at`: stall (stands still, its heart beats on), hang (holds the GIL, so nothing beats), crash (SIGKILL to itself), exit (exit code 3), error,
oom and broken (what torch raises when a device's memory is not enough, or its context is broken), deaf (ignores cancel and SIGTERM), memory (allocates
`size_mb`), leak (that at each step from there on), readers (shares `size_mb` with four forked children that read it, their pids in the job's folder), fork
(leaves a child in a session of its own), critical (deaf inside a critical section), family (leaves the processes of `fake_tree`, their pids in the job's
folder), hold (leaves a child in a session of its own that ignores SIGTERM and holds `size_mb`, its pid in the job's folder as `holder`), slow (the step
takes `slow_s`, and listens to orders).

On a fake card (`fake_card`) it holds options.card_mb from its load on, until options.card_release_s after its end (-1: for ever), and a job's `card_mb`
while that works: no more than its share, as if torch held it, unless options.card_capped is false. Its end can go wrong: it stays for as long as there is
the file options.stay_while, and exits with options.exit_code.

A fault comes at every attempt unless `attempt` names one: `fault=crash` is a poisoned job. With `checkpoint` each step is saved, and the next attempt goes on
after it; saving takes `save_s`, in a critical section. Without, a pause or a crash costs all steps. Before it begins it tells that it will take `tells_mb`.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

from msgspec import Struct

from workers.base import BadInput, Job, JobCancelled, Report, Worker, main
from workers.fake_card import claim

Fault = Literal[
    "", "stall", "hang", "crash", "exit", "error", "oom", "broken", "deaf", "memory", "leak", "readers", "fork", "family", "critical", "hold", "slow"
]


class Options(Struct, frozen=True, kw_only=True):
    """How the process behaves as a whole."""

    load_s: float = 0.0
    load_mb: int = 0
    fail_load: str = ""
    ignore_term: bool = False
    leave_child: bool = False
    card_mb: int = 0
    card_release_s: float = 0.0
    card_listed: bool = True
    card_capped: bool = True
    stay_while: str = ""
    exit_code: int = 0


class Params(Struct, frozen=True, kw_only=True):
    """What a job does."""

    steps: int = 10
    step_s: float = 0.05
    fault: Fault = ""
    at: int = 1
    attempt: int = 0  # only this attempt has the fault; 0 for every one
    size_mb: int = 64
    tells_mb: int = 0
    slow_s: float = 0.0
    checkpoint: bool = False
    save_s: float = 0.0
    card_mb: int = 0
    imgsz: int = 0  # these two mean nothing but to whoever learns what such work takes
    batch: int = 0


class Fake(Worker):
    """Counts, unless told to go wrong."""

    serves: ClassVar[tuple[str, ...]] = ("demo.count", "demo.other", "demo.train")
    options_type: ClassVar[type[Struct]] = Options
    params: ClassVar[dict[str, type[Struct]]] = dict.fromkeys(serves, Params)

    def load(self) -> None:
        """Take as long, and as much memory, as the options say."""
        options: Options = self.options
        os._exit = partial(_leave, os._exit, options)  # how the SDK leaves, when all else is done
        if options.ignore_term:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(options.load_s)
        self.ballast = bytearray(b"x" * (options.load_mb * 2**20))
        self._hold(0)
        if options.fail_load:
            raise BadInput(options.fail_load)
        if options.leave_child:
            _leave_child()

    def memory_bytes(self, job: Job) -> int:
        """Return what the job says that it will take: `tells_mb`."""
        params: Params = job.params
        return params.tells_mb * 2**20

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Count to `steps`, and hold on the way what the job holds of the card."""
        params: Params = job.params
        self._hold(params.card_mb)
        try:
            return count(job, report)
        finally:
            self._hold(0)

    def _hold(self, more_mb: int) -> None:
        """Hold so much more of the card than always, where there is a fake one."""
        options: Options = self.options
        claim(options.card_mb + more_mb, release_s=options.card_release_s, listed=options.card_listed, capped=options.card_capped)


def count(job: Job, report: Report) -> dict[str, Any]:
    """Count to `steps`, from the checkpoint on if there is one, and go wrong on the way as the parameters say."""
    params: Params = job.params
    start = int(job.resume_from.read_text()) if job.resume_from else 0
    held: list[bytearray] = []
    if params.checkpoint:
        report.will_checkpoint()
    for step in range(start + 1, params.steps + 1):
        if params.fault and (step == params.at or (params.fault == "leak" and step > params.at)) and params.attempt in (0, job.attempt):
            _go_wrong(params, report, held)
        time.sleep(params.step_s)
        report.progress(step, params.steps, phase="count", metrics={"step": float(step)})
        if params.checkpoint:
            _save(job.dir / "count", step, report, save_s=params.save_s)
    return {"counted": params.steps, "from": start, "attempt": job.attempt, "pid": os.getpid()}


def _save(mark: Path, step: int, report: Report, *, save_s: float) -> None:
    """Keep the step, at the pace of a disk that is as slow as that."""
    with report.critical("saving"):
        mark.write_text(str(step))
        time.sleep(save_s)
        report.save_checkpoint(mark)


def _go_wrong(params: Params, report: Report, held: list[bytearray]) -> None:  # noqa: C901, PLR0912  # one row per fault
    match params.fault:
        case "":
            return
        case "stall":
            _stand_still(report)
        case "hang":
            ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: no thread of this process runs meanwhile
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "error":
            raise ValueError("the work failed, as it was told to")
        case "oom":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.58 GiB of which 1.20 GiB is free.")
        case "broken":
            raise RuntimeError("CUDA error: device-side assert triggered")
        case "deaf":
            _be_deaf()
        case "memory" | "leak":
            held.append(_filled(params.size_mb))
        case "readers":
            held.append(_filled(params.size_mb))
            _share(held[-1], report.job.dir / "readers")
        case "fork":
            _leave_child()
        case "family":
            _leave_family(report.job.dir / "family")
        case "hold":
            _leave_holder(report.job.dir / "holder", size_mb=params.size_mb)
        case "slow":
            _take_time(report, params.slow_s)
        case "critical":
            with report.critical("a very long save"):
                _be_deaf()


def _filled(size_mb: int) -> bytearray:
    """Return so much memory, every page of it written."""
    held = bytearray(size_mb * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    return held


def _share(memory: bytearray, pid_file: Path) -> None:
    """Fork four children that read it over and over, and return once each has read all of it."""
    read, write = os.pipe()
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            while True:
                sum(memory[::4096])
                os.write(write, b".")  # the pipe takes as many as there are seconds in a test
                time.sleep(1)
    for _ in pids:
        os.read(read, 1)
    pid_file.write_text(" ".join(map(str, pids)))


def _stand_still(report: Report) -> None:
    """Make no progress, but stop when asked to."""
    while True:
        time.sleep(0.05)
        report.check()


def _take_time(report: Report, seconds: float) -> None:
    """Make no progress for so long, but stop when asked to."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.01)
        report.check()


def _be_deaf() -> None:
    """Make no progress, and listen to nobody."""
    while True:
        try:
            time.sleep(3600)
        except JobCancelled:
            continue


def _leave(leave: Callable[[int], NoReturn], options: Options, code: int) -> NoReturn:
    """Leave as the options say: late, and with a code of their own."""
    while options.stay_while and Path(options.stay_while).exists():
        time.sleep(0.01)
    leave(options.exit_code or code)


def _leave_child() -> None:
    """Start a child in a session of its own, which outlives its parent unless somebody ends it."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)


def _leave_holder(pid_file: Path, *, size_mb: int) -> None:
    """Start a child in a session of its own that only SIGKILL ends, and return once it holds so much memory, its pid in the file."""
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"held = bytearray(b'x' * ({size_mb} * 2**20)); print('held', flush=True); time.sleep(3600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    if holder.stdout is not None:
        holder.stdout.readline()
    pid_file.write_text(str(holder.pid))


def _leave_family(folder: Path) -> None:
    """Start the processes of `fake_tree`, and return once all are there."""
    family = subprocess.Popen([sys.executable, "-P", "-m", "workers.fake_tree", str(folder)], stdout=subprocess.PIPE)
    if family.stdout is not None:
        family.stdout.readline()


if __name__ == "__main__":
    main(Fake)
