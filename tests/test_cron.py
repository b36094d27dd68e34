"""Cron lines: the wrong ones are refused with a sentence; the right ones come due in local time, also where clocks are changed."""

import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from supervisor import cron

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(params=["Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"])
def berlin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine be in Berlin, by name or by rule."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str, fold: int = 0) -> float:
    """Return the instant of a time in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize("line", ["0 3 * * *", "*/5 * * * *", "0 0 29 2 *", "0 12 * * MON#1", "0 0 L * *", "30 4 1,15 * 5", "  0   3 * * *  "])
def test_a_right_line_is_right(line: str) -> None:
    cron.check(line)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "found 0 fields"),
        ("@daily", "found 1 field$"),
        ("0 3 * *", "found 4 fields"),
        ("0 0 3 * * *", "found 6 fields"),
        ("61 * * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("0 0 * 13 *", "bad month"),
        ("0 0 * * 8", "bad day-of-week"),
        ("a b c d e", "bad minute"),
        ("٣ 3 * * *", "bad minute"),
    ],
)
def test_a_wrong_line_is_refused_with_the_form(line: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f'must be a cron line of five fields .minute hour day month weekday., such as "0 3 .*{sentence}'):
        cron.check(line)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(("begin", "end"), [("2026-01-10", "2026-01-12"), ("2026-03-28", "2026-03-31"), ("2026-10-24", "2026-10-27")])
@pytest.mark.parametrize("line", ["0 3 * * *", "30 2 * * *", "0 2 * * *", "59 1 * * *", "*/30 * * * *", "0 */2 * * *", "15 2 29 3 *", "0 0 1 * *"])
def test_local_time_is_that_of_the_zones_own_table(line: str, begin: str, end: str) -> None:
    table = CronSim(line, datetime.fromisoformat(begin).replace(tzinfo=BERLIN))

    now, expected = at(begin), next(table).timestamp()
    while now < at(end):
        now = cron.next_after(line, now)
        assert now == expected
        assert cron.last_until(line, now) == now
        expected = next(table).timestamp()


@pytest.mark.usefixtures("berlin")
def test_a_time_that_the_clock_jumps_over_comes_at_once_and_one_that_comes_twice_is_run_once() -> None:
    spring = cron.next_after("30 2 * * *", at("2026-03-29T00:00"))
    autumn = cron.next_after("30 2 * * *", at("2026-10-25T00:00"))

    assert spring == at("2026-03-29T03:00")
    assert autumn == at("2026-10-25T02:30", fold=0)
    assert cron.next_after("30 2 * * *", autumn) == at("2026-10-26T02:30")


def test_the_last_instant_may_be_this_one() -> None:
    noon = datetime.fromisoformat("2026-11-25T12:00:00").astimezone().timestamp()

    assert cron.last_until("0 12 * * *", noon) == noon
    assert cron.last_until("0 12 * * *", noon + 0.5) == noon
    assert cron.last_until("* * * * *", noon - 0.5) == noon - 60
