"""Why a job's work ended without a result: each exception stands for one reason of the protocol."""

import errno
import sys
import traceback
from typing import Final

from msgspec import Struct

from workers.report import BadInput, EmergencyBrake, JobCancelled, WorkerLeaves, WorkPauses

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Ended(Struct, frozen=True):
    """Why a job's work ended without a result."""

    reason: str
    error: str
    stack: str = ""


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
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return Ended("gpu_oom", sentence(error), stack)
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):
        return Ended("gpu_error", sentence(error), stack)
    if full := _full_disk(error):
        return Ended("worker_crash", f"{sentence(full)}; make room there", stack)  # the machine's fault: tried again as after a crash
    return Ended("user_error", sentence(error), stack)


def _full_disk(error: BaseException | None) -> OSError | None:
    """Return the error of a full disk that the work ended by; None where there was none. A library may have raised its own because of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise error.__cause__` makes a ring
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def sentence(error: BaseException) -> str:
    """Return one line about an exception; of BadInput its own words."""
    text = str(error).strip() or "no further word"
    return text if isinstance(error, BadInput) else f"{type(error).__name__}: {text}"
