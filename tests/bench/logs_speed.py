"""Measures how fast a program writes its log under Warden against the same program writing into a file by itself: lines of 100 bytes, one write each.

The log grows past log_max several times, so that keeping it in size is part of what is measured. Bare and supervised runs alternate. Aim: within 5 %.
"""

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.bench._blip import build, wait_for
from tests.bench._warden import Warden, arguments, scratch
from tests.support.measure import MIB, machine, paired_ratio, print_table

LINE_BYTES: Final = 100
AIM: Final = 1.05

TOML: Final = """
[supervisor]
log_max = "50MiB"
log_keep = 1
[workers.writer]
command = ["{program}", "{file}", "lines", "{lines}"]
progress = "none"
autostart = false
"""


def bare(folder: Path, program: Path, lines: int) -> float:
    """Return how long the lines took, in seconds, into a file."""
    folder.mkdir()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([str(program), str(folder / "blips"), "lines", str(lines)], stdout=log)
    try:
        return wait_for(folder / "blips", 1)[0].value_s
    finally:
        process.kill()
        process.wait()


def supervised(folder: Path, program: Path, lines: int) -> float:
    """Return how long they took under Warden."""
    folder.mkdir()
    warden = Warden(folder, TOML.format(program=program, file=folder / "blips", lines=lines))
    try:
        warden.wait_ready()
        warden.ask("workers.start", name="writer")
        return wait_for(folder / "blips", 1)[0].value_s
    finally:
        warden.stop()


def main() -> int:
    """Print the table."""
    asked = arguments()
    lines, pairs = (100_000, 1) if asked.quick else (3_000_000, 7)
    with scratch() as folder:
        program = build(folder)
        alone, watched = [], []
        for number in range(pairs):
            alone.append(bare(folder / f"bare-{number}", program, lines))
            watched.append(supervised(folder / f"warden-{number}", program, lines))
            for log in folder.rglob("*log*"):
                if log.is_file():
                    log.unlink()
    ratio = paired_ratio(watched, alone)
    size = lines * LINE_BYTES / MIB
    verdict = "" if asked.quick else "ok" if ratio.median < AIM else "MISSED"
    rows = [
        (name, f"{size / statistics.median(took):.0f}", f"{lines / statistics.median(took) / 1e6:.2f}", more, aim)
        for name, took, more, aim in (("into a file by itself", alone, "", ""), ("under warden", watched, str(ratio), verdict))
    ]
    print_table(f"{size:.0f} MiB of log lines, {pairs} pairs (aim: within 5 % of the file; {machine()})", ("what", "MiB/s", "M lines/s", "time", "aim"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
