"""What is kept of an end: how a process exited, what was seen of it before, why a job has no result, what a cancel gave back."""

from typing import Literal

from msgspec import Struct

from supervisor.core.states import Reason


class Exit(Struct, frozen=True):
    """How a process ended. kind: code, signal, spawn_failed or unknown (an exit that nobody could read)."""

    kind: str
    number: int = 0
    detail: str = ""
    killer: Literal["", "kernel", "guard"] = ""  # who of the two ended it for lack of memory

    def __str__(self) -> str:
        """Return it in words."""
        if self.killer:
            return f"killed by the {self.killer} for lack of memory"
        match self.kind:
            case "code":
                return f"exit code {self.number}"
            case "signal":
                return f"killed by signal {self.number}{f' ({self.detail})' if self.detail else ''}"
            case "spawn_failed":
                return f"could not be started: {self.detail}"
            case _:
                return "exit unknown"


class Evidence(Struct, frozen=True, kw_only=True):
    """What was seen of a worker just before it was killed."""

    stack: str = ""
    process: str = ""  # state and wait channel from /proc
    log_tail: tuple[str, ...] = ()


class FlightSample(Struct, frozen=True, kw_only=True, array_like=True):
    """One second of a worker that was ended later. rss_bytes: of its leader; pss_bytes: of its tree, and available_bytes: of the machine, as last read."""

    at_wall: float
    rss_bytes: int
    pss_bytes: int | None = None
    available_bytes: int | None = None
    device_bytes: int | None = None
    job: str = ""
    phase: str = ""
    done: float = 0.0
    total: float = 0.0


class Failure(Struct, frozen=True, kw_only=True):
    """Why a job has no result: the death certificate."""

    reason: Reason
    message: str
    evidence: str = ""
    phase: str = ""
    stack: str = ""
    log_tail: tuple[str, ...] = ()


class Receipt(Struct, frozen=True, kw_only=True):
    """What a cancel gave back, measured."""

    freed_bytes: int
    took_s: float
