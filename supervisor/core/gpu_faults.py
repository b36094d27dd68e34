"""When a device fails its work: memory that was not enough, a context that broke. The process is never used again, a fresh one follows."""

import re
from typing import Final

from msgspec.structs import replace

from supervisor.core import ladder, peaks
from supervisor.core.gpu import free_words
from supervisor.core.model import Cause, Failure, Job, Reason, Worker
from supervisor.core.sharing import shared
from supervisor.core.turn import Turn
from supervisor.units import format_size

ENDS_BY: Final = {Reason.GPU_OOM: Cause.MEMORY, Reason.GPU_ERROR: Cause.CRASH}
"""How a process counts as ended that failed its work so: of one whose memory ran out nobody knows what is left in pieces, a broken context stays broken."""

_ASKED: Final = re.compile(r"[Tt]ried to allocate ([0-9.]+ ?[KMGT]iB)")


def take(turn: Turn, worker: Worker, job: Job, failure: Failure) -> Failure:
    """End the process at the next boundary of what else it works on. Returns the failure with what was asked, given, used and free."""
    oom = failure.reason is Reason.GPU_OOM
    asked = _ASKED.search(failure.message) if oom else None
    numbers = [*([f"asked for {asked[1]}"] if asked else []), *_numbers(turn, worker)]
    evidence = "; ".join([*numbers, *(_lesson(turn, worker, job) if oom else [])])
    turn.announce("gpu_oom" if oom else "gpu_error", worker=worker.name, job=job.id, reason=failure.message, fields={"evidence": evidence})
    _end(turn, worker, job, ENDS_BY[failure.reason])
    return replace(failure, evidence=evidence)


def while_loading(turn: Turn, worker: Worker, error: str) -> None:
    """Remember that a model did not fit into what its worker was given; the process ends by itself."""
    evidence = "; ".join([*_numbers(turn, worker), *_lesson(turn, worker, None)])
    turn.announce("gpu_oom", worker=worker.name, reason=error, fields={"evidence": evidence})


def _lesson(turn: Turn, worker: Worker, job: Job | None) -> list[str]:
    """Remember that its share was not enough, and return what its work is taken to need. One that had the whole device had no share that could be raised."""
    return [f"taken to need {format_size(peaks.too_little(turn, worker, job))} from now on"] if shared(turn.limits) else []


def _numbers(turn: Turn, worker: Worker) -> list[str]:
    """Return what the worker was given, what it used, and what was free, by the last reading."""
    lease = turn.fleet.lease_of(worker.name)
    if lease is None:
        return []
    device = turn.fleet.devices[lease.device]
    used = [holding.used_bytes for holding in (device.sample.holdings if device.sample else ()) if holding.worker == worker.name]
    seen = [f"{format_size(size)} used by it" for size in used if size is not None]
    own = [f"{format_size(worker.process.device_bytes)} by its own count"] if worker.process and worker.process.device_bytes else []
    return [f"{format_size(lease.need_bytes)} of {device.id} given", *own, f"at the last reading {', '.join([*seen, free_words(device)])}"]


def _end(turn: Turn, worker: Worker, job: Job, cause: Cause) -> None:
    """Let the process go, with nobody else to blame. One that is on its way out already goes for that reason."""
    worker = turn.fleet.workers[worker.name]
    if worker.stop is not None:
        return
    ladder.order_leave(
        turn, worker, cause, f"{job.id} failed for want of device memory" if cause is Cause.MEMORY else f"{job.id} broke its device context", boundary=True
    )
    worker = turn.fleet.workers[worker.name]
    if worker.stop is not None:
        turn.put_worker(replace(worker, stop=replace(worker.stop, job=job.id)))
