"""Measures what supervision costs the work: the same jobs under `warden run` and in a bare process, in interleaved pairs.

Aim: the upper end of the 95 % interval of the slow-down below 5 %, in the work's own seconds and in its process's CPU seconds; the second says something on
a machine that has other work too. Both processes are loaded once and do one job at a time in turns; while the bare one
works, the supervisor and its worker are stopped (SIGSTOP), so that they cannot slow it down as well. Three workloads: arithmetic in plain Python, a YOLO
training and a SAM propagation, both of untrained networks on small pictures.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench._bare import Bare
from tests.bench._warden import Warden, quick, scratch, supervised
from tests.support.measure import cpu_s, machine, paired_ratio, print_table, thread_cpu_s, tree

AIM: Final = 1.05
LOOK_S: Final = 0.25
"""Between two looks at a running job: each look costs the supervisor a request."""

YOLO_OPTIONS: Final = {"allow_untrained": True, "image_size": 64, "device": "cpu"}
SAM_OPTIONS: Final = {"allow_untrained": True, "image_size": 128, "device": "cpu", "weights": "sam2.1_t.pt"}


class Workload(NamedTuple):
    """One kind of work. worker: module:Class.  unit, units: what is counted, and how many of them a job has."""

    name: str
    worker: str
    command: str
    options: dict[str, Any]
    kind: str
    params: dict[str, Any]
    unit: str
    units: int


Maker = Callable[[Path, bool], Workload]
"""Makes the input in a folder, little of it for a fast run."""


class Run(NamedTuple):
    """One job: the work's own seconds, the CPU seconds of its process, those with the supervisor's, and those of all but the work's own thread."""

    seconds: float
    worker_cpu_s: float
    all_cpu_s: float
    beside_cpu_s: float = 0.0


def spin(_folder: Path, fast: bool) -> Workload:
    """Return the arithmetic."""
    steps = 20 if fast else 200
    return Workload("plain Python", "tests.bench._spin:Spin", "tests.bench._spin", {}, "bench.spin", {"steps": steps}, "steps", steps)


def yolo(folder: Path, fast: bool) -> Workload:
    """Return a small training on a small data set."""
    from workers import samples

    train, val, epochs = (8, 4, 1) if fast else (32, 8, 2)
    data = samples.dataset(folder / "data", train=train, val=val)
    params = {"data": str(data), "epochs": epochs, "batch": 4, "image_size": 64, "optimizer": "AdamW", "lr0": 0.001, "mosaic": 0.0, "seed": 0}
    return Workload("yolo.train", "workers.yolo.worker:Yolo", "workers.yolo", YOLO_OPTIONS, "yolo.train", params, "batches", epochs * train // 4)


def sam(folder: Path, fast: bool) -> Workload:
    """Return a short propagation."""
    from workers import samples

    frames = 4 if fast else 24
    made = samples.video(folder / "street.mp4", frames=frames, size=(320, 180))
    params = {"video": str(made.path), "prompts": [{"points": [list(made.prompt)]}]}
    return Workload("sam.propagate", "workers.sam.worker:Sam", "workers.sam", SAM_OPTIONS, "sam.propagate", params, "frames", frames)


def toml_of(work: Workload) -> str:
    """Return a configuration that keeps one worker of this workload loaded."""
    options = ", ".join(f"{name} = {_toml(value)}" for name, value in work.options.items())
    return f"""
[workers.bench]
command = ["{{python}}", "-P", "-m", "{work.command}"]
serves = ["{work.kind}"]
options = {{ {options} }}
"""


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process and everything below it still."""
    members = list(tree(pid))
    for member in members:
        os.kill(member, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            os.kill(member, signal.SIGCONT)


def under_warden(warden: Warden, work: Workload, pid: int) -> Run:
    """Return what one supervised job took."""
    time.sleep(LOOK_S)  # noqa: TID251  # both kinds of run begin after the same rest: a core is faster after one
    worker_s, supervisor_s, main_s = cpu_s(pid), cpu_s(warden.pid), thread_cpu_s(pid)
    done = warden.finished(warden.submit(work.kind, work.params), look_s=LOOK_S)
    worker_s, supervisor_s, main_s = cpu_s(pid) - worker_s, cpu_s(warden.pid) - supervisor_s, thread_cpu_s(pid) - main_s
    return Run(done.result["seconds"], worker_s, worker_s + supervisor_s, worker_s - main_s + supervisor_s)


def alone(bare: Bare, work: Workload, warden: Warden) -> Run:
    """Return what the same job took without supervision."""
    with stopped(warden.pid):
        return rested(bare, work)


def rested(bare: Bare, work: Workload) -> Run:
    """Return what one job of a bare process took that rested before."""
    time.sleep(LOOK_S)  # noqa: TID251  # as above
    before_s = cpu_s(bare.pid)
    result = bare.run(work.kind, work.params)
    took_s = cpu_s(bare.pid) - before_s
    return Run(result["seconds"], took_s, took_s)


def pairs_of(work: Workload, folder: Path, pairs: int) -> tuple[list[Run], list[Run]]:
    """Return the supervised and the bare runs, pair by pair; the order changes from pair to pair. One pair more, at the start, warms up and is not counted."""
    bare = Bare(folder / "bare", work.worker, work.options)
    try:
        with supervised(toml_of(work)) as warden:
            warden.wait_ready("bench-0")
            bare.wait_ready()
            pid = warden.worker("bench-0").pid
            assert pid is not None
            supervised_runs, bare_runs = [], []
            for number in range(pairs + 1):
                if number % 2:
                    supervised_runs.append(under_warden(warden, work, pid))
                    bare_runs.append(alone(bare, work, warden))
                else:
                    bare_runs.append(alone(bare, work, warden))
                    supervised_runs.append(under_warden(warden, work, pid))
            return supervised_runs[1:], bare_runs[1:]
    finally:
        bare.stop()


def rows_for(work: Workload, folder: Path, pairs: int, *, judge: bool) -> list[tuple[str, ...]]:
    """Return the rows of one workload."""
    began_s = time.monotonic()
    ours, bare = pairs_of(work, folder, pairs)
    print(f"{work.name}: {pairs} pairs in {time.monotonic() - began_s:.0f} s", file=sys.stderr)  # minutes of silence look like a hang
    measures: list[tuple[str, Callable[[Run], float], str]] = [
        (f"s per {work.units} {work.unit}", lambda run: run.seconds, "aim"),
        ("CPU s of the worker", lambda run: run.worker_cpu_s, "aim"),
        ("CPU s with the supervisor's", lambda run: run.all_cpu_s, ""),
    ]
    rows: list[tuple[str, ...]] = []
    for name, read, judged in measures:
        ratio = paired_ratio([read(run) for run in ours], [read(run) for run in bare])
        verdict = ("ok" if ratio.high < AIM else "MISSED") if judged and judge else ""
        rows.append((work.name, name, f"{_middle(bare, read):.3f}", f"{_middle(ours, read):.3f}", str(ratio), verdict))
    share = statistics.median(run.beside_cpu_s / run.worker_cpu_s for run in ours)
    rows.append((work.name, "CPU beside the work's thread, of its own", "", "", f"{100 * share:.2f} %", ""))
    rate_bare, rate_ours = work.units / _middle(bare, measures[0][1]), work.units / _middle(ours, measures[0][1])
    rows.insert(0, (work.name, f"{work.unit}/s", f"{rate_bare:.1f}", f"{rate_ours:.1f}", "", ""))
    return rows


def noise_rows(work: Workload, folder: Path, pairs: int) -> list[tuple[str, ...]]:
    """Return the row of two bare processes against each other: what the machine alone makes of the comparison."""
    one, other = Bare(folder / "one", work.worker, work.options), Bare(folder / "other", work.worker, work.options)
    try:
        one.wait_ready()
        other.wait_ready()
        found: dict[int, list[Run]] = {one.pid: [], other.pid: []}
        for number in range(pairs):
            for bare in (one, other) if number % 2 else (other, one):
                with stopped((one if bare is other else other).pid):
                    found[bare.pid].append(rested(bare, work))
    finally:
        one.stop()
        other.stop()
    ours, bare_runs = found[other.pid], found[one.pid]
    return [
        (
            work.name,
            name,
            f"{_middle(bare_runs, read):.3f}",
            f"{_middle(ours, read):.3f}",
            str(paired_ratio(list(map(read, ours)), list(map(read, bare_runs)))),
            "",
        )
        for name, read in (
            ("noise: two bare ones, s", lambda run: run.seconds),
            ("noise: two bare ones, CPU s", lambda run: run.worker_cpu_s),
        )
    ]


def _middle(runs: list[Run], read: Callable[[Run], float]) -> float:
    return statistics.median(read(run) for run in runs)


def main() -> int:
    """Print the table."""
    fast = quick()
    makers: list[tuple[Maker, int]] = [(spin, 2 if fast else 60)]
    if find_spec("ultralytics") is None:
        print("yolo.train and sam.propagate are left out: they need the extra models (pip install gpu-warden[models])")
    else:
        makers += [(yolo, 1 if fast else 16), (sam, 1 if fast else 16)]
    rows = []
    note = machine()
    with scratch() as folder:
        for maker, pairs in makers:
            place = folder / maker.__name__
            place.mkdir()
            work = maker(place, fast)
            rows += rows_for(work, place, pairs, judge=not fast)
            if maker is spin:
                rows += noise_rows(work, place, pairs)
    print_table(
        f"supervised against bare: medians, and the median of the pairs' ratios with its 95 % interval (aim: its upper end below +5 %; {note})",
        ("work", "measure", "bare", "supervised", "supervised against bare", "aim"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
