"""Faults of a card as its driver reports them (Xid), waited for as NVML events. A driver that tells of none is no trouble: readings go on without."""

from collections.abc import Callable
from typing import Any, Final

import pynvml

_WAIT_MS: Final = 1000
_ABSENT: Final = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
"""As in `nvml`: the second is none of the first."""


def watch(handle: Any, tell: Callable[[int], None]) -> None:
    """Tell of each Xid of the card, for as long as the driver lets it be waited for. Blocks: for a thread."""
    try:
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
        while True:
            code = _next(events)
            if code is not None:
                tell(code)
    except _ABSENT:  # not supported, not permitted, or the card is lost, which the next reading says
        return


def _next(events: Any) -> int | None:
    """Return the Xid that came within the wait, None where none did. Raises _ABSENT."""
    try:
        seen = pynvml.nvmlEventSetWait_v2(events, _WAIT_MS)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_TIMEOUT:
            return None
        raise
    return int(seen.eventData) if seen.eventType & pynvml.nvmlEventTypeXidCriticalError else None
