"""Measures `decide` per event at 16 and at 500 workers, and at 16 with 1000 jobs in the queue: a beat, a tick, the events of a job, an exit.

Aims: 20 us at 16 workers, 1 ms at 500. Floor in the same run: a copy of a dictionary of that size, which is what one changed worker costs a frozen fleet.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from supervisor.core import events as ev
from supervisor.core.decide import decide
from supervisor.core.limits import GIB, JobLimits, Limits, WorkerSpec
from supervisor.core.model import Exit, Fleet, Job, JobId, JobStatus, Worker, WorkerName, WorkerState
from tests.bench._warden import quick
from tests.support.measure import machine, print_table, quantile
from tests.support.world import World

SIZES: Final = {16: 20.0, 500: 1000.0}
"""Workers in the fleet, and the aim in us."""

Events = Mapping[str, tuple[Fleet, Callable[[int], ev.AnyEvent]]]


def fleet_of(size: int, queued: int, *, room: bool) -> tuple[Fleet, Limits, float]:
    """Return a fleet at work with its limits and its time: SAM on the device, one YOLO that waits, the rest without a device; half of them are busy.

    Those queued wait for max_running; with room for more, they are of two kinds that wait for the device, and have an order that counts.
    """
    plain = WorkerSpec(command=("x",), serves=("demo.count",), replicas=size - 2)
    sam = WorkerSpec(command=("x",), serves=("sam.segment",), gpu_bytes=14 * GIB)
    yolo = WorkerSpec(command=("x",), serves=("yolo.train",), gpu_bytes=8 * GIB, resident=False)
    most = size if room else size // 2
    limits = Limits(workers={"sam": sam, "yolo": yolo, "plain": plain}, jobs=JobLimits(max_running=most, max_queued=10_000))
    world = World(limits=limits)
    world.run(10.0)
    for index in range(size // 2):
        world.submit(f"j-{index}", "demo.count")
    if room:
        world.submit("j-sam", "sam.segment")
    world.run(12.5)
    for index in range(queued):
        world.submit(f"q-{index}", ("sam.segment", "yolo.train")[index % 2] if room else "demo.count", priority=(10, 15)[index % 2] if room else None)
    world.run(12.6)
    return world.fleet, limits, world.now_s


def cases(fleet: Fleet) -> Events:
    """Return a fleet and a maker of events for each row; the nth event differs from the one before as real ones do."""
    busy = [worker for worker in fleet.workers.values() if worker.state is WorkerState.BUSY]
    running = [fleet.jobs[worker.jobs[0]] for worker in busy if fleet.jobs[worker.jobs[0]].status is JobStatus.RUNNING]
    idle = [worker for worker in fleet.workers.values() if worker.state is WorkerState.READY]

    def at(worker: Worker) -> dict[str, WorkerName | int]:
        return {"worker": worker.name, "generation": worker.generation}

    def job_beat(n: int) -> ev.AnyEvent:
        worker = busy[n % len(busy)]
        moved = ev.JobProgress(job=worker.jobs[0], attempt=1, phase="train", done=float(n), total=1e9, metrics={"loss": 0.5})
        return ev.BeatHeard(**at(worker), jobs=(moved,))  # type: ignore[arg-type]  # the two fields by name

    def finished(n: int) -> ev.AnyEvent:
        job = running[n % len(running)]
        owner = fleet.workers[job.worker]  # type: ignore[index]  # a running job has one
        return ev.JobFinished(**at(owner), job=job.id, attempt=job.attempt, value={"ok": 1})  # type: ignore[arg-type]

    return {
        "beat, idle worker": (fleet, lambda n: ev.BeatHeard(**at(idle[n % len(idle)]))),  # type: ignore[arg-type]
        "beat with progress": (fleet, job_beat),
        "tick": (fleet, lambda n: ev.Tick(wall_s=1.7e9 + n)),
        "job submitted": (fleet, lambda n: ev.JobSubmitted(request="r", job=Job(id=JobId(f"n-{n}"), kind="demo.count"))),
        "job finished": (fleet, finished),
        "worker exited": (fleet, lambda n: ev.WorkerExited(**at(idle[n % len(idle)]), exit=Exit("signal", 9))),  # type: ignore[arg-type]
        "memory of all": (fleet, lambda _n: ev.MemoryMeasured(workers=dict.fromkeys(fleet.workers, GIB), available_bytes=8 * GIB)),
    }


def us_each(call: Callable[[int], object], count: int) -> list[float]:
    """Return what each of so many calls took, in us, after a few that warm up."""
    for n in range(20):
        call(n)
    took = []
    for n in range(count):
        began_s = time.perf_counter()
        call(n)
        took.append(1e6 * (time.perf_counter() - began_s))
    return took


def rows_for(size: int, queued: int, count: int, *, room: bool = False) -> list[tuple[str, ...]]:
    """Return the rows of one size of fleet."""
    fleet, limits, now_s = fleet_of(size, queued, room=room)
    shape = f"{size}" if not queued else f"{size}, {queued:,} {'for the device' if room else 'queued'}"
    workers = fleet.workers
    floor = statistics.median(us_each(lambda _n: {**workers}, count))
    found: list[tuple[str, ...]] = [
        (shape, "floor: copy of the workers' dictionary", f"{floor:.1f}", f"{quantile(us_each(lambda _n: {**workers}, count), 0.99):.1f}", "", "")
    ]
    for name, (before, make) in cases(fleet).items():
        ready = [make(n) for n in range(max(20, count))]
        took = us_each(lambda n, before=before, ready=ready: decide(before, ready[n], limits, now_s + 0.5), count)  # type: ignore[misc]
        median = statistics.median(took)
        verdict = "" if queued else "ok" if median < SIZES[size] else "MISSED"
        found.append((shape, name, f"{median:.1f}", f"{quantile(took, 0.99):.1f}", f"{median / floor:.0f}", verdict))
    return found


def main() -> int:
    """Print the table."""
    gc.freeze()
    count = 30 if quick() else 1000
    rows = [row for size in SIZES for row in rows_for(size, 0, count)]
    for room in (False, True):
        rows += rows_for(16, 50 if quick() else 1000, max(30, count // 10), room=room)
    aims = ", ".join(f"{aim:g} us at {size}" for size, aim in SIZES.items())
    print_table(f"decide, us an event ({count} each; aims: {aims}; {machine()})", ("workers", "event", "median", "p99", "x floor", "aim"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
