"""Loading: one model at a time on a device, whoever's it is. A lock of its own, taken after the device, and nobody keeps it beyond gpu.load_timeout."""

from collections.abc import Iterable

from msgspec.structs import replace

from supervisor.core import handover
from supervisor.core.actions import ForgetOwner
from supervisor.core.gpu import called, lease_fields, no_device, startable
from supervisor.core.lifecycle import Turn as Move
from supervisor.core.lifecycle import advance_lease
from supervisor.core.limits import Limits
from supervisor.core.model import Device, DeviceId, DeviceState, Fleet, Lease, Waiter, Worker, WorkerState
from supervisor.core.states import GRANTED
from supervisor.core.turn import Turn


def who_loads(fleet: Fleet, device: DeviceId, limits: Limits, now_s: float) -> Lease | None:
    """Return by which lease a model is loaded on this device now: a worker's from its spawn until it is ready, or a program's that asked for just that."""
    for lease in fleet.leases.values():
        if lease.device != device:
            continue
        if lease.purpose == "load" or (lease.worker is not None and _loads_for_s(fleet.workers[lease.worker], now_s) < limits.gpu.load_timeout_s):
            return lease
    return None


def _loads_for_s(worker: Worker, now_s: float) -> float:
    """Return for how long a worker has been loading, of one that was taken back since then; infinity where it does not load."""
    return now_s - worker.since_s if worker.process is not None and worker.state is WorkerState.STARTING else float("inf")


def may_load(turn: Turn, worker: Worker) -> bool:
    """Return whether a worker that has its device may start: nobody else loads on it."""
    lease = turn.fleet.lease_of(worker.name)
    return lease is None or who_loads(turn.fleet, lease.device, turn.limits, turn.now_s) is None


def serve(turn: Turn, line: Iterable[Waiter]) -> None:
    """Let the first in line load on each device where nobody does. A worker that was given the device before it came is before it."""
    for waiter in line:
        device = turn.fleet.devices.get(waiter.device) if waiter.device else None
        why = (f"there is no {waiter.device} any more" if waiter.device else no_device(turn.fleet)) if device is None else _in_the_way(turn, device, waiter)
        if device is None or why:
            turn.put_waiter(waiter if waiter.message == why else replace(waiter, message=why))
        else:
            _grant(turn, device, waiter)


def _in_the_way(turn: Turn, device: Device, waiter: Waiter) -> str:
    if device.state is not DeviceState.OK:
        return f"{device.id} is {device.state}{f': {device.trouble}' if device.trouble else ''}"
    loads = who_loads(turn.fleet, device.id, turn.limits, turn.now_s)
    if loads is not None:
        return f"{called(loads)} loads a model on {device.id}"
    for lease in turn.fleet.leases.values():
        if lease.device == device.id and lease.worker is not None and lease.state in GRANTED and lease.since_s <= waiter.arrived_at_s:
            worker = turn.fleet.workers[lease.worker]
            if worker.process is None and startable(worker, turn.now_s):
                return f"{worker.name} is about to load its model on {device.id}"
    return ""


def _grant(turn: Turn, device: Device, waiter: Waiter) -> None:
    timeout_s, fence = turn.limits.gpu.load_timeout_s, turn.fleet.fence + 1
    lease = handover.new_lease(turn, device, 0, waiter.priority)
    turn.fleet = replace(turn.fleet, fence=fence)
    lease = replace(advance_lease(lease, Move.GRANT, turn.now_s), outside=waiter.outside, fence=fence, purpose="load", until_s=turn.now_s + timeout_s)
    turn.put_lease(lease)
    handover.answer(turn, waiter, lease)
    turn.wake_in(timeout_s)
    turn.announce("lease_granted", reason=f"to load a model, within {timeout_s:g} s", fields=lease_fields(lease, purpose="load"))


def end(turn: Turn, lease: Lease) -> None:
    """A program loads no more: nothing is measured for that, the next one may begin."""
    lease = advance_lease(advance_lease(lease, Move.LEAVE, turn.now_s), Move.RETURN, turn.now_s)
    turn.drop_lease(lease.id)
    if lease.outside is not None:
        turn.act(ForgetOwner(ticket=lease.outside.ticket))
    turn.announce("lease_released", reason=lease.ended, fields=lease_fields(lease, purpose="load"))


def expire(turn: Turn) -> None:
    """Name whoever has loaded for longer than gpu.load_timeout, and let others load. Nobody is ended for that: a worker has its own start_timeout."""
    limit_s = turn.limits.gpu.load_timeout_s
    for lease in tuple(turn.fleet.leases.values()):
        if lease.worker is not None:
            worker = turn.fleet.workers[lease.worker]
            if worker.process is None or worker.process.load_overdue or not limit_s <= _loads_for_s(worker, turn.now_s) < float("inf"):
                continue
            turn.put_worker(replace(worker, process=replace(worker.process, load_overdue=True)))
            reason = f"{worker.name} has loaded for {limit_s:g} s and is not ready: others may load on {lease.device} beside it"
            turn.announce("load_overdue", worker=worker.name, reason=reason, fields=lease_fields(lease, purpose="load"))
        elif lease.purpose == "load" and lease.until_s is not None and turn.now_s >= lease.until_s:
            reason = f"{called(lease)} has loaded on {lease.device} for {limit_s:g} s, gpu.load_timeout: others may load beside it"
            turn.announce("load_overdue", reason=reason, fields=lease_fields(lease, purpose="load"))
            end(turn, replace(lease, ended=f"it loaded for {limit_s:g} s"))
