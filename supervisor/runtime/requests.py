"""What a request may hold, one shape for each operation, and how one is refused."""

from msgspec import Struct, field

from supervisor.core.limits import JSONValue


class Rejected(Exception):
    """A request is answered with no. code: usage, unknown, busy or failed."""

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


class ListArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs."""

    statuses: list[str] = field(default_factory=list)
    kind: str = ""
    limit: int = 50


class JobArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job: its id, or the beginning of it."""

    job: str


class WorkersArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers: a name, or a model for all of its workers."""

    name: str


class StopArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the supervisor ends."""

    now: bool = False


class NoArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""
