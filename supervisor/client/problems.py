"""Why a program does not have the device: nobody answers, somebody holds it, the question makes no sense, or it had it and has it no more."""

from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.errors import SupervisorError


class GpuError(SupervisorError):
    """The root of what a client raises."""


class Away(GpuError):
    """No supervisor answers, or it is just stopping, or its store is stuck: the same question may be answered later."""


class Refused(GpuError):
    """The answer is no, and will be: the sentence says what to change. code: such as invalid, unknown, conflict, unauthorized."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code."""
        super().__init__(message)
        self.code = code


class Busy(GpuError):
    """The device was not free in time. holders: who has it; ticket: keeps the age of the wait, for a later try; retry_after_s: when that makes sense."""

    def __init__(self, message: str, *, ticket: str, holders: Sequence[Mapping[str, Any]] = (), retry_after_s: float = 1.0) -> None:
        """Keep it all."""
        super().__init__(message)
        self.ticket = ticket
        self.holders = tuple(holders)
        self.retry_after_s = retry_after_s


class Lost(GpuError):
    """The lease is over although its owner did not give it back: somebody else may use the device by now."""
