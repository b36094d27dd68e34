"""Which devices there are: NVIDIA cards where their driver answers, the host's RAM standing for one, or none. Chosen once, at the start."""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from supervisor.adapters.host_device import HostDevice, host_device
from supervisor.adapters.nvml_device import NO_CARD, NODES, NvmlDevice
from supervisor.adapters.processes import LocalProcesses
from supervisor.core.events import DeviceFaulted, DevicesFound
from supervisor.core.limits import GpuLimits
from supervisor.core.model import Device, DeviceId, DeviceState, WorkerName
from supervisor.core.sight import EVENTS
from supervisor.runtime import ports
from supervisor.runtime.loop import Loop

_LIBRARY: Final = "libnvidia-ml.so.1"
_NODES_AT: Final = "NVIDIA_NODES"
"""In the environment: where the cards' nodes are, for a container that has them elsewhere than at /dev/nvidia0, /dev/nvidia1 ..."""
_CACHE: Final = Path("/etc/ld.so.cache")
_FOLDERS: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


class Devices(Struct, frozen=True, kw_only=True):
    """port: what reads them; first: as they are at the start; notes: what is to be said of them then, as (event, reason)."""

    port: ports.Device
    first: tuple[Device, ...]
    notes: tuple[tuple[str, str], ...] = ()


async def open_devices(
    stack: AsyncExitStack,
    limits: GpuLimits,
    *,
    loop: Callable[[], Loop],
    environ: Mapping[str, str],
    held: Collection[DeviceId],
    processes: LocalProcesses,
    post: Callable[[DevicesFound | DeviceFaulted], None],
) -> Devices:
    """Return the devices of gpu.backend; the stack ends what reads them. held: a card of these is kept, whether it answers or not.

    auto: the cards where one answers, else the host, for as long as this supervisor runs; that a driver is there and shows no card is said. For a driver
    that hangs nothing stands in: it has a card, as a rule, and what the host's RAM would let begin is not what that card could hold.
    """
    backend = limits.backend
    host = HostDevice(processes, budget_bytes=lambda: loop().limits.gpu.host_budget_bytes, holds=partial(_holds, loop), pid_of=processes.pid_of)
    if backend == "none":
        return Devices(port=host, first=())
    notes: tuple[tuple[str, str], ...] = ()
    if backend == "nvml" or (backend == "auto" and _has_driver(environ)):
        nvml = NvmlDevice(environ, owners=processes.owners, post=post, nodes=environ.get(_NODES_AT, NODES))
        cards = await nvml.devices(held)
        stand_in = next((card for card in cards if card.id == NO_CARD), None)
        if backend == "nvml" or stand_in is None or stand_in.state is DeviceState.UNRESPONSIVE:
            stack.push_async_callback(nvml.close)
            return Devices(port=nvml, first=cards, notes=tuple(_note(card) for card in cards))
        await nvml.close()
        instead = 'gpu.backend = "auto" takes the host\'s RAM for a card until Warden is started again; "nvml" waits for the card'
        notes = (("proof_missing", f"a driver is there and shows no card: {stand_in.trouble}. {instead}"),)
    return Devices(port=host, first=(host_device(limits.host_budget_bytes),), notes=notes)


def _holds(loop: Callable[[], Loop], worker: WorkerName) -> bool:
    """Return whether the worker asks for a device at all."""
    found = loop().fleet.workers.get(worker)
    return found is not None and loop().limits.workers[found.model].gpu_bytes > 0


def _note(card: Device) -> tuple[str, str]:
    if card.state is DeviceState.OK:
        return "device_found", f"{card.id}, {card.name}; proof: {card.proof}"
    return EVENTS[card.state], f"{card.id}: {card.trouble}"


def _has_driver(environ: Mapping[str, str]) -> bool:
    """Return whether the loader would find the driver's library. On a machine without one no process is started to find that out."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    try:
        cached = _LIBRARY.encode() in _CACHE.read_bytes()
    except OSError:
        cached = False
    return cached or any((Path(folder) / _LIBRARY).exists() for folder in (*folders, *_FOLDERS))
