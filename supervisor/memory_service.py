"""How memory is looked at: chooses the real meter, or one that pretends a smaller machine for drills, and hands the limits to whoever reads."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Final

from supervisor.adapters.headroom import Headroom
from supervisor.adapters.tree_meter import TreeMeter
from supervisor.core.events import AnyEvent
from supervisor.core.limits import Limits
from supervisor.core.model import Fleet
from supervisor.errors import StateError
from supervisor.runtime.ports import Room
from supervisor.runtime.sampling import Sampler
from supervisor.units import SIZE_FORM, parse_size

PRETEND: Final = "WARDEN_PRETEND_MEMORY"
"""For drills: as if the machine had this much memory, and nobody used any but the workers. So they can run out of it without harm to anybody."""
_NEAR: Final = (3, 4)
"""Of the lowest limit: a tree that has less is told by its RSS."""


class MemoryService:
    """room reads the machine's memory. notes: what is to be said at the start, each an event and its reason."""

    def __init__(self, environ: Mapping[str, str], trees: TreeMeter, limits: Limits) -> None:
        """Choose the meter. Raises StateError for a size to pretend that is none."""
        self.room: Callable[[], Room]
        self.notes: list[tuple[str, str]] = []
        self._trees = trees
        text = environ.get(PRETEND, "")
        if text:
            self.room = _pretended(text, trees)
            self.notes = [("memory_pretended", f"{PRETEND} is set: memory counts as {text} less what the workers use, whatever the machine has")]
        else:
            self.room = Headroom().read
        self.take(limits)

    def take(self, limits: Limits) -> None:
        """Let the trees be read as these limits need it."""
        up, down = _NEAR
        lowest = min((limit for limit in (limits.memory.worker_soft_bytes, limits.memory.worker_limit_bytes) if limit), default=None)
        self._trees.near_bytes = None if lowest is None else lowest * up // down
        self._trees.stale_s = limits.memory.check_every_s
        self._trees.worker_limit_bytes = limits.memory.worker_limit_bytes

    def sample(self, fleet: Callable[[], Fleet], limits: Callable[[], Limits], post: Callable[[AnyEvent], None]) -> Coroutine[None, None, None]:
        """Return what samples the machine's memory until it is cancelled."""
        return Sampler(self.room, self._trees.now, fleet=fleet, limits=limits, post=post).run()


def _pretended(text: str, trees: TreeMeter) -> Callable[[], Room]:
    try:
        total = parse_size(text)
    except ValueError as error:
        raise StateError(f"environment {PRETEND}={text}: must be {SIZE_FORM}") from error
    return lambda: Room(max(0, total - trees.resident_bytes()), total)
