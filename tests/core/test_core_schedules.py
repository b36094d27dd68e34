"""Whether a schedule is due: the whole table, and both edges of each limit."""

import pytest

from supervisor.core.limits import ScheduleSpec
from supervisor.core.model import JobId
from supervisor.core.schedules import LATE_S, STEP_BACK_S, Due, due

AT = 1_800_000_000.0
DAY = 86_400.0
LIVE = JobId("s-nightly-before")


def spec(**given: str) -> ScheduleSpec:
    """Return a schedule; its line is not looked at."""
    return ScheduleSpec(cron="0 3 * * *", kind="k", **given)  # type: ignore[arg-type]  # words of the closed sets


NOTHING = Due(what="nothing")
CASES = [
    ("not yet", spec(), AT - DAY, AT - 1, [], None, NOTHING),
    ("on time", spec(), AT - DAY, AT, [AT], None, Due(what="run", count_from_wall=AT)),
    ("a second late", spec(), AT - DAY, AT + 1, [AT], None, Due(what="run", count_from_wall=AT)),
    ("as late as is on time", spec(catch_up="none"), AT - DAY, AT + LATE_S, [AT], None, Due(what="run", count_from_wall=AT)),
    (
        "later: nobody was there",
        spec(catch_up="none"),
        AT - DAY,
        AT + LATE_S + 1,
        [AT],
        None,
        Due(what="skip", reason='nobody was there for 61 s after it was due, and catch_up = "none"', count_from_wall=AT),
    ),
    (
        "later, caught up",
        spec(),
        AT - DAY,
        AT + LATE_S + 1,
        [AT],
        None,
        Due(what="run", reason="one run stands for all that were missed in the last 61 s", count_from_wall=AT),
    ),
    (
        "days away",
        spec(),
        AT - 9 * DAY,
        AT + 3600,
        [AT - 8 * DAY, AT],
        None,
        Due(what="run", reason="one run stands for all that were missed in the last 694800 s", count_from_wall=AT),
    ),
    (
        "days away, back just in time",
        spec(catch_up="none"),
        AT - 9 * DAY,
        AT + 1,
        [AT - 8 * DAY, AT],
        None,
        Due(what="run", reason="one run stands for all that were missed in the last 691201 s", count_from_wall=AT),
    ),
    (
        "the one before has not ended",
        spec(),
        AT - DAY,
        AT,
        [AT],
        LIVE,
        Due(what="skip", reason='its job s-nightly-before has not ended, and overlap = "skip"', count_from_wall=AT),
    ),
    ("and may wait in the queue", spec(overlap="queue"), AT - DAY, AT, [AT], LIVE, Due(what="run", count_from_wall=AT)),
    ("one runs, nothing is due", spec(), AT - DAY, AT - 1, [], LIVE, NOTHING),
    ("new", spec(), None, AT, [], None, Due(what="nothing", reason="it is new, and counts from now on", count_from_wall=AT)),
    ("new, whatever came before", spec(), None, AT, [AT - 5], LIVE, Due(what="nothing", reason="it is new, and counts from now on", count_from_wall=AT)),
    ("the clock was put back a little", spec(), AT + STEP_BACK_S, AT, [], None, NOTHING),
    (
        "the clock was put back by far",
        spec(),
        AT + STEP_BACK_S + 1,
        AT,
        [],
        None,
        Due(what="nothing", reason="the clock was put back, and it counts from now on", count_from_wall=AT),
    ),
]


@pytest.mark.parametrize(("given", "last", "now", "planned", "live", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_due(  # noqa: PLR0917  # one row of the table
    given: ScheduleSpec, last: float | None, now: float, planned: list[float], live: JobId | None, expected: Due
) -> None:
    found = due(given, last_wall=last, now_wall=now, planned=planned, live=live)

    assert found == expected
    assert due(given, last_wall=last, now_wall=now, planned=planned, live=live) == found, "asked again, it answers the same"
