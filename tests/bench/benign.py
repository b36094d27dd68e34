"""Counts false kills: ten kinds of work that use much memory and harm nobody, on a machine of 3 GiB with the brake at 1 GiB and a limit of 2 GiB for a worker.

The machine is a memory cgroup, so page cache, tmpfs and what a neighbour takes count as they do on a real one, and nobody outside is in danger. Beside Warden's
own count of what is available stand two that others go by: what is not in use (cache counted as used), and the RSS of a tree added up, in three looks in a row.
"""

import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.adapters.headroom import Headroom
from tests.bench._benign import WORK
from tests.bench._box import Box, box
from tests.bench._warden import ENDED, Warden, arguments, supervised
from tests.bench.hogs import started
from tests.support.measure import MIB, machine, print_table, tree

TOTAL: Final = 3072 * MIB
LINE: Final = 1024 * MIB
LIMIT: Final = 2048 * MIB
LOOK_S: Final = 0.02
TREE_LOOK_S: Final = 1.0
"""How often Warden looks at trees here."""

MEMORY: Final = """[memory]
look_every = "1s"
worker_soft = "0"
worker_limit = "2GiB"
warn_below = "1280MiB"
emergency_below = "1GiB"
hard_floor = "512MiB"
"""
TOML: Final = """
[workers.benign]
command = ["{python}", "-P", "-m", "tests.bench._benign"]
serves = ["bench.benign"]
[workers.other]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
"""
ACTED: Final = ("emergency_brake", "memory_limit", "worker_killed", "worker_recycled")


class Seen(NamedTuple):
    """One run: the least that was available and that was not in use, the most of RSS that a tree had at three looks in a row, and what was done to it."""

    available: int
    unused: int
    rss: int
    done_to_it: str


def resident(pid: int) -> int:
    """Return the RSS of a tree, added up."""
    found = 0
    for member in list(tree(pid)):
        try:
            found += 4096 * int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:  # it ended
            continue
    return found


def watched(warden: Warden, name: str, room: Box) -> Seen:
    """Return how one kind of work went."""
    warden.wait_ready("benign-0", "other-0")
    pids = {worker: warden.worker(worker).pid or 0 for worker in ("benign-0", "other-0")}
    before = {event: len(warden.said(event)) for event in ACTED}
    available, unused, rss, looks = room.limit, room.limit, 0, [0, 0, 0]
    job = str(warden.ask("jobs.submit", kind="bench.benign", params={"name": name}, max_attempts=1)["id"])
    looked_at_s = time.monotonic()
    while warden.ask("jobs.show", job=job)["status"] not in ENDED:
        available, unused = min(available, room.available()), min(unused, room.limit - room.used())
        if time.monotonic() - looked_at_s >= TREE_LOOK_S:
            looked_at_s = time.monotonic()
            looks = [*looks[1:], resident(pids["benign-0"])]
            rss = max(rss, min(looks))
        select.select([], [], [], LOOK_S)
    view = warden.ended(job)
    wrong = [event for event in ACTED if len(warden.said(event)) > before[event]]
    wrong += [] if view.status == "completed" else [f"{view.status}: {view.message}"]
    wrong += [f"{worker} is another process" for worker, pid in pids.items() if warden.worker(worker).pid != pid]
    return Seen(available, unused, rss, "; ".join(wrong))


def row(name: str, seen: list[Seen]) -> tuple[str, ...]:
    """Return one row of the table."""
    killed = sum(bool(one.done_to_it) for one in seen)
    unused, rss = sum(one.unused < LINE for one in seen), sum(one.rss > LIMIT for one in seen)
    least = min(one.available for one in seen) - LINE
    return (name, str(len(seen)), f"{least / MIB:.0f}", str(killed), str(unused), str(rss), "ok" if not killed else "MISSED")


def main() -> int:
    """Print the table."""
    asked = arguments()
    runs = 1 if asked.quick else 3
    names = ["plateau", "neighbour"] if asked.quick else list(WORK)
    seen: dict[str, list[Seen]] = {name: [] for name in names}
    rows: list[tuple[str, ...]] = []
    with box(TOTAL) as room:
        if room is None or Headroom().read().available_bytes < 2 * TOTAL:
            rows = [("not run: it needs a memory cgroup of 3 GiB, and none may be made here, or there is too little memory", *[""] * 6)]
        else:
            for _ in range(runs):
                with supervised(TOML, memory=MEMORY, inside=room.inside) as warden:
                    for name in names:
                        with ExitStack() as stack:
                            if name == "neighbour":
                                stack.enter_context(started([sys.executable, "-m", "tests.bench._benign", "neighbour"], room))
                            seen[name].append(watched(warden, name, room))
                        print(name, seen[name][-1], file=sys.stderr, flush=True)
            rows = [row(name, found) for name, found in seen.items()]
    columns = ("work", "runs", "nearest to the line, MiB", "false kills", "by what is not in use", "by RSS added up", "aim: 0")
    print_table(f"work that harms nobody, on a machine of 3 GiB ({machine()})", columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
