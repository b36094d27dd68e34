"""Measures what one `report.progress` costs the work, and how long a change is on its way to the supervisor's socket.

Cost: alone, and while the SDK's thread sends the beats to a real socket. Aim: under 2 us. Floors in the same run: an empty method call, and `os.utime` on a
file in memory, which is how gunicorn's workers show that they live.
The way: of a change that comes 0.3 s after the last (aim: p50 under 5 ms, so that an event reaches a browser within 20), and of one that comes at once after a
beat, which waits for its turn: four beats a second are the most. Floor: a message from one thread to another.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq

from supervisor.wire import Beat, Bye, decode_from_worker
from tests.bench._warden import quick, scratch
from tests.support.measure import machine, ns_per_call, print_table, quantile
from workers.beats import Identity
from workers.link import Link
from workers.report import Job, Report

AIM_NS: Final = 2000
WAY_AIM_MS: Final = 5.0
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
def linked(folder: Path) -> Iterator[tuple[Report, "zmq.Socket[bytes]"]]:
    """Yield the report of a job, and the ROUTER that its beats go to, four a second at the most."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{folder}/workers.sock")
    identity = Identity(endpoint=f"ipc://{folder}/workers.sock", worker="w-0", generation=1, token="t")
    link = Link(identity, serves=(), device_bytes=lambda: None)
    report = Report(Job(id="j", attempt=1, kind="bench", params=None, dir=folder))
    link.start()
    link.open_report(report)
    try:
        yield report, router
    finally:
        link.close_report(report)
        link.close(Bye(worker=identity.worker, generation=identity.generation, token=identity.token))
        router.close(0)
        context.term()


def way_ms(report: Report, router: "zmq.Socket[bytes]", *, changes: int, rest_s: float) -> list[float]:
    """Return for each change how long it was on its way. Before each the work rests after the last one was heard."""
    found = []
    for change in range(1, changes + 1):
        time.sleep(rest_s)  # noqa: TID251  # the rest is what is measured after
        said_s = time.perf_counter()
        report.progress(change, changes, phase="way")
        while not _tells(router.recv_multipart()[1], change):
            pass
        found.append(1000 * (time.perf_counter() - said_s))
    return found


def by_hand_ms(folder: Path, *, times: int) -> list[float]:
    """Return how long an equal message takes from a DEALER in a thread of its own to a ROUTER here."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{folder}/floor.sock")
    go = threading.Event()

    def send() -> None:
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"ipc://{folder}/floor.sock")
        for _ in range(times):
            go.wait()
            go.clear()
            dealer.send(b"x" * 100)
        dealer.close(1000)

    thread = threading.Thread(target=send)
    thread.start()
    found = []
    for _ in range(times):
        time.sleep(0.02)  # noqa: TID251  # both threads are asleep, as they are between two changes
        said_s = time.perf_counter()
        go.set()
        router.recv_multipart()
        found.append(1000 * (time.perf_counter() - said_s))
    thread.join()
    router.close(0)
    context.term()
    return found


def _tells(data: bytes, change: int) -> bool:
    message = decode_from_worker(data)
    return isinstance(message, Beat) and any(job.phase == "way" and job.done == change for job in message.jobs)


def main() -> int:
    """Print the tables."""
    costs()
    ways()
    return 0


def ways() -> None:
    """Print how long changes are on their way."""
    changes = 4 if quick() else 40
    with scratch() as folder:
        floor = by_hand_ms(folder, times=changes)
        with linked(folder) as (report, router):
            rested = way_ms(report, router, changes=changes, rest_s=0.3)
            hurried = way_ms(report, router, changes=changes, rest_s=0.0)
    print_table(
        f"from report.progress to the supervisor's socket, ms ({changes} changes; {machine()})",
        ("what", "p50", "p95", "max", "aim"),
        [
            (name, *(f"{value:.1f}" for value in (quantile(ms, 0.5), quantile(ms, 0.95), max(ms))), told)
            for name, ms, told in (
                ("floor: a message from a thread that sleeps", floor, ""),
                ("a change 0.3 s after the last", rested, "ok" if quantile(rested, 0.5) < WAY_AIM_MS else "MISSED"),
                ("a change at once after a beat", hurried, ""),
            )
        ],
    )


def costs() -> None:
    """Print what a call costs."""
    calls, rounds = (2_000, 3) if quick() else (100_000, 15)
    with scratch() as folder, linked(folder) as (beating, _), tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as memory:
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


if __name__ == "__main__":
    sys.exit(main())
