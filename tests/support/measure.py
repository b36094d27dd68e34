"""Numbers for the benchmarks: medians, paired ratios with an interval, CPU time and memory of processes, tables."""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_RESAMPLES: Final = 5000
_PROCESS_CLOCK: Final = 2  # Linux: the CPU clock of a whole process, its ended threads included, is (~pid << 3) | 2; nanoseconds where /proc counts in 10 ms
MIB: Final = 2**20


class Ratio(NamedTuple):
    """A paired ratio: the median, and the 95 % interval of that median."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as a change in percent with its interval."""
        return f"{100 * (self.median - 1):+.2f} % [{100 * (self.low - 1):+.2f}, {100 * (self.high - 1):+.2f}]"


def paired_ratio(new: Sequence[float], old: Sequence[float]) -> Ratio:
    """Return the median of new / old, pair by pair, with its bootstrap 95 % interval.

    Percentiles of the medians of 5000 resamples of the pairs (Efron and Tibshirani, 1993, chapter 13), seeded: the same numbers give the same interval.
    Raises ValueError for sequences of different lengths or without a pair.
    """
    ratios = [one / other for one, other in zip(new, old, strict=True)]
    if not ratios:
        raise ValueError("no pairs were measured: at least one was expected")
    source = random.Random(0)  # noqa: S311  # for resampling, not for secrets
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Ratio(statistics.median(ratios), medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)])


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share (0 to 1) of the values lies; the nearest one that was seen."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, all its threads together, ended ones too. Raises OSError for one that is gone."""
    return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)


def thread_cpu_s(tid: int) -> float:
    """Return the CPU seconds of one thread; a process's first thread has its pid."""
    return int(Path(f"/proc/{tid}/task/{tid}/schedstat").read_text().split()[0]) / 1e9


def tree(pid: int) -> Iterator[int]:
    """Yield a process and everything below it that lives."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from tree(int(child))


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and of everything that lives below it."""
    return sum(cpu_s(member) for member in tree(pid))


def pss_bytes(pid: int) -> int:
    """Return the proportional share of memory of one process."""
    return _kib(f"/proc/{pid}/smaps_rollup", "Pss:")


def rss_bytes(pid: int) -> int:
    """Return the resident memory of one process, shared pages counted whole."""
    return _kib(f"/proc/{pid}/status", "VmRSS:")


def _kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{path} has no line {name}: a live process was expected")


def ns_per_call(run: Callable[[int], float], *, calls: int, rounds: int) -> float:
    """Return the median over the rounds of what one call costs, in ns. run(calls) makes that many calls and returns the seconds they took."""
    return 1e9 * statistics.median(run(calls) for _ in range(rounds)) / calls


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table: a title, the columns' names, a rule, the rows. The first column is flush left, the others right."""
    widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
    print(f"\n{title}")  # noqa: T201  # what a benchmark is for
    for cells in (columns, ["-" * width for width in widths], *rows):
        text = [cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(cells, widths, strict=True))]
        print("  ".join(text).rstrip())  # noqa: T201


def machine() -> str:
    """Return what a reader must know of where the numbers were made."""
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.2f}"
