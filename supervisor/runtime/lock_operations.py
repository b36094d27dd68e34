"""What programs outside Warden can ask: the device, more time with it, and to give it back."""

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

from msgspec import Struct

from supervisor.core.events import AnyEvent, LockRequested, LockWithdrawn, RenewRequested, UnlockRequested
from supervisor.core.gpu import device_for
from supervisor.core.limits import Limits
from supervisor.core.line import named
from supervisor.core.model import Device, DeviceId, Fleet, Lease, LeaseId, Outside, Ticket
from supervisor.runtime.asking import ANSWER_MAX_S, Asking
from supervisor.runtime.device_views import device_view
from supervisor.runtime.launch import shown
from supervisor.runtime.peers import Owners
from supervisor.runtime.requests import Operation, Rejected, check_priority, size_of
from supervisor.shapes import LockView

TIMEOUT_MAX_S: Final = 86400.0
_NAME_MAX: Final = 200
_NOT_GRANTED: Final = {"busy": "lock_timeout", "refused": "gpu_refused"}


class LockArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants a device, and how much of it.

    pid: the process that it is for, 0 where nobody proves one; start_ticks: as whoever asks has read them, 0 not to compare; caller: a process without which
    nobody waits for the answer. timeout_s, ttl_s: None for those of [gpu]; ttl_s 0: it need not renew, its process alone counts. need: "8GiB".
    purpose: load for the lock under which models are loaded on a device, one at a time, within gpu.load_timeout.
    """

    owner: str
    priority: int = 15
    timeout_s: float | None = None
    ttl_s: float | None = None
    need: str = "0"
    device: str = ""
    pid: int = 0
    start_ticks: int = 0
    caller: int = 0
    ticket: str = ""
    purpose: Literal["inference", "load"] = "inference"


class RenewArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lease, by its own fence. ttl_s: None for as long as before."""

    lease: str
    fence: int
    ttl_s: float | None = None


class UnlockArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lease, by its own fence."""

    lease: str
    fence: int


class WithdrawArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who waits no longer."""

    ticket: str


class LockOperations:
    """Answers programs outside Warden. A lock is answered when it is granted, or not in time."""

    def __init__(self, *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], asking: Asking, owners: Owners, post: Callable[[AnyEvent], None]) -> None:
        """Answer from these."""
        self._fleet = fleet
        self._limits = limits
        self._ask = asking.ask
        self._owners = owners
        self._post = post
        self.table: Mapping[str, Operation] = {
            "gpu.lock": (LockArgs, self._lock),
            "gpu.renew": (RenewArgs, self._renew),
            "gpu.unlock": (UnlockArgs, self._unlock),
            "gpu.withdraw": (WithdrawArgs, self._withdraw),
        }

    async def _lock(self, args: LockArgs) -> LockView:
        limits = self._limits().gpu
        timeout_s = within("timeout_s", limits.lock_timeout_s if args.timeout_s is None else args.timeout_s)
        need_bytes = size_of("need", args.need)
        if need_bytes and args.purpose == "load":
            raise Rejected("invalid", f"need {args.need} is asked of the device itself: take that first (purpose inference), then the lock for loading on it")
        outside, kin = await self._outside(args)
        device = DeviceId(args.device) if args.device else None
        waiting = await watch_caller(self._owners, args.caller, outside.ticket, self._post)

        def request(name: str) -> LockRequested:
            return LockRequested(
                request=name,
                outside=outside,
                priority=args.priority,
                need_bytes=need_bytes,
                timeout_s=timeout_s,
                device=device,
                kin=kin,
                purpose=args.purpose,
            )

        try:
            reply = await self._ask(request, within_s=timeout_s + ANSWER_MAX_S)
        except Rejected as no:
            if no.code == "failed":  # perhaps nobody answered: what may be granted yet is not wanted any more
                self._post(LockWithdrawn(ticket=outside.ticket))
            if no.code not in _NOT_GRANTED:
                raise
            return self._not_granted(outside.ticket, device, need_bytes, no)
        finally:
            self._owners.forget(waiting)
        return self._granted(reply.lease)

    async def _outside(self, args: LockArgs) -> tuple[Outside, tuple[int, ...]]:
        """Return who asks, proved where it has a process, and the pids of that and its ancestors. Raises Rejected."""
        if not 0 < len(args.owner) <= _NAME_MAX or not args.owner.isprintable():
            raise Rejected("invalid", f"owner must have 1 to {_NAME_MAX} printable characters")
        check_priority(args.priority)
        if len(args.ticket) > _NAME_MAX or not args.ticket.isprintable():
            raise Rejected("invalid", "ticket must be one that an earlier answer gave")
        ttl_s = within("ttl_s", self._limits().gpu.lease_ttl_s if args.ttl_s is None else args.ttl_s)
        ticket = Ticket(args.ticket or f"t-{secrets.token_hex(8)}")
        if not args.pid:
            if not ttl_s:
                raise Rejected("invalid", "ttl_s must be above 0: nothing but its renewals shows that this owner lives")
            return Outside(ticket=ticket, name=args.owner, ttl_s=ttl_s), ()
        peer = await self._owners.look(args.pid)
        if peer is None or args.start_ticks not in (0, peer.start_ticks):
            raise Rejected("invalid", f"pid {args.pid} is no process of this machine, or another one by now")
        outside = Outside(ticket=ticket, name=args.owner, pid=peer.pid, start_ticks=peer.start_ticks, boot_id=peer.boot_id, ttl_s=ttl_s)
        return outside, peer.kin

    async def _renew(self, args: RenewArgs) -> LockView:
        ttl_s = None if args.ttl_s is None else within("ttl_s", args.ttl_s)
        found = self._fleet().leases.get(LeaseId(args.lease))
        if ttl_s == 0 and found is not None and found.outside is not None and not found.outside.pid:
            raise Rejected("invalid", "ttl_s must be above 0: nothing but its renewals shows that this owner lives")
        reply = await self._ask(lambda name: RenewRequested(request=name, lease=LeaseId(args.lease), fence=args.fence, ttl_s=ttl_s))
        return self._granted(reply.lease)

    async def _unlock(self, args: UnlockArgs) -> dict[str, str]:
        await self._ask(lambda name: UnlockRequested(request=name, lease=LeaseId(args.lease), fence=args.fence))
        return {"lease": args.lease}

    async def _withdraw(self, args: WithdrawArgs) -> dict[str, str]:
        self._post(LockWithdrawn(ticket=Ticket(args.ticket)))
        return {"ticket": args.ticket}

    def _granted(self, name: LeaseId | None) -> LockView:
        lease: Lease | None = self._fleet().leases.get(name) if name is not None else None
        if lease is None or lease.outside is None:
            raise Rejected("conflict", "it was granted, and is over already: its owner is gone, or did not renew it")
        device = self._fleet().devices.get(lease.device)
        return LockView(
            granted=True,
            ticket=lease.outside.ticket,
            lease=lease.id,
            fence=lease.fence,
            device=lease.device,
            expires_in_s=None if lease.ends_at_s is None else max(0.0, lease.ends_at_s - time.monotonic()),
            env=shown(device) if device is not None else {},
            yield_wanted=bool(lease.wanted_by),
            wanted_by=named(self._fleet(), lease.wanted_by),
        )

    def _not_granted(self, ticket: Ticket, wanted: DeviceId | None, need_bytes: int, no: Rejected) -> LockView:
        fleet, limits = self._fleet(), self._limits()
        device: Device | None = fleet.devices.get(wanted) if wanted else device_for(fleet, need_bytes, limits.gpu.margin_bytes)
        holders = device_view(device, fleet=fleet, limits=limits, now_s=time.monotonic()).holders if device is not None else []
        return LockView(granted=False, ticket=ticket, device=device.id if device else None, reason=_NOT_GRANTED[no.code], message=no.message, holders=holders)


async def watch_caller(owners: Owners, caller: int, ticket: Ticket, post: Callable[[AnyEvent], None]) -> str:
    """Withdraw whoever waits with this ticket once the process that asked is gone (0: nobody's). Returns what the watch is called. Raises Rejected."""
    name = f"whoever asks for {ticket}"
    if caller:
        peer = await owners.look(caller)
        if peer is None:
            raise Rejected("invalid", f"caller {caller} is no process of this machine")
        owners.watch(name, peer, partial(post, LockWithdrawn(ticket=ticket)))
    return name


def within(name: str, seconds: float) -> float:
    """Return the seconds. Raises Rejected where nobody should wait for so long."""
    if not 0 <= seconds <= TIMEOUT_MAX_S:
        raise Rejected("invalid", f"{name} must be from 0 to {TIMEOUT_MAX_S:g} seconds, {seconds:g} was found")
    return seconds
