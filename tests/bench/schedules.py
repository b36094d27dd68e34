"""Lives 100,000 random lives of a device in virtual time, and counts what must never happen: double grants, lost leases, starvation, a SAM that is not back.

A life is 25 s of programs and jobs of all priorities with crashes, supervisors that are killed, strangers on the device, late releases and readings that fail,
and then peace. Each is the same for the same seed: `--seed N` tells one, `--schedules N` says how many. Then two loads that never end.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.support.fights import against_endless_work, fight
from tests.support.lives import Outcome, live
from tests.support.measure import machine, print_table

AT_ONCE = 250
ENDLESS_S = 3600.0
LIMIT_S = 120.0


@dataclass
class Sum:
    """Many lives together. wrong: seeds with their stories."""

    lives: int = 0
    grants: int = 0
    decisions: int = 0
    served: int = 0
    troubled: int = 0
    doubles: int = 0
    lost: int = 0
    not_back: int = 0
    worst: tuple[float, float, int] = (0.0, 1.0, 0)  # the wait that came nearest to its bound, the bound, the seed
    wrong: list[tuple[int, str]] = field(default_factory=list)

    def add(self, seed: int, one: Outcome) -> None:
        """Count one life."""
        self._count(1, one.grants, one.decisions, one.served, one.troubled, one.doubles, one.lost, 0 if one.sam_is_back else 1)
        self._worse((one.worst_s, one.bound_s, seed))
        if one.story:
            self.wrong.append((seed, one.story))

    def join(self, other: "Sum") -> None:
        """Count what another counted."""
        self._count(other.lives, other.grants, other.decisions, other.served, other.troubled, other.doubles, other.lost, other.not_back)
        self._worse(other.worst)
        self.wrong += other.wrong

    def _count(self, *more: int) -> None:
        for name, count in zip(("lives", "grants", "decisions", "served", "troubled", "doubles", "lost", "not_back"), more, strict=True):
            setattr(self, name, getattr(self, name) + count)

    def _worse(self, other: tuple[float, float, int]) -> None:
        self.worst = max(self.worst, other, key=lambda one: one[0] / one[1])


def lives(seeds: range) -> Sum:
    """Return these lives together."""
    found = Sum()
    for seed in seeds:
        found.add(seed, live(seed))
    return found


def all_of(count: int, processes: int) -> Sum:
    """Return the lives of the seeds below count; a line on stderr tells how far it is."""
    parts = [range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE)]
    found, began_s = Sum(), time.monotonic()
    if processes == 1:
        return _joined(found, map(lives, parts), count, began_s)
    with ProcessPoolExecutor(processes, initializer=gc.freeze) as pool:
        return _joined(found, pool.map(lives, parts), count, began_s)


def _joined(found: Sum, parts: Iterable[Sum], count: int, began_s: float) -> Sum:
    for part in parts:
        found.join(part)
        if found.lives % 5000 == 0:
            print(f"{found.lives} of {count}, {time.monotonic() - began_s:.0f} s, {len(found.wrong)} wrong", file=sys.stderr, flush=True)
    return found


def endless() -> list[tuple[str, ...]]:
    """Return a row for each load of priority 0 that never ends, and how long a program of priority 20 waits under it."""
    urgent = {f"urgent-{number}": (0, 10.0) for number in range(3)}
    loads = {
        "three programs of priority 0, 10 s each time": fight({**urgent, "calm": (20, 5.0)}, for_s=ENDLESS_S)["calm"],
        "a job of priority 0 that saves every 5 s": against_endless_work(20, work=1, for_s=ENDLESS_S)["calm"],
        "two such jobs": against_endless_work(20, work=2, for_s=ENDLESS_S)["calm"],
    }
    return [(name, str(len(waits)), f"{max(waits):.1f}", f"{LIMIT_S:g}", "ok" if max(waits) <= LIMIT_S else "MISSED") for name, waits in loads.items()]


def main() -> int:
    """Print the tables; 1 if anything was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    if asked.seed is not None:
        print(live(asked.seed))
        return 0
    began_s = time.monotonic()
    found = all_of(100 if asked.quick else asked.schedules, 1 if asked.quick else asked.processes)
    took_s = time.monotonic() - began_s
    wait_s, bound_s, seed = found.worst
    rows = [
        ("schedules", f"{found.lives}", ""),
        ("grants", f"{found.grants}", ""),
        ("decisions", f"{found.decisions}", ""),
        ("double grants", f"{found.doubles}", "0"),
        ("lost leases", f"{found.lost}", "0"),
        ("programs served", f"{found.served}", ""),
        ("of them with a fault meanwhile", f"{found.troubled}", ""),
        ("wait nearest to its bound, s", f"{wait_s:.1f}", f"{bound_s:.1f}"),
        ("SAM not back", f"{found.not_back}", "0"),
        ("lives with anything wrong", f"{len(found.wrong)}", "0"),
    ]
    print_table(f"random schedules ({took_s:.0f} s, the nearest wait in seed {seed}; {machine()})", ("what", "found", "at most"), rows)
    loads = endless()
    print_table(
        f"a program of priority 20 under a load that never ends, {ENDLESS_S / 60:.0f} min of virtual time",
        ("load", "served", "worst wait s", "at most", ""),
        loads,
    )
    for number, story in found.wrong[:10]:
        print(f"seed {number}: {story[:500]}", file=sys.stderr)
    return 1 if found.wrong or any(row[-1] != "ok" for row in loads) else 0


if __name__ == "__main__":
    sys.exit(main())
