"""`warden status`, `health` and `gpu`: what is, who holds what, why, and what comes next."""

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.schedules import next_runs
from supervisor.cli.screen import ago, clock, colour, size, table
from supervisor.control import Refused, Unreachable
from supervisor.errors import ConfigError
from supervisor.shapes import DeviceView, HandoverView, HolderView, MemoryView, PeakView, ScheduleView, StatusView, StrangerView, WaiterView, WorkerView

_TAIL_BYTES: Final = 64 * 1024
_DISK_NEAR: Final = 2
"""Times disk_floor: from here on the room on the disk is worth a line."""
_IDLE_SHOWN_S: Final = 60.0
"""A lease of which nothing is used for less is no news."""


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
    """Show devices with their holders, waiters and the last hand-over; exit 3 when one of them is not ok."""
    view = context.status()
    if as_json:
        print_json(view.devices)
    else:
        for device in view.devices:
            print("\n".join(device_screen(device)))
        if not view.devices:
            print('there is no device: gpu.backend is "none"')
    sys.exit(Exit.OK if all(device.state == "ok" for device in view.devices) else Exit.UNHEALTHY)


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
        lines += [f"       {_waiting(waiter)} waits for {device.id}, {ago(waiter.waited_s)}: {waiter.waits_for}" for waiter in device.waiters]
    return lines


def _waiting(waiter: WaiterView) -> str:
    """Return what a waiter is called: a job by its id, a program outside Warden by its name."""
    return waiter.job or f"{waiter.owner}{f' (pid {waiter.pid})' if waiter.pid else ''}"


def _holding(holder: HolderView) -> str:
    return holder.owner if holder.kind == "worker" else f"{holder.owner} ({f'pid {holder.pid}, ' if holder.pid else ''}not Warden's)"


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
    held = ", ".join(f"{_holding(holder)} ({holder.state} {ago(holder.since_s)})" for holder in device.holders) or "nobody holds it"
    next_ = ""
    if device.handover is not None:
        next_ = f"  -> {device.handover.to}: {_handover_words(device.handover)}"
    wrong = "" if device.state == "ok" else colour(device.state, "bad")
    return f"{device.id:<6} {used}  {held}{next_}  {wrong}".rstrip()


def _handover_words(handover: HandoverView) -> str:
    if handover.gone_s is None:
        return f"waits for {', '.join(handover.leaving) or 'nobody'} to leave, {ago(handover.ago_s)}"
    return f"memory is being measured, {ago(handover.ago_s)}"


def device_screen(device: DeviceView) -> list[str]:
    """Return all of one device: who has it, who uses it without a lease, who waits for it, how the last hand-over went."""
    state = device.state if device.state == "ok" else colour(device.state, "bad")
    dirty = colour("contaminated", "warn") if any(one.intruder for one in device.strangers) else ""
    used = f"{size(device.used_bytes)} of {size(device.total_bytes)} used"
    lines = ["  ".join(filter(None, (device.id, device.name, used, state, dirty))), f"PROOF         {device.proof or '?'}"]
    rows = [
        (
            _holding(holder),
            holder.lease,
            str(holder.fence),
            ago(holder.since_s),
            size(holder.need_bytes),
            size(holder.booked_bytes),
            size(holder.used_bytes),
            "-" if holder.peak_bytes is None else size(holder.peak_bytes),
            _lease_words(holder),
        )
        for holder in device.holders
    ]
    lines += table(("HOLDER", "LEASE", "FENCE", "HELD", "NEED", "BOOKED", "SEEN", "PEAK", "STATE"), rows) if rows else ["nobody holds it"]
    lines += [_peak_line(holder, peak) for holder in device.holders for peak in holder.peaks]
    lines += [_stranger_line(one) for one in device.strangers]
    if device.xids:
        lines.append(f"FAULTS        {', '.join(f'Xid {xid}: {count}' for xid, count in device.xids.items())}")
    if (loads := device.loading) is not None:
        who = f"{loads.owner}{f' (pid {loads.pid})' if loads.pid else ''}{f'  {loads.lease}  fence {loads.fence}' if loads.lease else ''}"
        lines.append(f"LOADING       {who}  for {ago(loads.for_s)}; nobody else loads before it is done, or for {ago(loads.left_s)} more")
    if device.kept_free_s is not None:
        lines.append(f"KEPT FREE     residents stay away for {ago(device.kept_free_s)} more, unless somebody waits for them")
    if device.trouble:
        lines.append(colour(f"TROUBLE       {device.trouble}", "bad"))
    if device.waiters:
        waiting = [
            (
                _waiting(waiter) if waiter.kind == "outside" else waiter.owner,
                waiter.job or "-",
                f"{waiter.priority} ({waiter.aged_priority})",
                size(waiter.need_bytes),
                ago(waiter.waited_s),
                waiter.waits_for,
            )
            for waiter in device.waiters
        ]
        lines += table(("WAITING", "JOB", "PRIO (AGED)", "NEED", "SINCE", "FOR"), waiting)
    if device.handover is not None:
        lines.append(f"NOW           -> {device.handover.to}  {_handover_words(device.handover)}")
    if device.last_handover is not None:
        lines.append(f"LAST HAND-OVER {_moment(device.last_handover)} {handover_line(device.last_handover)}")
    return lines


def _peak_line(holder: HolderView, peak: PeakView) -> str:
    """Return what one kind of work was seen to use, beside what its worker declares."""
    line = f"PEAK          {peak.work}  {size(peak.peak_bytes)} of {size(holder.need_bytes)} declared"
    return colour(f"{line}: more than that", "warn") if peak.over else line


def _lease_words(holder: HolderView) -> str:
    """Return the state of a lease, and what a person should know of it."""
    late_s = -holder.expires_in_s if holder.expires_in_s is not None else 0.0
    more = [f"not renewed, {ago(late_s)} over its time"] if holder.state == "stale" and late_s > 0 else []
    more += [f"nothing used for {ago(holder.idle_s)}"] if holder.idle_s is not None and holder.idle_s >= _IDLE_SHOWN_S else []
    return ", ".join((holder.state, *more))


def _stranger_line(one: StrangerView) -> str:
    words = f"NOT OURS      pid {one.pid}  {one.name or '?'}  {'an unknown size' if one.used_bytes is None else size(one.used_bytes)}"
    return colour(f"{words}  without a lease: waited for, not ended", "warn") if one.intruder else words


def _moment(handover: HandoverView) -> str:
    return datetime.fromtimestamp(time.time() - handover.ago_s, tz=UTC).astimezone().strftime("%H:%M:%S")


def handover_line(handover: HandoverView) -> str:
    """Return a hand-over with its evidence: who left for whom, and when each step was done, in seconds from the order."""
    steps = (
        ("exited", handover.exit_s),
        ("processes gone", handover.gone_s),
        ("memory back", handover.back_s),
        ("proved", handover.proof_s),
        ("next started", handover.spawned_s),
    )
    took = "  ".join(f"{name} {at_s:.2f} s" for name, at_s in steps if at_s is not None)
    return f"{', '.join(handover.leaving) or 'nobody'} -> {handover.to}  {took}"
