"""Cron lines: whether one is right, and when it comes due, in local time and by cronsim's rules (which are Debian's) where clocks are put back or forward.

A leaf like `units`: the configuration checks lines with it, and the scheduler asks it for instants. All instants are seconds since 1970.
"""

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

CRON_FORM: Final = 'a cron line of five fields (minute hour day month weekday), such as "0 3 * * *"'
_FIELDS: Final = 5


class LocalZone(tzinfo):
    """The zone that the C library calls local, whatever form TZ has, with its changes over the year; `astimezone()` knows only today's offset."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """Return the offset at a local time; `fold` tells the second of two equal ones from the first."""
        if dt is None:
            return None
        local = dt.replace(tzinfo=None)
        return timedelta(seconds=round(local.replace(tzinfo=UTC).timestamp() - local.timestamp()))

    def dst(self, dt: datetime | None) -> timedelta | None:  # noqa: ARG002  # the signature is tzinfo's
        """Nobody asks: the offset is known whole."""
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        """Return the short name at a local time."""
        return time.strftime("%Z", time.localtime(dt.timestamp())) if dt else None

    def fromutc(self, dt: datetime) -> datetime:
        """Return the local time of a UTC time that carries this zone."""
        return datetime.fromtimestamp(dt.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)  # noqa: DTZ006  # it is local on purpose, and sets fold


LOCAL: Final = LocalZone()


def check(line: str) -> None:
    """Raise ValueError with the expected form for a line that is none, or never comes due."""
    fields = len(line.split())
    if fields != _FIELDS:
        raise ValueError(f"must be {CRON_FORM}, found {fields} field{'s' if fields != 1 else ''}")
    try:
        next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"must be {CRON_FORM}: {str(error).lower()}") from error
    except StopIteration:
        raise ValueError(f"must be {CRON_FORM}: this one never comes due, because no such day exists") from None


def next_after(line: str, wall_s: float) -> float:
    """Return the first instant after this one at which the line is due."""
    return next(CronSim(line, datetime.fromtimestamp(wall_s, tz=LOCAL))).timestamp()


def last_until(line: str, wall_s: float) -> float:
    """Return the last instant, up to and with this one, at which the line was due."""
    return next(CronSim(line, datetime.fromtimestamp(int(wall_s) + 1, tz=LOCAL), reverse=True)).timestamp()
