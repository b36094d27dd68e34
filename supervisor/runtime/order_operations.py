"""What an operator can order of the devices: to take leases back, and to have a device empty."""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from supervisor.core.actions import Reply
from supervisor.core.events import AnyEvent, DeviceMeasured, LockRequested, LockWithdrawn, ReleaseRequested
from supervisor.core.gpu import called, device_for
from supervisor.core.limits import Limits
from supervisor.core.model import Device, DeviceId, Fleet, Lease, Outside, Ticket
from supervisor.runtime.asking import ANSWER_MAX_S, Asking
from supervisor.runtime.device_views import device_view
from supervisor.runtime.lock_operations import watch_caller, within
from supervisor.runtime.peers import Owners
from supervisor.runtime.ports import Device as DevicePort
from supervisor.runtime.ports import DeviceError
from supervisor.runtime.requests import Operation, Rejected, size_of
from supervisor.shapes import ReleasedView, ReleaseView, VacateView
from supervisor.units import format_size, short_duration

KEEP_FREE_S: Final = 300.0
"""Long enough to start by hand what the device was emptied for; afterwards a forgotten order costs nobody the resident."""
_TEXT_MAX: Final = 500


class ReleaseArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes leases back, and why."""

    by: str
    reason: str = ""


class VacateArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which device is to be empty, and how much of it free. timeout_s: None for gpu.vacate_timeout; keep_free_s: for so long residents stay away afterwards.

    caller: a process without which nobody waits for the answer; ticket: by which whoever asks is withdrawn.
    """

    by: str
    need: str = "0"
    device: str = ""
    timeout_s: float | None = None
    keep_free_s: float = KEEP_FREE_S
    caller: int = 0
    ticket: str = ""


class OrderOperations:
    """Answers operators."""

    def __init__(
        self,
        *,
        fleet: Callable[[], Fleet],
        limits: Callable[[], Limits],
        asking: Asking,
        owners: Owners,
        post: Callable[[AnyEvent], None],
        device: DevicePort,
    ) -> None:
        """Answer from these."""
        self._device = device
        self._fleet = fleet
        self._limits = limits
        self._ask = asking.ask
        self._owners = owners
        self._post = post
        self.table: Mapping[str, Operation] = {
            "gpu.reset": (ReleaseArgs, self._reset),
            "gpu.force_release": (ReleaseArgs, self._force_release),
            "gpu.vacate": (VacateArgs, self._vacate),
        }

    async def _reset(self, args: ReleaseArgs) -> ReleaseView:
        return _released(await self._release(args, every=False), "no lease is stale")

    async def _force_release(self, args: ReleaseArgs) -> ReleaseView:
        return _released(await self._release(args, every=True), "nobody has a device")

    async def _release(self, args: ReleaseArgs, *, every: bool) -> Reply:
        by, why = _text("by", args.by), _text("reason", args.reason or "no reason was given")
        return await self._ask(lambda name: ReleaseRequested(request=name, every=every, by=by, why=why))

    async def _vacate(self, args: VacateArgs) -> VacateView:
        limits = self._limits()
        by, need_bytes = _text("by", args.by), size_of("need", args.need)
        timeout_s = within("timeout_s", limits.gpu.vacate_timeout_s if args.timeout_s is None else args.timeout_s)
        keep_free_s = within("keep_free_s", args.keep_free_s)
        ticket = Ticket(args.ticket or f"t-{secrets.token_hex(8)}")
        who = Outside(ticket=ticket, name=f"warden gpu vacate by {by}")
        device = self._find(args.device, need_bytes)
        name = device.id if device is not None else DeviceId(args.device) if args.device else None
        free_bytes = await self._free_bytes(device)
        waiting = await watch_caller(self._owners, args.caller, ticket, self._post)
        try:
            reply = await self._ask(
                lambda request: LockRequested(
                    request=request,
                    outside=who,
                    priority=0,
                    need_bytes=need_bytes,
                    timeout_s=timeout_s,
                    device=name,
                    purpose="vacate",
                    keep_free_s=keep_free_s,
                ),
                within_s=timeout_s + ANSWER_MAX_S,
            )
        except Rejected as no:
            if no.code == "failed":  # perhaps nobody answered: nobody wants it any more
                self._post(LockWithdrawn(ticket=ticket))
            if no.code not in {"busy", "refused"}:
                raise
            return self._emptied(name, free_bytes, no.message, success=False)
        finally:
            self._owners.forget(waiting)
        return self._emptied(name, free_bytes, reply.message, success=True, keep_free_s=keep_free_s)

    def _find(self, name: str, need_bytes: int) -> Device | None:
        fleet = self._fleet()
        return fleet.devices.get(DeviceId(name)) if name else device_for(fleet, need_bytes, self._limits().gpu.margin_bytes)

    async def _free_bytes(self, device: Device | None) -> int | None:
        """Return what is free of the device now: the last reading may be from before its holder loaded. None where it cannot be read."""
        if device is None:
            return None
        try:
            sample = await self._device.measure(device.id)
        except DeviceError:  # the regular looks tell of it
            return None
        self._post(DeviceMeasured(device=device.id, sample=sample))
        return sample.free_bytes

    def _emptied(self, name: DeviceId | None, free_bytes: int | None, message: str, *, success: bool, keep_free_s: float = 0.0) -> VacateView:
        """Return how it went with the device. free_bytes: of it before."""
        fleet = self._fleet()
        device = fleet.devices.get(name) if name is not None else None
        if device is None:
            return VacateView(success=success, message=message, freed_bytes=0, holders=[])
        view = device_view(device, fleet=fleet, limits=self._limits(), now_s=time.monotonic())
        freed_bytes = max(0, device.sample.free_bytes - free_bytes) if device.sample and free_bytes is not None else 0
        if success:
            free = f"{format_size(device.sample.free_bytes) if device.sample else '?'} of {format_size(device.total_bytes)} free, read twice"
            back = f"residents stay away for {short_duration(keep_free_s)}, unless somebody waits for them (or: warden workers start NAME)"
            message = f"{device.id} is empty: {message}, {free}; {back if keep_free_s else 'residents come back at once'}"
        return VacateView(success=success, message=message, freed_bytes=freed_bytes, holders=view.holders, device=device.id, kept_free_s=keep_free_s)


def _released(reply: Reply, none: str) -> ReleaseView:
    views = [
        ReleasedView(
            lease=lease.id,
            owner=lease.owner,
            kind="worker" if lease.worker else "outside",
            pid=lease.outside.pid or None if lease.outside else None,
            device=lease.device,
            state=lease.state,
            fence=lease.fence,
        )
        for lease in reply.released
    ]
    return ReleaseView(released=views, message="; ".join(map(_taken, reply.released)) or f"{none}: nothing was taken back")


def _taken(lease: Lease) -> str:
    after = "is ended, and comes back" if lease.worker else "is left alone, and its lease is refused from now on"
    return f"{called(lease)} has {lease.device} no more: it {after}"


def _text(name: str, text: str) -> str:
    if not 0 < len(text) <= _TEXT_MAX or not text.isprintable():
        raise Rejected("invalid", f"{name} must have 1 to {_TEXT_MAX} printable characters")
    return text
