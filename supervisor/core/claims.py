"""Programs outside Warden that hold a device or wait for one. Instants (`_at_s`) are monotonic seconds, sizes are bytes."""

from typing import Final

from msgspec import Struct

from supervisor.core.names import DeviceId, LeaseId, Ticket

GIVEN_BACK: Final = "given back"
"""How a lease ended whose owner may live on, and keep a context on the device. Any other end is that of its process, or of its time."""


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


class Age(Struct, frozen=True, kw_only=True):
    """What a ticket keeps of a waiter that went away: its arrival."""

    arrived_at_s: float
    left_at_s: float
