"""`warden status`, `health` and `gpu`: what is, who holds what, why, and what comes next."""

import os
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.device_screen import device_screen, handover_words, holding, waiting
from supervisor.cli.schedules import next_runs
from supervisor.cli.screen import ago, clock, colour, size, table
from supervisor.control import Refused, Unreachable
from supervisor.errors import ConfigError
from supervisor.shapes import DeviceView, MemoryView, ScheduleView, StatusView, WorkerView

_TAIL_BYTES: Final = 64 * 1024
_DISK_NEAR: Final = 2
"""Times disk_floor: from here on the room on the disk is worth a line."""


@click.command()
@JSON
@click.pass_obj
def status(context: Context, *, as_json: bool) -> None:
    """Show workers, devices, queue and last interventions; exit 3 when something is not as it should be."""
    view = context.status()
    if as_json:
        print_json(view)
    else:
        due = next_runs(context.ask("schedules", {}, list[ScheduleView]))
        print("\n".join(_screen(view, due=due, disk_floor_bytes=view.memory.disk_floor_bytes)))
    sys.exit(Exit.UNHEALTHY if view.unwell else Exit.OK)


@click.command()
@JSON
@click.pass_obj
def health(context: Context, *, as_json: bool) -> None:
    """Exit 0 when all is well, 3 when not (also when the log went stale), 4 when no supervisor answers."""
    try:
        view = context.status()
    except (Unreachable, Refused, ConfigError) as error:
        if as_json:
            print_json({"ok": False, "unwell": [str(error)]})
        raise
    told = view.supervisor.log_level in {"debug", "info"}  # else no health line is written
    unwell = [*view.unwell, *(_stale(view, view.supervisor.health_every_s) if told else [])]
    if as_json:
        print_json({"ok": not unwell, "unwell": unwell})
    else:
        print("\n".join(unwell) if unwell else f"ok: {len(view.workers)} workers, up {ago(view.supervisor.uptime_s)}")
    sys.exit(Exit.UNHEALTHY if unwell else Exit.OK)


@click.group()
def gpu() -> None:
    """See who has the device, and who waits for it."""


@gpu.command("status")
@JSON
@click.pass_obj
def gpu_status(context: Context, *, as_json: bool) -> None:
    """Show devices with their holders, waiters and the last hand-over; exit 3 when something is not as it should be with one."""
    view = context.status()
    if as_json:
        print_json(view.devices)
    else:
        for device in view.devices:
            print("\n".join(device_screen(device)))
        if not view.devices:
            print('there is no device: gpu.backend is "none"')
    sys.exit(Exit.UNHEALTHY if any(device.unwell for device in view.devices) else Exit.OK)


def _stale(view: StatusView, health_every_s: float) -> list[str]:
    """Return a sentence when the log says nothing although some worker runs."""
    due_s = 3 * health_every_s
    if not any(worker.age_s is not None and worker.age_s > due_s for worker in view.workers):
        return []
    log = Path(view.supervisor.log_dir) / "watchdog.log"
    try:
        age_s = time.time() - _last_line_at_s(log)
    except OSError as error:
        return [f"{log}: {error.strerror}"]
    return [f"the last line of {log} is {ago(age_s)} old, a health line is due every {ago(health_every_s)}"] if age_s > due_s else []


def _last_line_at_s(log: Path) -> float:
    """Return when the last line was written, by its own time: a write that failed moves the file's time too. Where it is empty (rotated), by the file's."""
    with log.open("rb") as file:
        found = os.fstat(file.fileno())
        file.seek(max(0, found.st_size - _TAIL_BYTES))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            with suppress(ValueError):
                return datetime.fromisoformat(line.partition(" ")[0]).timestamp()
    return found.st_mtime


def _screen(view: StatusView, *, due: str, disk_floor_bytes: int) -> list[str]:
    """Return the screen. due: the next run of each schedule, in one line."""
    head = view.supervisor
    lines = [f"warden {head.version}  up {ago(head.uptime_s)}  pid {head.pid}  {head.config}{f'  {head.api}' if head.api else ''}"]
    lines += [_device_line(device) for device in view.devices]
    lines.append(_memory_line(view.memory))
    free = view.memory.disk_free_bytes
    if free is not None and free < _DISK_NEAR * disk_floor_bytes:
        words = f"DISK   {size(free)} free for {head.state_dir}; below disk_floor, {size(disk_floor_bytes)}, no job is taken"
        lines.append(colour(words, "bad" if free < disk_floor_bytes else "warn"))
    lines += _workers_table(view.workers)
    leaks = ((worker.name, worker.leak) for worker in view.workers if worker.leak is not None)
    lines += [colour(f"LEAK   {name}: {leak.sentence}", "warn") if not leak.harmless else f"MEMORY {name}: {leak.sentence}" for name, leak in leaks]
    lines += _jobs_lines(view)
    if due:
        lines.append(f"NEXT   {due}")
    if view.interventions:
        lines.append("LAST INTERVENTIONS")
        for seen in view.interventions[-5:]:
            who = " ".join(word for word in (seen.worker, seen.job) if word)
            lines.append(f"  {clock(seen.at)}  {seen.event}  {who}  {seen.reason}".rstrip())
    return lines + [colour(f"! {sentence}", "bad") for sentence in view.unwell]


def _memory_line(memory: MemoryView) -> str:
    """Return what the machine has available, and the line that it is below of."""
    if memory.available_bytes is None:
        return "RAM    ? (read every look_every; not yet)"
    total = f" of {size(memory.total_bytes)}" if memory.total_bytes else ""
    words = f"RAM    {size(memory.available_bytes)} available{total}"
    below = {
        "warn": ("warn_below", memory.warn_below_bytes),
        "emergency": ("emergency_below", memory.emergency_below_bytes),
        "floor": ("hard_floor", memory.hard_floor_bytes),
    }.get(memory.zone)
    return words if below is None else colour(f"{words}, {memory.zone}: {below[0]} is {size(below[1])}", "warn" if memory.zone == "warn" else "bad")


def _workers_table(workers: list[WorkerView]) -> list[str]:
    rows = [
        (
            worker.name,
            worker.state,
            ago(worker.since_s),
            str(worker.pid) if worker.pid else "-",
            ("not read yet" if worker.memory_bytes is None else size(worker.memory_bytes)) if worker.pid else "-",
            ago(worker.silent_s),
            str(sum(worker.restarts.values())),
            _note(worker),
        )
        for worker in workers
    ]
    return table(("WORKER", "STATE", "SINCE", "PID", "RAM", "BEAT", "RESTARTS", "NOTE"), rows, state_column=1)


def _jobs_lines(view: StatusView) -> list[str]:
    """Return how many jobs there are, whether new ones are started at all, and who waits for a device."""
    at_work = sum(view.jobs.get(status, 0) for status in ("preparing", "running", "pausing", "cancelling"))
    counted = ", ".join(f"{view.jobs.get(status, 0)} {status}" for status in ("completed", "failed", "cancelled"))
    paused = f", {view.jobs['paused']} paused" if view.jobs.get("paused") else ""
    lines = [f"JOBS   {at_work} at work, {view.jobs.get('queued', 0)} waiting{paused}; {counted}"]
    if view.held:
        lines.append(colour("HELD   nothing new is started until: warden jobs release", "warn"))
    for device in view.devices:
        lines += [f"       {waiting(waiter)} waits for {device.id}, {ago(waiter.waited_s)}: {waiter.waits_for}" for waiter in device.waiters]
    return lines


def _note(worker: WorkerView) -> str:
    if worker.jobs:
        return f"job {', '.join(worker.jobs)}" + (f"; {worker.next_action}" if worker.next_action else "")
    parts = [worker.next_action, worker.note]
    if worker.state in ("backoff", "quarantined", "unkillable") or (worker.state == "down" and worker.restarts):
        parts.append(f"last end: {worker.last_reason}")
    return "; ".join(part for part in parts if part)


def _device_line(device: DeviceView) -> str:
    used = f"{size(device.used_bytes)} of {size(device.total_bytes)}"
    if device.used_bytes is None:  # of a device that is not ok, what is wrong stands below
        why = f" ({device.trouble or 'not read yet'})" if device.state == "ok" else ""
        used = f"? of {size(device.total_bytes) if device.total_bytes else '?'}{why}"
    held = ", ".join(f"{holding(holder)} ({holder.state} {ago(holder.since_s)})" for holder in device.holders) or "nobody holds it"
    next_ = ""
    if device.handover is not None:
        next_ = f"  -> {device.handover.to}: {handover_words(device.handover)}"
    wrong = "" if device.state == "ok" else colour(device.state, "bad")
    return f"{device.id:<6} {used}  {held}{next_}  {wrong}".rstrip()
