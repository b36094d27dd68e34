"""The device for programs outside Warden: taken, renewed, given back."""

import asyncio
import os
import secrets
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from supervisor.control import Unreachable
from supervisor.front.bodies import answer, body_of
from supervisor.front.client import DEADLINE_S
from supervisor.front.connection import PEER
from supervisor.front.hub import Hub
from supervisor.front.openapi import describe
from supervisor.front.parts import Caller, FromCaller
from supervisor.front.problems import Refusal
from supervisor.front.shapes_in import LockBody, RenewBody, UnlockBody
from supervisor.front.shapes_out import LeaseView, UnlockedView
from supervisor.shapes import LockView

router = APIRouter(prefix="/v1/gpu", tags=["device"])

_RETRY_S: Final = 5
_WITHDRAW_S: Final = 2.0
"""For as long as that takes: if the supervisor does not hear of it, it finds the front gone, or grants what is not renewed."""
_STATE: Final = (409, 422)


@router.post("/lock", **describe(LeaseView, takes=LockBody, also=(404, 409), says="The device is yours, until you give it back or your time is over."))
async def lock(request: Request, caller: FromCaller, body: Annotated[LockBody, Depends(body_of(LockBody))]) -> Response:
    """Wait for a device and take it.

    503 when it was not free in time, with who holds it (`holders`) and a `ticket`: send it again, and your age is kept. Over the unix socket the lease
    ends with your process (unless `pid` is 0); over TCP it lives by its renewals alone. If the connection closes, you wait no longer.
    """
    ticket = body.ticket or f"t-{secrets.token_hex(8)}"
    pid, ticks = _owner(request, body)
    args: dict[str, Any] = {"owner": body.owner, "priority": body.priority, "ticket": ticket, "pid": pid, "start_ticks": ticks, "caller": os.getpid()}
    args["purpose"] = body.purpose
    timeout_s = (await caller.status()).supervisor.lock_timeout_s if body.timeout_s is None else body.timeout_s
    given = {"timeout_s": timeout_s, "ttl_s": body.ttl_s, "need": body.need, "device": body.device}
    args |= {name: value for name, value in given.items() if value is not None}
    view: LockView = await while_connected(request, caller, ("gpu.lock", LockView), args, timeout_s + DEADLINE_S)
    if not view.granted:
        holders = [{"owner": one.owner, "kind": one.kind, "pid": one.pid, "state": one.state, "since_s": one.since_s} for one in view.holders]
        extra = {"ticket": view.ticket, "holders": holders}
        raise Refusal(503, view.reason or "busy", view.message, retry_after_s=_RETRY_S, extra=extra)
    return answer(_lease(view, view.lease or "", view.fence or 0))


def _lease(view: LockView, lease: str, fence: int) -> LeaseView:
    return LeaseView(
        lease=lease,
        fence=fence,
        device=view.device or "",
        expires_in_s=view.expires_in_s,
        ticket=view.ticket,
        env=view.env,
        yield_wanted=view.yield_wanted,
        wanted_by=view.wanted_by,
    )


def _owner(request: Request, body: LockBody) -> tuple[int, int]:
    """Return the process that the lease is for, as the connection proves it, and its start; 0 where none is proved. Raises Refusal."""
    pid, ticks = request.scope.get("state", {}).get(PEER, (0, 0))
    if body.pid == 0:
        return 0, 0
    if pid and body.pid not in {None, pid}:
        raise Refusal(422, "invalid", f"pid {body.pid} is not yours: this connection is of pid {pid}; leave pid out, or send 0 to live by renewals alone")
    return pid, ticks


async def while_connected(request: Request, caller: Caller, asks: tuple[str, Any], args: dict[str, Any], within_s: float) -> Any:
    """Return the answer to an operation, as its shape.

    A caller that goes away meanwhile waits no longer, and nobody does once the front ends. Raises Refused, Unreachable, Refusal.
    """
    asked = asyncio.ensure_future(caller.view(*asks, args, timeout_s=within_s))
    others = [asyncio.ensure_future(_left(request)), asyncio.ensure_future(_ends(caller.front.hub))]
    try:
        await asyncio.wait({asked, *others}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            with suppress(Unreachable):
                await caller.ask("gpu.withdraw", {"ticket": args["ticket"]}, timeout_s=_WITHDRAW_S)
            raise Refusal(503, "withdrawn", "you wait no longer: the connection was closed, or the API is restarted", extra={"ticket": args["ticket"]})
        return await asked
    finally:
        for one in (asked, *others):
            one.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _ends(hub: Hub) -> None:
    while not hub.closed:
        bell = hub.bell()
        if not hub.closed:
            await bell.wait()


@router.post("/renew", **describe(LeaseView, takes=RenewBody, also=_STATE, says="It is yours for as long again."))
async def renew(caller: FromCaller, body: Annotated[RenewBody, Depends(body_of(RenewBody))]) -> Response:
    """Say that a lease is still used, and hear whether somebody should have it soon (`yield_wanted`). 409 for one that is over, or an old fence."""
    view: LockView = await caller.view("gpu.renew", LockView, {"lease": body.lease, "fence": body.fence, "ttl_s": body.ttl_s})
    return answer(_lease(view, body.lease, body.fence))


@router.post("/unlock", **describe(UnlockedView, takes=UnlockBody, also=_STATE, says="It is given back; the next holder gets it when its memory was measured."))
async def unlock(caller: FromCaller, body: Annotated[UnlockBody, Depends(body_of(UnlockBody))]) -> Response:
    """Give a lease back. 409 for one that is over, or an old fence."""
    await caller.ask("gpu.unlock", {"lease": body.lease, "fence": body.fence})
    return answer(UnlockedView(lease=body.lease))
