"""What is kept of memory: how the tree of a worker looked, and which ends the emergency brake ordered."""

from msgspec import Struct

from supervisor.core.names import JobId


class MemoryLooks(Struct, frozen=True, kw_only=True):
    """What the looks at the memory of one process's tree have shown: how many in a row were over each limit."""

    soft: int = 0
    limit: int = 0
    at_s: float = float("-inf")  # the last look that counted
    first_bytes: int | None = None  # what it used when it was ready: a fresh process would use as much
    helpless: bool = False  # that is over a limit, so that no restart helps; and it was said


class Brake(Struct, frozen=True, kw_only=True):
    """An end that the emergency brake ordered: of a worker's process (kills), or only of its job, before the next step of that."""

    generation: int
    job: JobId | None
    kills: bool = False
    ordered_at_s: float
    held_bytes: int  # what its tree had then
    available_bytes: int  # and the machine
    ended: bool = False  # its job ended for it, and said so
