"""What memory allows: how much the machine must have available, and how much the tree of one worker may use before it gets a fresh process."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import ladder
from supervisor.core.events import MemoryMeasured, MemorySampled
from supervisor.core.health import Verdict
from supervisor.core.lifecycle import Signal, may
from supervisor.core.limits import MIB, JSONValue, Limits, MemoryLimits
from supervisor.core.model import Cause, Fleet, Process, Reason, Wanted, Worker, WorkerState, Zone
from supervisor.core.recycle import on_its_way
from supervisor.core.turn import Turn
from supervisor.units import format_size

LOOKS: Final = 3
"""Looks in a row over a limit that make a verdict: a spike is normal, and over before the next look."""

PAUSE_MIN_S: Final = 0.005
PAUSE_MAX_S: Final = 0.25
_FALL_MAX: Final = 16e9
"""Bytes a second that one NUMA node can be filled with; a single thread was measured at 9 to 13 GB/s."""

_JUDGED: Final = (WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING)
_DEFAULTS: Final = MemoryLimits()
_SHARES: Final = (4, 8, 16)
"""Of a small machine: the part of its memory that the default lines are at the most."""
BAND: Final = 8
"""The part of a line by which memory must be over it again before it counts as left: else each breath would be a line in the log."""


class Lines(Struct, frozen=True):
    """The lines of [memory] as they count on this machine, in bytes; 0: no such line."""

    warn_bytes: int
    emergency_bytes: int
    floor_bytes: int

    def of(self, zone: Zone) -> int:
        """Return the line below which this zone begins; the highest one for OK."""
        return {Zone.FLOOR: self.floor_bytes, Zone.EMERGENCY: self.emergency_bytes}.get(zone, self.warn_bytes)


def lines(limits: MemoryLimits, total_bytes: int) -> Lines:
    """Return the lines for a machine of this size (0: not known).

    The defaults are for 16 GiB and more; on a smaller machine they are a quarter, an eighth and a sixteenth of it. A line that the operator chose stands,
    and lifts those above it that it would lie over.
    """
    names = ("warn_below_bytes", "emergency_below_bytes", "hard_floor_bytes")
    found: list[int] = []
    for name, share in zip(reversed(names), reversed(_SHARES), strict=True):  # from the lowest line up
        line = getattr(limits, name)
        small = total_bytes and line == getattr(_DEFAULTS, name) and line > total_bytes // share
        line = total_bytes // share // MIB * MIB if small else line
        found.append(max(line, *found, 0) if line else 0)
    return Lines(*reversed(found))


def zone_of(available_bytes: int, at: Lines, before: Zone) -> Zone:
    """Return the zone that so much available memory lies in. One that was entered is left a little above its line."""
    order = list(Zone)
    for zone in (Zone.FLOOR, Zone.EMERGENCY, Zone.WARN):
        line = at.of(zone)
        band = line // BAND if order.index(before) >= order.index(zone) else 0
        if available_bytes < line + band and line:
            return zone
    return Zone.OK


def pause_s(available_bytes: int, at: Lines) -> float:
    """Return how long nobody has to look again: half of what it would take to fall to the emergency line at the highest rate there is."""
    return min(PAUSE_MAX_S, max(PAUSE_MIN_S, (available_bytes - at.emergency_bytes) / (2 * _FALL_MAX)))


def look_every_s(fleet: Fleet, limits: Limits) -> float:
    """Return how often trees are looked at: as the operator said, and each second while memory is low, for the brake has to know who is of a tree.

    Each second as well while a job waits for memory: what is promised to others falls as they grow.
    """
    awaited = fleet.zone is not Zone.OK or any(job.reason is Reason.WAITING_FOR_MEMORY for job in fleet.jobs.values())
    return min(1.0, limits.memory.look_every_s) if awaited else limits.memory.look_every_s


def sampled(turn: Turn, event: MemorySampled) -> None:
    """Keep what the machine has available, and say when that passes a line."""
    limits, fleet = turn.limits.memory, turn.fleet
    at, before = lines(limits, event.total_bytes), fleet.zone
    zone = zone_of(event.available_bytes, at, before)
    if event.total_bytes != fleet.memory_bytes:
        _say_scaled(turn, at, event.total_bytes)
    turn.fleet = replace(fleet, available_bytes=event.available_bytes, memory_bytes=event.total_bytes, zone=zone)
    if zone is Zone.OK and before is not Zone.OK:
        turn.announce("memory_enough", fields={"available_bytes": event.available_bytes, "warn_below_bytes": at.warn_bytes})
    elif zone is not Zone.OK and (_deeper(zone, before) or turn.now_s - fleet.low_said_at_s >= limits.check_every_s):
        _say_low(turn, at)


def _deeper(zone: Zone, than: Zone) -> bool:
    order = list(Zone)
    return order.index(zone) > order.index(than)


def _say_low(turn: Turn, at: Lines) -> None:
    """Say that memory is low, with the line that was passed and the worker that has most."""
    fleet = turn.fleet
    key = {Zone.WARN: "warn_below_bytes", Zone.EMERGENCY: "emergency_below_bytes", Zone.FLOOR: "hard_floor_bytes"}[fleet.zone]
    fields: dict[str, JSONValue] = {"available_bytes": fleet.available_bytes, key: at.of(fleet.zone)}
    largest = max((worker for worker in fleet.workers.values() if worker.memory_bytes), key=lambda worker: worker.memory_bytes or 0, default=None)
    if largest is not None:
        fields["mem_bytes"] = largest.memory_bytes
    turn.announce("memory_low", worker=largest.name if largest is not None else None, fields=fields)
    turn.fleet = replace(fleet, low_said_at_s=turn.now_s)


def _say_scaled(turn: Turn, at: Lines, total_bytes: int) -> None:
    limits = turn.limits.memory
    if at != Lines(limits.warn_below_bytes, limits.emergency_below_bytes, limits.hard_floor_bytes):
        words = f"{format_size(total_bytes)} in all is too little for the default lines: here they are a quarter, an eighth and a sixteenth of it"
        fields = {"warn_below_bytes": at.warn_bytes, "emergency_below_bytes": at.emergency_bytes, "hard_floor_bytes": at.floor_bytes}
        turn.announce("memory_scaled", reason=words, fields=fields)


def measured(turn: Turn, event: MemoryMeasured) -> None:
    """Take in a look: keep the readings, and judge each worker by them. One of a worker whose process is gone already says nothing."""
    read = {name: event.workers[name] for name, worker in turn.fleet.workers.items() if worker.process is not None and name in event.workers}
    workers = {name: _looked(turn, worker, read[name]) if name in read else worker for name, worker in turn.fleet.workers.items()}
    turn.fleet = replace(turn.fleet, workers=workers)
    if turn.fleet.stopping_since_s is None:
        for name in read:
            _judge(turn, turn.fleet.workers[name])
    sampled(turn, event)


def _looked(turn: Turn, worker: Worker, used_bytes: int) -> Worker:
    """Return the worker after a look at its tree; looks that come together count once."""
    process, limits, now_s = worker.process, turn.limits.memory, turn.now_s
    if process is None or worker.state not in _JUDGED:
        return replace(worker, memory_bytes=used_bytes)
    looks = process.memory
    if looks.first_bytes is None and not process.adopted and process.ready_at_s is not None and now_s - process.ready_at_s < limits.look_every_s:
        looks = replace(looks, first_bytes=used_bytes)
    if now_s - looks.at_s >= limits.look_every_s / 2:
        soft = looks.soft + 1 if 0 < limits.worker_soft_bytes < used_bytes else 0
        limit = looks.limit + 1 if 0 < limits.worker_limit_bytes < used_bytes else 0
        looks = replace(looks, soft=soft, limit=limit, at_s=now_s)
    return replace(worker, memory_bytes=used_bytes, process=replace(process, memory=looks))


def _judge(turn: Turn, worker: Worker) -> None:
    """Restart a worker that stays over worker_limit, recycle one that stays over worker_soft; one that is over by being there at all is said to be so."""
    process, limits = worker.process, turn.limits.memory
    if process is None or worker.state not in _JUDGED:
        return
    looks, used_bytes = process.memory, worker.memory_bytes or 0
    if looks.limit >= LOOKS:
        if _helps(turn, worker, process, "worker_limit", limits.worker_limit_bytes):
            over_limit(turn, worker, used_bytes)
    elif looks.soft >= LOOKS and worker.stop is None and _helps(turn, worker, process, "worker_soft", limits.worker_soft_bytes) and not _waits(turn, worker):
        words = _sentence(used_bytes, "worker_soft", limits.worker_soft_bytes)
        turn.announce("memory_soft_limit", worker=worker.name, reason=words, fields={"mem_bytes": used_bytes, "worker_soft_bytes": limits.worker_soft_bytes})
        ladder.order_leave(turn, worker, Cause.RECYCLE, words, boundary=True)


def over_limit(turn: Turn, worker: Worker, used_bytes: int) -> None:
    """End the process of a worker that stays over worker_limit."""
    limit_bytes = turn.limits.memory.worker_limit_bytes
    words = _sentence(used_bytes, "worker_limit", limit_bytes)
    if may(worker, Signal.STOP):
        turn.announce("memory_limit", worker=worker.name, reason=words, fields={"mem_bytes": used_bytes, "worker_limit_bytes": limit_bytes})
        ladder.order_stop(turn, worker, Cause.MEMORY, words, verdict=Verdict(Cause.MEMORY, words, float(limit_bytes)))


def _sentence(used_bytes: int, key: str, limit_bytes: int) -> str:
    return f"{format_size(used_bytes)} in its processes, over {key}, {format_size(limit_bytes)}, at {LOOKS} looks in a row"


def _waits(turn: Turn, worker: Worker) -> bool:
    """Return whether another of its model is on its way out or in: one after the other, as with every recycle."""
    return worker.wanted is Wanted.UP and on_its_way(turn, worker.model)


def _helps(turn: Turn, worker: Worker, process: Process, key: str, limit_bytes: int) -> bool:
    """Return whether a fresh process would be under the limit. Where it would not, the limit is wrong, which is said once, and nothing is restarted for it."""
    looks = process.memory
    if looks.first_bytes is None or looks.first_bytes <= limit_bytes:
        return True
    if not looks.helpless:
        words = (
            f"it used {format_size(looks.first_bytes)} as soon as it was ready, which is over memory.{key}, {format_size(limit_bytes)}: "
            f"a restart would not help, so it is left alone; raise memory.{key}"
        )
        turn.announce("memory_limit_helpless", worker=worker.name, reason=words, fields={"first_bytes": looks.first_bytes, f"{key}_bytes": limit_bytes})
        turn.put_worker(replace(worker, process=replace(process, memory=replace(looks, helpless=True))))
    return False


def limits_changed(turn: Turn, before: MemoryLimits) -> None:
    """Give everybody a full window after a limit was edited: nobody is judged by looks that were held against another one."""
    now = turn.limits.memory
    if (now.worker_soft_bytes, now.worker_limit_bytes) == (before.worker_soft_bytes, before.worker_limit_bytes):
        return
    for worker in tuple(turn.fleet.workers.values()):
        if worker.process is not None:
            # the first look that counts is a whole look_every after the edit
            looks = replace(worker.process.memory, helpless=False, soft=0, limit=0, at_s=turn.now_s + now.look_every_s / 2)
            turn.put_worker(replace(worker, process=replace(worker.process, memory=looks)))
