"""Measures submit -> id against other queues that write the same thing down (--peers: Celery and RQ on Redis, Huey on SQLite), durability said per row.

All submit from a Python process of their own, one client and then eight threads, in turns, and nobody works the jobs off. Then Warden is killed with SIGKILL,
again and again, while eight clients submit: how many of the jobs that were acknowledged are not in its store? Aims: p99 under 20 ms with one client, ahead of
each peer of the same durability, and none lost.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from supervisor.adapters.jobs_sqlite import open_store
from tests.bench._queues import Queue, Took, install, redis
from tests.bench._warden import Warden, arguments, environment, scratch, supervised
from tests.support.measure import machine, print_table, quantile

CLIENTS: Final = 8
P99_AIM_MS: Final = 20.0
FLUSHED: Final = "flushed before the id"
LATE: Final = "a power cut takes the last second"

TOML: Final = """
[workers.away]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
autostart = false
"""
"""The worker is down, so that a job stays in the queue and nothing but the submitting is measured. There are never more than the
1000 jobs in it that max_queued allows by default, for Warden's own work on a submit grows with them."""

SUBMITTER: Final = """
import os, sys
from supervisor.control import Client
with Client(lambda: sys.argv[1]) as client:
    while True:
        os.write(1, client.ask("jobs.submit", {"kind": "demo.count"}, timeout_s=60)["id"].encode() + b"\\n")  # whole: eight write into one file
"""


@contextmanager
def queues(folder: Path, *, peers: bool) -> Iterator[list[Queue]]:
    """Yield everything there is to submit to, running."""
    with ExitStack() as stack:
        warden = stack.enter_context(supervised(TOML))
        warden.wait_ready()
        found = [Queue("warden (SQLite)", "warden", warden.endpoint, Path(sys.executable), FLUSHED)]
        python = install(folder) if peers else None
        if python is not None:
            found.append(Queue("huey (SQLite, fsync)", "huey", str(folder / "huey.sqlite"), python, FLUSHED))
            for fsync, durability in (("always", FLUSHED), ("everysec", LATE)):
                url = stack.enter_context(redis(folder, fsync))
                if url is not None:
                    found += [Queue(f"{kind} (redis, appendfsync {fsync})", kind, url, python, durability) for kind in ("celery", "rq")]
        yield found


def rows(took: dict[Queue, list[Took]]) -> list[tuple[str, ...]]:
    """Return the table: Warden's row says whether it is where it should be."""
    middles = {queue.name: statistics.median(ms for one in found for ms in one.alone) for queue, found in took.items()}
    ours, peers = next(iter(took)), [queue for queue in took if queue.kind != "warden"]
    made: list[tuple[str, ...]] = []
    for queue, found in took.items():
        alone, crowd = [ms for one in found for ms in one.alone], [ms for one in found for ms in one.crowd]
        ahead = all(middles[ours.name] < middles[peer.name] for peer in peers if peer.durability == ours.durability)
        good = quantile(alone, 0.99) < P99_AIM_MS and ahead
        made.append(
            (
                queue.name,
                queue.durability,
                f"{middles[queue.name]:.2f}",
                f"{quantile(alone, 0.99):.2f}",
                f"{statistics.median(crowd):.2f}",
                f"{quantile(crowd, 0.99):.2f}",
                f"{statistics.median(one.rate for one in found):.0f}",
                f"{middles[queue.name] / middles[ours.name]:.1f}",
                ("ok" if good else "MISSED") if queue is ours and peers else "",
            )
        )
    return made


def killed(folder: Path, after: int) -> tuple[int, int]:
    """Kill a supervisor once so many jobs were acknowledged. Returns how many were in all, and how many of them are lost."""
    folder.mkdir()
    warden, out = Warden(folder, TOML), folder / "acknowledged"
    clients: list[subprocess.Popen[bytes]] = []
    try:
        warden.wait_ready()
        with out.open("ab") as file:
            clients += (subprocess.Popen([sys.executable, "-c", SUBMITTER, warden.endpoint], env=environment(), stdout=file) for _ in range(CLIENTS))
        while out.stat().st_size < 10 * after and all(client.poll() is None for client in clients):
            time.sleep(0.001)  # noqa: TID251  # a file tells nobody when it grows
        os.kill(warden.pid, signal.SIGKILL)
        warden.process.wait()
    finally:  # also where this script is asked to end in the middle
        for client in clients:
            client.kill()
            client.wait()
        warden.stop()
    lines = out.read_bytes().split(b"\n")[:-1]
    return len(lines), asyncio.run(_missing(folder / "var" / "jobs.sqlite", {line.decode() for line in lines}))


async def _missing(path: Path, acknowledged: set[str]) -> int:
    store = await open_store(path)
    kept = {str(job.id) for job in await store.live()}
    await store.close()
    return len(acknowledged - kept)


def main() -> int:
    """Print the tables."""
    asked = arguments("peers")
    count, each, blocks, kills = (5, 2, 1, 5) if asked.quick else (50, 10, 6, 100)
    if not asked.peers:
        print("celery, rq and huey are skipped: --peers installs and measures them")
    with scratch() as folder:
        with queues(folder, peers=asked.peers) as found:
            took: dict[Queue, list[Took]] = {queue: [] for queue in found}
            for _ in range(blocks):  # in turns: what disturbs the disk disturbs all alike
                for queue in found:
                    took[queue].append(queue.submit(count, CLIENTS, each))
        depth = blocks * (count + 5 + CLIENTS * (each + 2))
        print_table(
            f"submit -> id, ms ({blocks * count} each, up to {depth} queued; aim: p99 {P99_AIM_MS:g}, and ahead at equal durability; {machine()})",
            ("what", "durability", "median", "p99", f"{CLIENTS} clients: median", "p99", "a second", "x warden", "aim"),
            rows(took),
        )
        outcomes = [killed(folder / f"kill-{number}", 5 + 3 * number) for number in range(kills)]
    told, lost = sum(one for one, _ in outcomes), sum(gone for _, gone in outcomes)
    print_table(
        f"SIGKILL of the supervisor while {CLIENTS} clients submit",
        ("kills", "acknowledged", "lost", "aim"),
        [(str(kills), str(told), str(lost), "MISSED" if lost else "ok")],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
