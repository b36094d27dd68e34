"""The numbers of a call, looked at when it is made: a wait that is no number would never end."""

import math
import sys
from typing import Any


def seconds(name: str, found: Any, *, most: float = sys.float_info.max, zero: bool = True, for_ever: bool = False) -> float:
    """Return the seconds. Raises ValueError for what is none, or beyond 0 and most. zero: 0 is one; for_ever: math.inf is one."""
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if number and ((0 < found <= most) or (zero and found == 0) or (for_ever and found == math.inf)):
        return float(found)
    least = "from 0" if zero else "above 0"
    raise ValueError(
        f"{name} must be a number of seconds {least}{_bound(most)}{', or math.inf to wait for ever' if for_ever else ''}, {_shown(found)} was found"
    )


def whole(name: str, found: Any, *, most: int) -> int:
    """Return the whole number. Raises ValueError for what is none, or beyond 0 and most."""
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most:
        return found
    raise ValueError(f"{name} must be a whole number from 0 to {most}, {_shown(found)} was found")


def _bound(most: float) -> str:
    return "" if most == sys.float_info.max else f" up to {most:g}"


def _shown(found: Any) -> str:
    """Return what was found; Python writes no number of thousands of digits."""
    try:
        return repr(found)
    except ValueError:
        return f"a {type(found).__name__} that is too large"
