"""A row of numbers as a row of blocks, for people."""

from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_DIFFERS: Final = 0.05
"""Of the most."""


def sparkline(values: Sequence[float]) -> str:
    """Return one block for each value, the highest for the most of them. The lowest is the least of them, or nothing where they differ by little."""
    if not values:
        return ""
    least, most = min(values), max(values)
    if most - least < _DIFFERS * most:  # else what hardly moves looks like a leap
        least = 0.0
    scale = (len(_BLOCKS) - 1) / (most - least) if most > least else 0.0
    return "".join(_BLOCKS[round((value - least) * scale)] for value in values)
