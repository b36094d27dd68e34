"""What is said without anybody having done a thing: how the workers that run are, now and then, and that the disk is nearly full."""

from msgspec.structs import replace

from supervisor.core.recycle import due_at_s
from supervisor.core.turn import Turn
from supervisor.units import format_size


def health(turn: Turn) -> None:
    """One line for each worker that runs: silence in the log means trouble."""
    limit_bytes = turn.limits.memory.worker_limit_bytes
    for worker in turn.fleet.workers.values():
        process = worker.process
        if process is None or process.pid is None:
            continue
        age = {"age_s": turn.now_s - process.spawned_at_s, "age_limit_s": turn.spec(worker).watchdog.recycle_after_s}
        fields = {"state": worker.state, "pid": process.pid, **age}
        moved = [job.progress_at_s for job in (turn.fleet.jobs.get(name) for name in worker.jobs) if job is not None and job.progress_at_s is not None]
        readings = {
            "mem_bytes": worker.memory_bytes,
            "mem_limit_bytes": limit_bytes if worker.memory_bytes is not None and limit_bytes else None,
            "beat_s": turn.now_s - process.beat_at_s if process.beat_at_s is not None else None,
            "progress_s": turn.now_s - min(moved) if moved else None,
            "recycle_in_s": max(0.0, due - turn.now_s) if (due := due_at_s(worker, turn.spec(worker).watchdog)) is not None else None,
        }
        known = {name: value for name, value in readings.items() if value is not None}
        turn.announce("worker_healthy", worker=worker.name, job=worker.jobs[0] if worker.jobs else None, fields={**fields, **known})


def disk(turn: Turn, free_bytes: int | None) -> None:
    """Keep the room on the disk. Say once that the disk is nearly full, and once that it no longer is."""
    floor = turn.limits.supervisor.disk_floor_bytes
    turn.fleet = replace(turn.fleet, disk_free_bytes=free_bytes)
    if free_bytes is None or turn.fleet.disk_low is (free_bytes < floor):
        return
    turn.fleet = replace(turn.fleet, disk_low=free_bytes < floor)
    if turn.fleet.disk_low:
        words = f"{format_size(free_bytes)} free on the disk of state_dir, disk_floor is {format_size(floor)}: no new jobs are taken until there is room"
        turn.announce("disk_low", reason=words, fields={"free_bytes": free_bytes})
    else:
        turn.announce("disk_enough", reason=f"{format_size(free_bytes)} free: new jobs are taken again", fields={"free_bytes": free_bytes})
