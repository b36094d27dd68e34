"""Measures how late the verdict on a stalled job comes: from the last progress that the worker itself stamped to the line in the log. Aim: its limit + 1 s."""

import json
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.bench._blip import pause
from tests.bench._warden import Warden, arguments, scratch
from tests.chaos.stamps import Reader
from tests.support.measure import machine, print_table

LIMIT_S: Final = 2.0
AIM_S: Final = 1.0

TOML: Final = f"""
[watchdog]
stall_after = "{LIMIT_S:g}s"
healthy_after = "100ms"
[workers.plain]
command = ["{{python}}", "-P", "-m", "tests.chaos.worker"]
serves = ["chaos.plain"]
"""


def verdict_s(folder: Path, job: str) -> float:
    """Return when the log says that this job stalled, on the wall clock."""
    end_s = time.monotonic() + 60.0
    while time.monotonic() < end_s:
        for line in (folder / "logs" / "watchdog.jsonl").read_text().rpartition("\n")[0].splitlines():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "worker_stalled" and event["job"] == job:
                return datetime.fromisoformat(event["timestamp"]).timestamp()
        pause(0.05)
    raise RuntimeError(f"no verdict on {job} within a minute")


def main() -> int:
    """Print the table."""
    asked = arguments()
    late = []
    with scratch() as folder:
        warden = Warden(folder, TOML)
        stamps = Reader(folder)
        try:
            warden.wait_ready("plain-0")
            for number in range(2 if asked.quick else 10):
                job = warden.submit("chaos.plain", {"steps": 9, "step_s": 0.2, "fault": "stall", "at": 3 + number % 4})
                at_s = verdict_s(folder, job) - (time.time() - time.monotonic())
                moved_s = max(stamp.at_s for stamp in stamps.read() if stamp.job == job and stamp.what == "step")
                late.append(at_s - moved_s - LIMIT_S)
        finally:
            warden.stop()
    verdict = "" if asked.quick else "ok" if max(late) < AIM_S else "MISSED"
    row = (f"stall_after = {LIMIT_S:g} s", str(len(late)), f"{statistics.median(late):.2f}", f"{min(late):.2f}", f"{max(late):.2f}", verdict)
    print_table(f"last progress -> worker_stalled, s past the limit (aim: {AIM_S:g} s; {machine()})", ("what", "runs", "median", "min", "max", "aim"), [row])
    return 0


if __name__ == "__main__":
    sys.exit(main())
