"""Names for new jobs."""

import secrets
from typing import Final

from supervisor.core.model import JobId

_ID_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH: Final = 10


def new_id() -> JobId:
    """Return an id that no other job has: 50 random bits, in letters that cannot be misread."""
    return JobId("j-" + "".join(_ID_LETTERS[byte % len(_ID_LETTERS)] for byte in secrets.token_bytes(_ID_LENGTH)))
