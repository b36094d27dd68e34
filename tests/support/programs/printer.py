"""A program that prints a line every so often: `printer.py EVERY_S [COUNT]`. After COUNT lines it stands still, and has a child in a session of its own."""

import select
import subprocess
import sys


def run(every_s: float, count: int) -> None:
    """Print, then stand still."""
    step = 0
    while not count or step < count:
        step += 1
        sys.stdout.write(f"line {step}\n")
        sys.stdout.flush()
        select.select([], [], [], every_s)
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    select.select([], [], [], 3600.0)


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
