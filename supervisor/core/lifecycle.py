"""Moves of a worker, a lease and a device, as tables. Only the `advance` of each changes its state; what is not in a table is an error."""

from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from supervisor.core.model import Device, DeviceState, Lease, LeaseState, Worker, WorkerState


class IllegalTransition(Exception):
    """A move that the table does not have: a bug in deciding. The message names both ends and the story."""


class Signal(StrEnum):
    """What can happen to a worker's process."""

    SPAWN = "spawn"
    READY = "ready"
    JOB = "job"
    IDLE = "idle"
    DRAIN = "drain"
    STOP = "stop"
    EXIT = "exit"
    GONE = "gone"
    WAIT = "wait"
    SET_ASIDE = "set aside"
    STUCK = "stuck"
    REST = "rest"


_W, _S = WorkerState, Signal

WORKER: Final[dict[WorkerState, dict[Signal, WorkerState]]] = {
    _W.DOWN: {_S.SPAWN: _W.STARTING},
    _W.STARTING: {_S.READY: _W.READY, _S.STOP: _W.STOPPING, _S.EXIT: _W.EXITED},
    _W.READY: {_S.JOB: _W.BUSY, _S.DRAIN: _W.DRAINING, _S.STOP: _W.STOPPING, _S.EXIT: _W.EXITED},
    _W.BUSY: {_S.IDLE: _W.READY, _S.DRAIN: _W.DRAINING, _S.STOP: _W.STOPPING, _S.EXIT: _W.EXITED},
    _W.DRAINING: {_S.STOP: _W.STOPPING, _S.EXIT: _W.EXITED},
    _W.STOPPING: {_S.EXIT: _W.EXITED, _S.STUCK: _W.UNKILLABLE},
    # EXITED: the leader is reaped; what it left behind is being ended and counted until the tree is proved gone
    _W.EXITED: {_S.GONE: _W.DOWN, _S.WAIT: _W.BACKOFF, _S.SET_ASIDE: _W.QUARANTINED, _S.STUCK: _W.UNKILLABLE},
    _W.BACKOFF: {_S.SPAWN: _W.STARTING, _S.REST: _W.DOWN},
    _W.QUARANTINED: {_S.SPAWN: _W.STARTING, _S.REST: _W.DOWN},
    _W.UNKILLABLE: {_S.EXIT: _W.EXITED, _S.GONE: _W.DOWN},
}


class Turn(StrEnum):
    """What can happen to a lease."""

    GRANT = "grant"
    ASK = "ask to leave"
    LEAVE = "holder gone"
    RETURN = "memory back"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"
    INTRUDE = "intrude"
    CLEAR = "clear"


_L, _T = LeaseState, Turn

LEASE: Final[dict[LeaseState, dict[Turn, LeaseState]]] = {
    _L.WAITING: {_T.GRANT: _L.HELD, _T.WITHDRAW: _L.FREE},
    _L.HELD: {_T.ASK: _L.YIELDING, _T.LEAVE: _L.COOLING, _T.EXPIRE: _L.STALE, _T.INTRUDE: _L.CONTAMINATED},
    _L.YIELDING: {_T.LEAVE: _L.COOLING, _T.EXPIRE: _L.STALE},
    _L.COOLING: {_T.RETURN: _L.FREE},
    _L.STALE: {_T.CLEAR: _L.HELD, _T.LEAVE: _L.COOLING},
    _L.CONTAMINATED: {_T.CLEAR: _L.HELD, _T.ASK: _L.YIELDING, _T.LEAVE: _L.COOLING, _T.EXPIRE: _L.STALE},
    _L.FREE: {},
}


class Sight(StrEnum):
    """What can become of a device: what a reading shows of it, or that its holder cannot be ended."""

    READ = "read"
    LOSE = "lost"
    DOUBT = "nothing can be proved"
    HANG = "no answer"
    SET_ASIDE = "set aside"
    LET_GO = "holder gone"


_D, _V = DeviceState, Sight
_FAILS: Final = {_V.LOSE: _D.LOST, _V.DOUBT: _D.UNVERIFIABLE, _V.HANG: _D.UNRESPONSIVE, _V.SET_ASIDE: _D.QUARANTINED}

DEVICE: Final[dict[DeviceState, dict[Sight, DeviceState]]] = {
    _D.OK: {_V.READ: _D.OK, **_FAILS},
    _D.LOST: {_V.READ: _D.OK, **_FAILS},
    _D.UNVERIFIABLE: {_V.READ: _D.OK, **_FAILS},
    _D.UNRESPONSIVE: {_V.READ: _D.OK, **_FAILS},
    _D.QUARANTINED: {_V.LET_GO: _D.OK},  # whatever is read of it meanwhile: it is not given away before its holder is gone
}


def may(worker: Worker, signal: Signal) -> bool:
    """Return whether the table has this move."""
    return signal in WORKER[worker.state]


def advance(worker: Worker, signal: Signal, now_s: float) -> Worker:
    """Return the worker after the signal. Raises IllegalTransition, and the state stays, where the table has no such move."""
    state = WORKER[worker.state].get(signal)
    if state is None:
        raise IllegalTransition(f"worker {worker.name} generation {worker.generation} is {worker.state} since {worker.since_s:.3f}: no move by {signal}")
    return replace(worker, state=state, since_s=now_s)


def advance_lease(lease: Lease, turn: Turn, now_s: float) -> Lease:
    """Return the lease after the turn. Raises IllegalTransition where the table has no such move."""
    state = LEASE[lease.state].get(turn)
    if state is None:
        raise IllegalTransition(f"lease {lease.id} of {lease.owner} on {lease.device} is {lease.state}: no move by {turn}")
    return replace(lease, state=state, since_s=now_s)


def advance_device(device: Device, sight: Sight) -> Device:
    """Return the device after what was seen of it. Raises IllegalTransition where the table has no such move."""
    state = DEVICE[device.state].get(sight)
    if state is None:
        raise IllegalTransition(f"device {device.id} is {device.state}: no move by {sight}")
    return replace(device, state=state)
