"""The host's RAM standing for a card, on machines without one: a budget, of which the holders' trees use their PSS. Reserves nothing."""

from collections.abc import Callable, Mapping

from supervisor.core.model import Device, DeviceId, DeviceSample, Holding, WorkerName
from supervisor.runtime.ports import DeviceError
from supervisor.runtime.process_ports import Processes

HOST: DeviceId = DeviceId("host")


def host_device(budget_bytes: int) -> Device:
    """Return the device as the fleet knows it."""
    return Device(id=HOST, name="host RAM", backend="host", total_bytes=budget_bytes, proof="PSS of the holders' process trees")


class HostDevice:
    """Measures the budget. holders names the workers whose memory counts: those that ask for a device at all."""

    def __init__(
        self, processes: Processes, *, budget_bytes: Callable[[], int], holds: Callable[[WorkerName], bool], pid_of: Callable[[WorkerName], int]
    ) -> None:
        """Measure the trees of the workers that hold a device at all through `processes`."""
        self._processes = processes
        self._budget_bytes = budget_bytes
        self._holds = holds
        self._pid_of = pid_of

    async def used_by(self, worker: WorkerName, device: DeviceId) -> int | None:  # noqa: ARG002  # there is one device
        """Return the PSS of the worker's tree."""
        return await self._processes.memory_of(worker)

    async def measure(self, device: DeviceId) -> DeviceSample:
        """Return one reading. Raises DeviceError for a device that is not this one."""
        if device != HOST:
            raise DeviceError(f"there is no device {device}, only {HOST}")
        used: Mapping[WorkerName, int] = await self._processes.memory()
        holdings = tuple(Holding(name, self._pid_of(name), size) for name, size in used.items() if self._holds(name) and size)
        total = sum(holding.used_bytes or 0 for holding in holdings)
        return DeviceSample(used_bytes=total, free_bytes=max(0, self._budget_bytes() - total), holdings=holdings, others=False)
