"""Faults that a card's driver reports by itself (Xid): a program's own, which breaks its context for good, or the card's, which is out of service then."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.events import DeviceFaulted
from supervisor.core.gpu import called, leases_on, strangers
from supervisor.core.lifecycle import DEVICE, Sight, advance_device
from supervisor.core.model import Device, LeaseState, Process, WorkerName
from supervisor.core.turn import Turn

OF_A_PROGRAM: Final = {13: "a program's kernel failed on the card", 31: "a program used an address that is not its own", 43: "a program's work was stopped"}
OF_THE_CARD: Final = {46: "the card stopped processing", 48: "a memory error that cannot be corrected", 79: "the card has fallen off the bus"}
_TEARDOWN: Final = 45
"""What is reported when a program with work on the card is killed: nothing is wrong."""
_RESET: Final = "end what runs on it, reset it (nvidia-smi --gpu-reset -i {card}) or restart the machine, then say so: warden gpu reset"


def faulted(turn: Turn, event: DeviceFaulted) -> None:
    """Take in a fault: counted, said with who holds the device, and followed up where it is known what it means."""
    device = turn.fleet.devices.get(event.device)
    if device is None or event.xid == _TEARDOWN:
        return
    device = turn.put_device(replace(device, xids={**device.xids, event.xid: device.xids.get(event.xid, 0) + 1}))
    if event.xid in OF_THE_CARD:
        _out_of_service(turn, device, f"Xid {event.xid}: {OF_THE_CARD[event.xid]}; {_RESET.format(card=device.id)}")
        return
    what = OF_A_PROGRAM.get(event.xid, "see the vendor's catalogue of Xid errors")
    holders, only = _holders(turn, device)
    fields = {"device": device.id, "xid": event.xid, "count": device.xids[event.xid]}
    turn.announce("device_fault", worker=only, reason=f"Xid {event.xid}: {what}; on it: {', '.join(holders) or 'nobody that is known'}", fields=fields)
    if only is not None and event.xid in OF_A_PROGRAM:
        _suspect(turn, only, f"Xid {event.xid} on {device.id}: {what}")


def _holders(turn: Turn, device: Device) -> tuple[list[str], WorkerName | None]:
    """Return who may have caused a fault, in words, and the worker that alone can have."""
    leases = [lease for lease in leases_on(turn.fleet, device) if lease.state is not LeaseState.COOLING]
    others = strangers(turn.fleet, device)
    words = []
    for lease in leases:
        process = turn.fleet.workers[lease.worker].process if lease.worker else None
        words.append(f"{called(lease)} (pid {process.pid})" if process is not None and process.pid else called(lease))
    words += [f"pid {one.pid} ({f'{one.name}, ' if one.name else ''}not ours)" for one in others]
    return words, leases[0].worker if len(leases) == 1 and not others else None


def _suspect(turn: Turn, name: WorkerName, fault: str) -> None:
    """Wait for the worker to end by its own error, or to show that its work goes on (`health`): a context that failed is not repaired in its process."""
    worker = turn.fleet.workers[name]
    if worker.process is not None:
        process: Process = replace(worker.process, fault=fault, fault_at_s=turn.now_s)
        turn.put_worker(replace(worker, process=process))


def _out_of_service(turn: Turn, device: Device, fault: str) -> None:
    """Give the device to nobody from now on. Who holds it is left alone: what still computes is worth more than our view of the card."""
    said = bool(device.fault)
    device = replace(device, fault=fault, fault_failed=False, trouble=fault)
    if Sight.LOSE in DEVICE[device.state]:  # else its holder cannot be killed, and it is set aside already
        device = advance_device(device, Sight.LOSE)
    turn.put_device(device)
    if not said:
        turn.announce("device_lost", reason=fault, fields={"device": device.id})


def back_in_service(device: Device, sight: Sight | None) -> tuple[Device, Sight | None]:
    """Return the device and what a reading means for one that is out of service: a good one alone proves no reset, one after it was not there at all does."""
    if not device.fault:
        return device, sight
    if sight is Sight.READ:
        if not device.fault_failed:
            return replace(device, trouble=device.fault), None
        return replace(device, fault="", fault_failed=False), sight
    failed = device.fault_failed or sight in {Sight.LOSE, Sight.DOUBT}
    return replace(device, fault_failed=failed, trouble=f"{device.fault}; {device.trouble}"), sight
