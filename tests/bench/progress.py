"""Measures what one `report.progress` costs the work: alone, and while the SDK's thread sends the beats to a real socket.

Aim: under 2 us. Floors in the same run: an empty method call, and `os.utime` on a file in memory, which is how gunicorn's workers show that they live.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq

from supervisor.wire import Bye
from tests.bench._warden import quick, scratch
from tests.support.measure import machine, ns_per_call, print_table
from workers.beats import Identity
from workers.link import Link
from workers.report import Job, Report

AIM_NS: Final = 2000
METRICS: Final = {"loss": 0.25, "mAP50": 0.5, "epoch": 3.0}

Run = Callable[[int], float]


class Empty:
    """A method that takes what `progress` takes, and does nothing."""

    def progress(self, done: float, total: float, *, phase: str = "", metrics: object = None) -> None:
        """Do nothing."""


def plain(report: Report | Empty) -> Run:
    """Return a loop of calls without metrics. The cost of the loop itself (about 20 ns) is left in, in every row."""

    def run(calls: int) -> float:
        began_s = time.perf_counter()
        for step in range(calls):
            report.progress(step, calls, phase="train")
        return time.perf_counter() - began_s

    return run


def metered(report: Report | Empty) -> Run:
    """Return a loop of calls with three metrics, in a dictionary made anew each time as a training does."""

    def run(calls: int) -> float:
        began_s = time.perf_counter()
        for step in range(calls):
            report.progress(step, calls, phase="train", metrics={**METRICS, "step": step})
        return time.perf_counter() - began_s

    return run


def touching(path: Path) -> Run:
    """Return a loop of `os.utime` on an open file."""

    def run(calls: int) -> float:
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        began_s = time.perf_counter()
        for _ in range(calls):
            os.utime(handle)
        took_s = time.perf_counter() - began_s
        os.close(handle)
        return took_s

    return run


@contextmanager
def linked(folder: Path) -> Iterator[Report]:
    """Yield the report of a job whose beats go to a ROUTER, four a second, and are read there by nobody but ZeroMQ."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{folder}/workers.sock")
    identity = Identity(endpoint=f"ipc://{folder}/workers.sock", worker="w-0", generation=1, token="t")
    link = Link(identity, serves=(), device_bytes=lambda: None)
    report = Report(Job(id="j", attempt=1, kind="bench", params=None, dir=folder))
    link.start()
    link.open_report(report)
    try:
        yield report
    finally:
        link.close_report(report)
        link.close(Bye(worker=identity.worker, generation=identity.generation, token=identity.token))
        router.close(0)
        context.term()


def main() -> int:
    """Print the table."""
    calls, rounds = (2_000, 3) if quick() else (100_000, 15)
    with scratch() as folder, linked(folder) as beating, tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as memory:
        alone = Report(Job(id="j", attempt=1, kind="bench", params=None, dir=folder))
        rows: dict[str, Run] = {
            "empty method call": plain(Empty()),
            "empty method call, metrics": metered(Empty()),
            "report.progress": plain(alone),
            "report.progress, metrics": metered(alone),
            "report.progress, beats sent": plain(beating),
            "report.progress, metrics, beats sent": metered(beating),
            "os.utime, file in memory": touching(Path(memory) / "beat"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):  # all rows in each round: what disturbs the machine disturbs them alike
            for name, run in rows.items():
                seconds[name].append(ns_per_call(run, calls=calls, rounds=1))
    medians = {name: sorted(found)[len(found) // 2] for name, found in seconds.items()}
    empty = medians["empty method call"]
    print_table(
        f"report.progress, ns a call (median of {rounds} rounds of {calls:,} calls; aim {AIM_NS}; {machine()})",
        ("what", "ns", "x empty", "aim"),
        [(name, f"{ns:.0f}", f"{ns / empty:.1f}", ("ok" if ns < AIM_NS else "MISSED") if "report" in name else "") for name, ns in medians.items()],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
