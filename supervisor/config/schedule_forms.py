"""The form of a cron line. It is tried here, at the door, so that no schedule is found wrong in the night that it should have run in."""

from datetime import datetime
from typing import Final

from cronsim import CronSim, CronSimError

from supervisor.config.forms import Form, FormError, read_text

CRON_FORM: Final = 'a cron line of five fields, such as "0 3 * * *": minute, hour, day of the month, month, day of the week'
_FIELDS: Final = 5
_ANY_DAY: Final = datetime(2024, 1, 1)  # noqa: DTZ001  # only whether a day ever comes is asked, not when


def _read_cron(value: object) -> str:
    line = " ".join(read_text(value, CRON_FORM).split())
    found = len(line.split())
    if found != _FIELDS:
        raise FormError(f"must be {CRON_FORM}; found {found} field{'s' if found != 1 else ''}", value)
    try:
        days = CronSim(line, _ANY_DAY)
    except (CronSimError, ValueError) as error:  # ValueError: more digits than a number may have
        wrong = str(error).removeprefix("Bad ") if isinstance(error, CronSimError) else "number"
        raise FormError(f"must be {CRON_FORM}; its {wrong} is wrong: write a number, *, 1-5, 1,3 or */2", value) from error
    if next(days, None) is None:
        raise FormError(f"must be {CRON_FORM}; there is no day that it names", value)
    return line


CRON: Final = Form(CRON_FORM, _read_cron, verbatim=True)
