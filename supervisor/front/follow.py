"""Following the stream of events: first what was, then what comes, with nothing missing and nothing twice in between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from supervisor.control import Refused, Unreachable
from supervisor.front.hub import PAGE, Hub, Kept, kept

ENDED: Final = frozenset({"completed", "failed", "cancelled"})
_AGAIN_S: Final = 0.5
_NEVER: Final = 2**62
"""A number that no event has: a page after it is empty, and says what the last one was."""


class Gap(Struct, frozen=True):
    """What was after one event and before another is kept no longer."""

    after: int
    first: int


async def follow(hub: Hub, *, after: int | None, job: str = "", wanted: Callable[[Kept], bool] | None = None) -> AsyncIterator[Kept | Gap]:
    """Yield each event after a number (None: after now), in order, until the hub is closed.

    job: only this one's; wanted: only those for which it is true.
    """
    at, said = after, 0
    while not hub.closed:
        bell = hub.bell()
        if not hub.in_step:
            await bell.wait()
            continue
        found, at = await _next(hub, hub.last if at is None else at, job, bell)
        for one in found:
            if isinstance(one, Gap):
                if one.first <= said:  # each page of a replay has it
                    continue
                said = one.first
            if _fits(one, job, wanted):
                yield one


async def _next(hub: Hub, at: int, job: str, bell: asyncio.Event) -> tuple[Sequence[Kept | Gap], int]:
    """Return what comes after a number, and the number to go on from; nothing, after a while, where there is nothing yet."""
    if at > hub.last:
        gap = await _ahead(hub, at, bell)
        return ([gap], gap.first - 1) if gap else ([], at)
    found = hub.since(at)
    if found:
        return found, hub.last
    if found is None:
        try:
            return await _replayed(hub, at, job)
        except (Refused, Unreachable):
            await asyncio.sleep(_AGAIN_S)
            return [], at
    await bell.wait()
    return [], at


def _fits(one: Kept | Gap, job: str, wanted: Callable[[Kept], bool] | None) -> bool:
    return isinstance(one, Gap) or ((not job or one.event.job == job) and (wanted is None or wanted(one)))


async def _ahead(hub: Hub, at: int, bell: asyncio.Event) -> Gap | None:
    """Return the gap before a follower whose number is of another store; None, after a while, where it is only us who are behind."""
    try:
        newest = (await hub.page(_NEVER)).last
    except (Refused, Unreachable):
        await asyncio.sleep(_AGAIN_S)
        return None
    if at > newest:
        return Gap(at, newest + 1)
    await bell.wait()
    return None


async def _replayed(hub: Hub, at: int, job: str) -> tuple[list[Kept | Gap], int]:
    """Return the next events from the store, and where that leaves the follower."""
    known = hub.last  # on disk by now: an event is published after it was written
    page = await hub.page(at, job)
    found: list[Kept | Gap] = [Gap(at, page.first)] if 0 < at < page.first - 1 else []
    found += [kept(event) for event in page.events if event.seq > at]
    newest = page.events[-1].seq if page.events else at
    return found, max(at, newest) if len(page.events) >= PAGE else max(at, newest, known)


async def wait_for_change(hub: Hub, job: str, *, seen: int, within_s: float) -> int:
    """Return once something was said about a job after the event `seen`, or the time is over: how far the stream was looked through."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not hub.closed:
                bell = hub.bell()
                found = hub.since(seen)
                if found is None or any(one.event.job == job for one in found):
                    break
                seen = hub.last
                await bell.wait()
    return hub.last
