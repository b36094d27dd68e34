"""A program that rewrites a progress file: `writer.py PATH EVERY_S [COUNT]`. After COUNT steps it goes on writing, but always the same."""

import json
import select
import sys
from pathlib import Path


def run(path: Path, every_s: float, count: int) -> None:
    """Write, each time whole."""
    step = 0
    while True:
        step = step + 1 if not count or step < count else step
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step}))
        partial.replace(path)
        select.select([], [], [], every_s)


if __name__ == "__main__":
    run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
