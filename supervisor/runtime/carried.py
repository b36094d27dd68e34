"""What Warden carries and does not look into, parameters and results: it must be what JSON can hold, flat enough for everybody to read."""

from typing import Final

import msgspec

from supervisor.core.limits import JSONValue

DEPTH_MAX: Final = 100
"""Readers give up near 1000 levels, each at another depth; what one takes in must not be what another cannot read."""


def cannot_carry(value: JSONValue) -> str:
    """Return why this value cannot be carried, in words; empty when it can."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for outer in level if isinstance(outer, (dict, list, tuple)) for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            break
    else:
        return f"it is nested deeper than {DEPTH_MAX} levels: make it flatter"
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        return f"it holds what JSON cannot: {error}"
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:  # JSON knows no limit, the way to the workers does
        return "it holds a whole number of more than 64 bits; expected -2^63 to 2^64 - 1: write it as text, or with a point"
    return ""
