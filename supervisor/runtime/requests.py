"""What a request may hold, one shape for each operation, and how one is refused."""

import difflib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from msgspec import Struct, field

from supervisor.core.limits import JSONValue
from supervisor.units import parse_size

PRIORITY_MAX: Final = 1_000_000
"""As over HTTP."""


class Rejected(Exception):
    """A request is answered with no.

    code: usage (the request makes no sense), invalid (its parameters can never work), unknown (no such thing), gone (there was one, and it expired),
    conflict (the state forbids it), busy (try later: the queue is full), stopping (the supervisor is about to end), full (the disk), config, failed.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code
        self.message = message


class SubmitArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new job needs."""

    kind: str
    params: dict[str, JSONValue] = field(default_factory=dict)
    priority: int | None = None
    max_attempts: int | None = None
    run_at: str = ""  # ISO 8601; not before that
    idempotency_key: str = ""  # the same key again gives the same job
    hold: bool = False  # waits until jobs.start
    device: str = ""  # this one, and no other
    memory: str = ""  # a size: what its worker's processes have of the machine's memory at the most while it runs


class ListArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs."""

    statuses: list[str] = field(default_factory=list)
    kind: str = ""
    limit: int = 50


class PageArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs, and from where on."""

    statuses: list[str] = field(default_factory=list)
    kind: str = ""
    limit: int = 50
    cursor: str = ""


class EventsArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: those after a number, of one job or of all."""

    after: int = 0
    job: str = ""
    limit: int = 500


class JobArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job: its id, or the beginning of it."""

    job: str


class RetryArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job is tried again; the same key again gives the same new job."""

    job: str
    idempotency_key: str = ""


class WorkersArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers: a name, or a model for all of its workers."""

    name: str


class StopArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the supervisor ends."""

    now: bool = False


class NoArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


Operation = tuple[type[Struct], Callable[[JSONValue], Awaitable[JSONValue]]]
"""The shape of what an operation takes, and what answers it."""


def check_priority(priority: int) -> None:
    """Raise Rejected for a priority that nobody can have."""
    if not 0 <= priority <= PRIORITY_MAX:
        raise Rejected("invalid", f"priority {priority} found; expected 0 (the most urgent) to {PRIORITY_MAX}")


def size_of(what: str, text: str) -> int:
    """Return the bytes of a size. what: whose it is. Raises Rejected."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise Rejected("invalid", f"{what}: {error}") from error


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word as a question, or all of them."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(words) or 'none'}"
