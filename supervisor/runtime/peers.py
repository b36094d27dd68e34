"""What the runtime needs to know of processes that are not ours: who one is, and when it ends."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from supervisor.core.model import Outside


class Peer(Struct, frozen=True, kw_only=True):
    """A process that is not ours, as it was found. kin: its pid and those of its ancestors."""

    pid: int
    start_ticks: int
    boot_id: str
    kin: tuple[int, ...]
    name: str


class Owners(Protocol):
    """The processes of programs outside Warden."""

    async def look(self, pid: int) -> Peer | None:
        """Return who lives under this pid; None where nobody does."""
        ...

    def watch(self, name: str, who: Outside | Peer, gone: Callable[[], None]) -> None:
        """Call gone once this process is no more, in a moment where it is none now. name: what the watch is called; an earlier one of that name ends."""
        ...

    def forget(self, name: str) -> None:
        """Watch it no more."""
        ...
