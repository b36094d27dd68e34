"""A simulated device: what it shows of each tree, of strangers, and that it cannot always be read."""

from dataclasses import dataclass, field
from typing import Final

from supervisor.core.events import DeviceMeasured
from supervisor.core.model import DeviceId, DeviceSample, DeviceState, Holding, WorkerName

HOST: Final = DeviceId("host")


@dataclass
class SimulatedDevice:
    """A budget of RAM that stands for a card."""

    shown: dict[tuple[WorkerName, int], int] = field(default_factory=dict)  # what it shows for each tree, in bytes
    outside: dict[int, int] = field(default_factory=dict)  # and for each program outside Warden, by its pid
    stranger_bytes: int = 0
    unreadable: bool = False
    state: DeviceState | None = None  # what an unreadable one says of itself
    stranger: str = ""  # how the process is called that is not ours
    stranger_shown: bool = True  # and whether its size is

    def measure(self, total_bytes: int, *, watch: float | None = None) -> DeviceMeasured:
        """Return one reading, or that there was none. watch: as it was ordered."""
        if self.unreadable:
            error = f"the card is {self.state}" if self.state else "the probe gave no answer within 2 s"
            return DeviceMeasured(device=HOST, sample=None, error=error, state=self.state, watch=watch)
        used = sum(self.shown.values()) + sum(self.outside.values()) + self.stranger_bytes
        holdings = tuple(Holding(name, 100 + generation, size) for (name, generation), size in self.shown.items())
        holdings += tuple(Holding(None, pid, size, "program") for pid, size in self.outside.items())
        if self.stranger_bytes:
            holdings += (Holding(None, 4242, self.stranger_bytes if self.stranger_shown else None, self.stranger),)
        return DeviceMeasured(device=HOST, sample=DeviceSample(used_bytes=used, free_bytes=total_bytes - used, holdings=holdings), watch=watch)
