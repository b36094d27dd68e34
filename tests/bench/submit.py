"""Measures submit -> id through the control socket: median, p99 and rate, with one client and with eight.

Floors in the same run: a request that is answered from memory (the socket and the loop alone), and one insert + commit in a bare SQLite file of the same
kind (WAL, synchronous=FULL) in the same folder, which is what being on disk costs.
"""

import os
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from supervisor.control import Client
from tests.bench._warden import Warden, quick, supervised
from tests.support.measure import machine, print_table, quantile

CLIENTS: Final = 8

TOML: Final = """
[jobs]
max_queued = 1000000

[workers.away]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
autostart = false
"""
"""The worker is down, so that a job stays in the queue and nothing but the submitting is measured."""


def timed(call: Callable[[], Any], count: int) -> list[float]:
    """Return what each of so many calls took, in ms."""
    took = []
    for _ in range(count):
        began_s = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began_s))
    return took


def bare_commits(path: Path) -> Callable[[], None]:
    """Return a call that inserts one row as large as a job and commits it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, doc BLOB NOT NULL) STRICT")

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO jobs (id, kind, doc) VALUES (?, ?, ?)", (os.urandom(8).hex(), "demo.count", b"x" * 900))
        connection.execute("COMMIT")

    return commit


def together(warden: Warden, count: int) -> tuple[list[float], float]:
    """Return what each submit took with eight clients at once, in ms, and how many there were in a second."""
    found: list[list[float]] = [[] for _ in range(CLIENTS)]

    def work(place: int) -> None:
        with Client(lambda: warden.endpoint) as client:
            found[place] = timed(lambda: client.ask("jobs.submit", {"kind": "demo.count"}), count)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(CLIENTS)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [took for part in found for took in part], CLIENTS * count / (time.perf_counter() - began_s)


def row(name: str, took_ms: list[float], floor_ms: float, rate: float | None = None) -> tuple[str, ...]:
    """Return one row of the table."""
    middle = statistics.median(took_ms)
    return (name, f"{middle:.2f}", f"{quantile(took_ms, 0.99):.2f}", f"{rate or 1000 / statistics.mean(took_ms):.0f}", f"{middle / floor_ms:.1f}")


def main() -> int:
    """Print the table."""
    count, blocks = (10, 2) if quick() else (50, 6)
    floor: list[float] = []
    answered: list[float] = []
    alone: list[float] = []
    with supervised(TOML) as warden:
        warden.wait_ready()
        commit = bare_commits(warden.folder / "var" / "bare.sqlite")
        job = warden.submit("demo.count", {})
        for _ in range(blocks):  # in turns: what disturbs the disk disturbs all alike
            floor += timed(commit, count)
            answered += timed(lambda: warden.ask("jobs.show", job=job), count)
            alone += timed(lambda: warden.submit("demo.count", {}), count)
        crowd, rate = together(warden, count)
        queued = warden.status().jobs["queued"]
    middle = statistics.median(floor)
    print_table(
        f"submit -> id, ms ({blocks * count} each, in turns; {queued} jobs in the queue at the end; {machine()})",
        ("what", "median", "p99", "a second", "x floor"),
        [
            row("floor: bare SQLite insert + commit", floor, middle),
            row("jobs.show, answered from memory", answered, middle),
            row("jobs.submit, 1 client", alone, middle),
            row(f"jobs.submit, {CLIENTS} clients at once", crowd, middle, rate),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
