"""Why a job's work ended without a result: each exception stands for one reason of the protocol."""

import errno
import sys
import traceback
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from workers.report import BadInput, EmergencyBrake, JobCancelled, WorkerLeaves, WorkPauses

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_OOM: Final = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_BROKEN: Final = (
    "CUDA error",
    "CUDA driver error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    *(f"{library}_STATUS_{how}" for library in ("CUBLAS", "CUDNN") for how in ("EXECUTION_FAILED", "INTERNAL_ERROR", "MAPPING_ERROR")),
)
"""How torch spells what it cannot go on after. Read in its sources and in reports of others; on a card none of it was tried."""


class Ended(Struct, frozen=True):
    """Why a job's work ended without a result."""

    reason: str
    error: str
    stack: str = ""
    memory_bytes: int = 0  # of one that did not begin: it needs so much


def ended_by(error: BaseException) -> Ended:
    """Return the reason that an exception of the work stands for."""
    stack = "".join(traceback.format_exception(error))
    match error:
        case WorkerLeaves():
            return Ended("shutdown", str(error))
        case WorkPauses():
            return Ended("paused", str(error))
        case JobCancelled():
            return Ended("cancelled", str(error))
        case EmergencyBrake():
            return Ended("memory_emergency", f"EMERGENCY BRAKE: {error}")
        case BadInput():
            return Ended("bad_input", str(error))
        case _:
            return _broken(error, stack)


def _broken(error: BaseException, stack: str) -> Ended:
    """Return the reason for an exception that nobody raised on purpose, its stack printed into the worker's log."""
    print(stack, file=sys.stderr, flush=True)
    for found in _chain(error):
        if reason := device_reason(found):
            return Ended(reason, sentence(found), stack)
        if isinstance(found, OSError) and found.errno in _FULL:
            return Ended("worker_crash", f"{sentence(found)}; make room there", stack)  # the machine's fault: tried again as after a crash
    return Ended("user_error", sentence(error), stack)


def device_reason(error: BaseException) -> str:
    """Return gpu_oom where a device's memory was not enough, gpu_error where its context is broken for good; empty for any other exception."""
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return "gpu_oom"
    if not isinstance(error, RuntimeError):
        return ""
    text = str(error)
    if any(words in text for words in _OOM):
        return "gpu_oom"
    return "gpu_error" if any(words in text for words in _BROKEN) else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, then what it came of: a library may have raised its own because of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise error.__cause__` makes a ring
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def sentence(error: BaseException) -> str:
    """Return one line about an exception; of BadInput its own words."""
    text = str(error).strip() or "no further word"
    return text if isinstance(error, BadInput) else f"{type(error).__name__}: {text}"
