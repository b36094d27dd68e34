"""Programs outside Warden that hold a device or wait for one. Instants (`_at_s`) are monotonic seconds, sizes are bytes."""

from typing import Final, Literal

from msgspec import Struct

from supervisor.core.names import DeviceId, LeaseId, Ticket

GIVEN_BACK: Final = "given back"
"""How a lease ended whose owner may live on, and keep a context on the device. Any other end is that of its process, or of its time."""
RELEASED: Final = "released by an operator"
"""How one ended that its owner did not give back; the owner is left alone, and may live on as well."""
LIVES_ON: Final = frozenset({GIVEN_BACK, RELEASED})

Purpose = Literal["inference", "load", "vacate"]
"""What a device is asked for: to use it, to load a model on it while nobody else does, or to have it empty (`orders`)."""


class Outside(Struct, frozen=True, kw_only=True):
    """A program that Warden did not start. pid: 0 where nobody proves one (another machine, a TCP connection): it lives by its renewals alone."""

    ticket: Ticket
    name: str
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    ttl_s: float = 0.0  # within which it renews; 0: its process alone counts

    @property
    def words(self) -> str:
        """Return what it is called in a sentence."""
        return f"{self.name} (pid {self.pid})" if self.pid else self.name


class Waiter(Struct, frozen=True, kw_only=True):
    """A program outside Warden that waits for a device. request: where the answer goes; empty while nobody listens, and the device is kept for it."""

    outside: Outside
    request: str
    priority: int
    need_bytes: int
    arrived_at_s: float  # the first time that it came with this ticket
    deadline_at_s: float
    timeout_s: float
    device: DeviceId | None = None  # it wants this one, and no other
    lease: LeaseId | None = None  # its hand-over is under way
    message: str = ""
    purpose: Purpose = "inference"
    kin: tuple[int, ...] = ()  # its pid and those of its ancestors
    keep_free_s: float = 0.0  # of a device that is to be empty: residents stay away for so long afterwards


class Age(Struct, frozen=True, kw_only=True):
    """What a ticket keeps of a waiter that went away: its arrival."""

    arrived_at_s: float
    left_at_s: float
