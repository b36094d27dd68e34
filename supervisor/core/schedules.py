"""Whether a schedule's job is to be submitted now. Pure: the instants that its cron line gives come in as numbers, in seconds since 1970."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from supervisor.core.limits import ScheduleSpec
from supervisor.core.model import JobId

LATE_S: Final = 60.0
"""A run that comes later than this after its instant is one that nobody was there for: a restart of the supervisor takes seconds, not minutes."""
STEP_BACK_S: Final = 3600.0
"""A clock that was put back by less is waited for: no run is missed by it, and none comes twice. By more, and the schedule would sleep for as long."""


class Due(Struct, frozen=True, kw_only=True):
    """What is to be done about the last planned instant. count_from_wall: where the schedule counts from afterwards; None: as before."""

    what: Literal["run", "skip", "nothing"]
    reason: str = ""
    count_from_wall: float | None = None


def due(spec: ScheduleSpec, *, last_wall: float | None, now_wall: float, planned: Sequence[float], live: JobId | None) -> Due:
    """Return what is to be done about a schedule.

    last_wall: the last instant that was dealt with; None for a schedule that is seen for the first time, which has missed nothing. planned: the instants
    after it, up to now, the oldest first; those between the first and the last may be left out. live: a job of this schedule that has not ended.
    """
    if last_wall is None:
        return Due(what="nothing", reason="it is new, and counts from now on", count_from_wall=now_wall)
    if last_wall - now_wall > STEP_BACK_S:
        return Due(what="nothing", reason="the clock was put back, and it counts from now on", count_from_wall=now_wall)
    if not planned:
        return Due(what="nothing")
    at = planned[-1]
    late_s = now_wall - at
    if late_s > LATE_S and spec.catch_up == "none":
        return Due(what="skip", reason=f'nobody was there for {late_s:.0f} s after it was due, and catch_up = "none"', count_from_wall=at)
    if live is not None and spec.overlap == "skip":
        return Due(what="skip", reason=f'its job {live} has not ended, and overlap = "skip"', count_from_wall=at)
    missed = f"one run stands for all that were missed in the last {now_wall - planned[0]:.0f} s" if len(planned) > 1 or late_s > LATE_S else ""
    return Due(what="run", reason=missed, count_from_wall=at)
