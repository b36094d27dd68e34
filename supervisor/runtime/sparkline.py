"""A row of numbers as a row of blocks, for people."""

from collections.abc import Sequence
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Return one block for each value, the lowest for the least and the highest for the most of them; all the lowest where they are alike."""
    if not values:
        return ""
    least, most = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (most - least) if most > least else 0.0
    return "".join(_BLOCKS[round((value - least) * scale)] for value in values)
