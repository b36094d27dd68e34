"""Four programs of priority 0, 10, 15 and 20 fight over one device: for ten minutes of virtual time, and for one of real time against a real supervisor.

Each takes the device, holds it, gives it back and asks at once again. In real time everything is ten times as fast: holds of 1 s, a level each 0.5 s. What
each waited is held against the bound in supervisor/DESIGN.md, for real with the longest hold and the longest hand-over that were measured.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from tests.bench._warden import quick, supervised
from tests.support.fights import AGE_STEP_S, HAND_OVER_S, fight
from tests.support.lives import bound_s
from tests.support.measure import machine, print_table
from tests.support.real_fight import real_fight

FOUR: Final = {"microphone": 0, "console": 10, "default": 15, "background": 20}
HOLD_S: Final = 10.0
VIRTUAL_S: Final = 600.0
REAL_S: Final = 60.0
FASTER: Final = 10.0
TOML: Final = f"""
[gpu]
backend = "host"
age_step = "{1000 * AGE_STEP_S / FASTER:.0f}ms"
[workers.sam]
command = ["{{python}}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
gpu = "14GiB"
"""
COLUMNS: Final = ("program", "priority", "served", "median wait s", "worst s", "at most s", "")


def rows_of(waits: Mapping[str, Sequence[float]], *, age_step_s: float, hold_s: float, hand_over_s: float) -> list[tuple[str, ...]]:
    """Return a row for each program."""
    rows: list[tuple[str, ...]] = []
    for name, priority in FOUR.items():
        limit_s = bound_s(priority, len(FOUR) - 1, age_step_s=age_step_s, hold_s=hold_s, hand_over_s=hand_over_s, gives_way=False)
        worst_s, median_s = max(waits[name], default=limit_s + 1), statistics.median(waits[name] or [limit_s])
        verdict = "ok" if waits[name] and worst_s <= limit_s else "MISSED"
        rows.append((name, f"{priority}", f"{len(waits[name])}", f"{median_s:.2f}", f"{worst_s:.2f}", f"{limit_s:.2f}", verdict))
    return rows


def main() -> int:
    """Print both tables; 1 if the bound did not hold, or the device was ever two programs'."""
    virtual = fight({name: (priority, HOLD_S) for name, priority in FOUR.items()}, for_s=VIRTUAL_S)
    rows = rows_of(virtual, age_step_s=AGE_STEP_S, hold_s=HOLD_S, hand_over_s=HAND_OVER_S)
    print_table(f"{VIRTUAL_S / 60:.0f} min of virtual time, holds of {HOLD_S:g} s, a level each {AGE_STEP_S:g} s", COLUMNS, rows)
    real_s = 6.0 if quick() else REAL_S
    with supervised(TOML) as warden:
        warden.wait_ready("sam-0")
        found = real_fight(lambda: warden.endpoint, FOUR, hold_s=HOLD_S / FASTER, for_s=real_s)
        warden.wait_ready("sam-0")
    real = rows_of(found.waits, age_step_s=AGE_STEP_S / FASTER, hold_s=found.hold_s, hand_over_s=found.hand_over_s)
    measured = f"longest hold {found.hold_s:.2f} s, hand-over {found.hand_over_s:.2f} s, {found.overlaps} overlaps, SAM back; {machine()}"
    print_table(f"{real_s:g} s of real time, holds of {HOLD_S / FASTER:g} s, a level each {AGE_STEP_S / FASTER:g} s ({measured})", COLUMNS, real)
    return 1 if found.overlaps or any(row[-1] != "ok" for row in rows + real) else 0


if __name__ == "__main__":
    sys.exit(main())
