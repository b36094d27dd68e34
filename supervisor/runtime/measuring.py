"""Readings that were ordered: of trees before and after a job, of devices, of the machine. Each comes back as an event."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from supervisor.core import actions as act
from supervisor.core.events import AnyEvent, DeviceMeasured, LevelMeasured, MemoryMeasured, OutsidersNamed, ReleaseMeasured
from supervisor.core.model import DeviceId
from supervisor.runtime.ports import Device, DeviceError, Processes, Room

RELEASE_MAX_S: Final = 10.0
_RELEASE_POLLS_S: Final = (0.0, 0.05, 0.1, 0.25, 0.5)


class Measures:
    """Reads through the ports."""

    def __init__(
        self,
        processes: Processes,
        device: Device,
        *,
        room: Callable[[], Room],
        disk_free_bytes: Callable[[], int | None],
        post: Callable[[AnyEvent], None],
    ) -> None:
        """Read through these."""
        self._processes = processes
        self._device = device
        self._room = room
        self._disk_free_bytes = disk_free_bytes
        self._post = post

    async def level(self, action: act.SendJob | act.SendCancel, moment: str, device: DeviceId) -> None:
        """Read what a worker has of its device before a job, or as its cancel comes. What cannot be read is not compared with later."""
        used = await self._device.used_by(action.worker, device)
        if used is not None:
            self._post(LevelMeasured(worker=action.worker, generation=action.generation, job=action.job, moment=moment, used_bytes=used))

    async def release(self, action: act.MeasureRelease, device: DeviceId | None) -> None:
        """Read what a worker has of its device until it is back at the level before the job, or is not in time."""
        end_s = time.monotonic() + RELEASE_MAX_S
        polls = deque(_RELEASE_POLLS_S)
        while True:
            await asyncio.sleep(polls.popleft() if len(polls) > 1 else polls[0])
            used = await self._device.used_by(action.worker, device) if device is not None else None
            proved = used is not None and used <= action.at_most_bytes
            if proved or time.monotonic() >= end_s:
                self._post(ReleaseMeasured(worker=action.worker, generation=action.generation, job=action.job, used_bytes=used, proved=proved))
                return

    async def device(self, action: act.MeasureDevice) -> None:
        """Read a device after a pause."""
        await asyncio.sleep(action.after_s)
        try:
            sample = await self._device.measure(action.device)
        except DeviceError as error:
            self._post(DeviceMeasured(device=action.device, sample=None, error=str(error), state=error.state))
        else:
            self._post(DeviceMeasured(device=action.device, sample=sample))

    async def memory(self) -> None:
        """Read every worker's tree, the machine and the state folder's disk."""
        used = await self._processes.memory()
        room, disk_free = self._room(), self._disk_free_bytes()
        self._post(MemoryMeasured(workers=used, available_bytes=room.available_bytes, total_bytes=room.total_bytes, disk_free_bytes=disk_free))

    async def outsiders(self) -> None:
        """See who has most memory of those that are not ours."""
        self._post(OutsidersNamed(names=tuple(await self._processes.outsiders())))
