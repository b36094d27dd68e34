"""Whether work is taken: what `readyz` says of it, and the room on the disk that an upload must leave."""

from contextlib import suppress
from typing import Final

from starlette.requests import Request

from supervisor.control import Refused, Unreachable
from supervisor.front.parts import Caller
from supervisor.front.problems import Refusal
from supervisor.shapes import StatusView
from supervisor.units import format_size

NOT_TAKEN: Final = "no job is taken"
"""How a sentence of `unwell` begins that says so."""


def why_not_ready(status: StatusView) -> Refusal | None:
    """Return why no job is taken now, None where one is."""
    if status.supervisor.stopping:
        return Refusal(503, "stopping", "the supervisor is stopping: it takes no more work")
    said = [one for one in status.unwell if one.startswith(NOT_TAKEN)]
    short = short_of_room(status, 0)
    if said or short:
        return Refusal(503, "full" if short else "unwell", "; ".join(said) or f"{NOT_TAKEN}: {short}")
    return None


def short_of_room(status: StatusView, more_bytes: int) -> str:
    """Return what is wrong with the room on the disk once so much more lies there; empty where there is enough, or nobody knows."""
    free, floor = status.memory.disk_free_bytes, status.memory.disk_floor_bytes
    if free is None or free - more_bytes >= floor:
        return ""
    coming = f" and {format_size(more_bytes)} would come" if more_bytes else ""
    return f"{format_size(free)} free on the disk of state_dir{coming}, disk_floor is {format_size(floor)}: make room, or lower supervisor.disk_floor"


async def check_upload(request: Request, caller: Caller) -> None:
    """Refuse an upload, before it is read, that would leave less room than disk_floor. Raises Refusal (507).

    Without a supervisor nobody knows the floor; the disk itself refuses then, when it is full.
    """
    length = request.headers.get("content-length", "")
    with suppress(Refused, Unreachable):
        if short := short_of_room(await caller.status(), int(length) if length.isdigit() else 0):
            raise Refusal(507, "full", f"no upload is taken: {short}")
