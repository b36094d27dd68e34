"""How long to pause before asking again: longer each time, and never all at the same moment."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

_FIRST_S: Final = 0.2
_MAX_S: Final = 5.0
_SPREAD: Final = 0.5


class Patience:
    """Pauses. spread: a number from 0 to 1, each time another."""

    def __init__(self, pause: Callable[[float], None] = time.sleep, spread: Callable[[], float] = random.random) -> None:
        """Pause by these."""
        self.pause = pause
        self._spread = spread

    def tries(self) -> Iterator[float]:
        """Yield the pauses after one failure, after two in a row, and so on."""
        pause_s = _FIRST_S
        while True:
            yield pause_s * (1 - _SPREAD * self._spread())
            pause_s = min(_MAX_S, 2 * pause_s)

    def after(self, seconds: float) -> float:
        """Return the pause where somebody said how long to wait: that long, and a bit more."""
        return seconds * (1 + _SPREAD * self._spread())
