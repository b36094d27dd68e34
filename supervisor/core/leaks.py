"""What a worker says of its memory between jobs, judged and told: each kind of leak once for each process."""

from msgspec.structs import replace

from supervisor.core.growth import KEPT, Idle, judge_growth
from supervisor.core.model import Process, Worker
from supervisor.core.turn import Turn


def heard(turn: Turn, worker: Worker, process: Process, idle: Idle) -> Process:
    """Take a measurement in, tell a verdict that is new for this process, and return the process as it is now known."""
    if process.idle and idle.jobs <= process.idle[-1].jobs:  # a beat that was overtaken: it says nothing new
        return process
    series = (*process.idle, idle)[-KEPT:]
    leak = judge_growth(series)
    if leak is not None and leak.kind not in process.leaks_told:
        fields = {"kind": leak.kind, "growth_bytes": leak.per_job_bytes, "jobs": leak.jobs, "mem_bytes": idle.used_bytes}
        turn.announce("memory_trimmed" if leak.harmless else "leak_found", worker=worker.name, reason=leak.sentence, fields=fields)
        process = replace(process, leaks_told=(*process.leaks_told, leak.kind))
    return replace(process, idle=series, leak=leak)
