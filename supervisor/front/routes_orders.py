"""What an operator orders of the devices: leases taken back, a device emptied. Who did it and why is recorded."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from supervisor.front.bodies import answer, body_or_none_of
from supervisor.front.client import DEADLINE_S
from supervisor.front.connection import PEER
from supervisor.front.openapi import describe, schema_of
from supervisor.front.parts import Caller, FromCaller
from supervisor.front.problems import Refusal
from supervisor.front.routes_locks import while_connected
from supervisor.front.shapes_in import ReleaseBody, VacateBody
from supervisor.shapes import ReleaseView, VacateView

router = APIRouter(prefix="/v1/gpu", tags=["device"])

_RETRY_S = 5


def _takes(shape: Any) -> dict[str, Any]:
    return {"required": False, "content": {"application/json": {"schema": schema_of(shape)}}}


@router.post("/reset", **describe(ReleaseView, request=_takes(ReleaseBody), says="What was stale is taken back."))
async def reset(request: Request, caller: FromCaller, body: Annotated[ReleaseBody, Depends(body_or_none_of(ReleaseBody))]) -> Response:
    """Take back the leases of programs that live and do not renew. Their fences are refused from now on (409), and nobody is ended."""
    return answer(await caller.view("gpu.reset", ReleaseView, {"by": _who(request, caller), "reason": body.reason}))


@router.post("/force-release-all", **describe(ReleaseView, request=_takes(ReleaseBody), says="Every lease is taken back."))
async def force_release_all(request: Request, caller: FromCaller, body: Annotated[ReleaseBody, Depends(body_or_none_of(ReleaseBody))]) -> Response:
    """Take back every lease. Workers are ended, and come back with their jobs; programs are left alone, and their fences are refused from now on (409).

    Nothing is assumed free: each device is measured before it is anybody else's.
    """
    return answer(await caller.view("gpu.force_release", ReleaseView, {"by": _who(request, caller), "reason": body.reason}))


@router.post("/vacate", **describe(VacateView, request=_takes(VacateBody), also=(404,), says="The device is empty, measured twice."))
async def vacate(request: Request, caller: FromCaller, body: Annotated[VacateBody, Depends(body_or_none_of(VacateBody))]) -> Response:
    """Have a device empty: idle residents leave, and stay away for `keep_free_s` unless somebody waits for them.

    503 with `success`, `message`, `freed_bytes` and `holders` where somebody is at work on it, or its memory was not proved free in time.
    """
    timeout_s = (await caller.status()).supervisor.vacate_timeout_s if body.timeout_s is None else body.timeout_s
    args: dict[str, Any] = {"by": _who(request, caller), "ticket": f"t-{secrets.token_hex(8)}", "timeout_s": timeout_s, "caller": os.getpid()}
    given = {"need": body.need, "device": body.device, "keep_free_s": body.keep_free_s}
    args |= {name: value for name, value in given.items() if value is not None}
    view: VacateView = await while_connected(request, caller, ("gpu.vacate", VacateView), args, timeout_s + DEADLINE_S)
    if not view.success:
        holders = [{"owner": one.owner, "kind": one.kind, "pid": one.pid, "state": one.state, "since_s": one.since_s} for one in view.holders]
        extra = {"success": False, "message": view.message, "freed_bytes": view.freed_bytes, "holders": holders}
        raise Refusal(503, "not_vacated", view.message, retry_after_s=_RETRY_S, extra=extra)
    return answer(view)


def _who(request: Request, caller: Caller) -> str:
    """Return who asks, for the record: by the unix socket's proof, or by where the request comes from and the fingerprint of its token."""
    pid, _ = request.scope.get("state", {}).get(PEER, (0, 0))
    if pid:
        with suppress(OSError):
            return f"uid {Path(f'/proc/{pid}').stat().st_uid}, pid {pid}, over the {caller.by}"
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    known = f", token {hashlib.sha256(token.strip().encode()).hexdigest()[:8]}" if kind.lower() == "bearer" and token.strip() else ""
    return f"{caller.by}{known}"
