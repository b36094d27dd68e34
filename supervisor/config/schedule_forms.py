"""The form of a cron line. It is tried here, at the door, so that no schedule is found wrong in the night that it should have run in."""

from typing import Final

from supervisor import cron
from supervisor.config.forms import Form, FormError, read_text

_LONGEST: Final = 200
"""Characters: far more than any line needs, and few enough to be shown."""


def _read_cron(value: object) -> str:
    line = " ".join(read_text(value, cron.CRON_FORM).split())
    if len(line) > _LONGEST:
        raise FormError(f"must be {cron.CRON_FORM}, found {len(line)} characters", value)
    try:
        cron.check(line)
    except ValueError as error:
        raise FormError(str(error), value) from error
    return line


CRON: Final = Form(cron.CRON_FORM, _read_cron, verbatim=True)
