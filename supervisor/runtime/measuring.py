"""Readings that were ordered: of trees before and after a job, of devices, of the machine. Each comes back as an event."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from supervisor.core import actions as act
from supervisor.core.events import AnyEvent, DeviceMeasured, LevelMeasured, MemoryMeasured, OutsidersNamed, ReleaseMeasured
from supervisor.core.model import DeviceId, DeviceSample
from supervisor.runtime.ports import Device, DeviceError, Room
from supervisor.runtime.process_ports import Processes

RELEASE_MAX_S: Final = 10.0
_RELEASE_POLLS_S: Final = (0.0, 0.05, 0.1, 0.25, 0.5)
_WATCH_PAUSE_S: Final = 0.02
"""With the second reading of a proof, 0.1 s later, memory is seen to be back within 150 ms."""
_WATCH_REST: Final = 9.0
"""Times as long as a reading takes nothing is read: a tenth of the time at most, however slow the driver is."""
_COSTS_KEPT: Final = 3
"""The quickest of so many readings says what one takes: on a busy machine one took 0.3 s that takes a millisecond, and nobody looked for the next 2.6 s."""
_RISE_BYTES: Final = 32 * 2**20
"""What a process that goes gives back is more, as a rule; what is less is seen when the pause is over."""


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
        self._last: dict[DeviceId, DeviceSample | None] = {}  # as the core knows them; None for one that could not be read
        self._watches: dict[DeviceId, act.MeasureDevice] = {}
        self._took_s: defaultdict[DeviceId, deque[float]] = defaultdict(lambda: deque(maxlen=_COSTS_KEPT))

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
        """Read a device after a pause, or watch it for so long; a later order to watch it ends an earlier one."""
        if action.watch is None:
            await asyncio.sleep(action.after_s)
            self._tell(await self._read(action))
            return
        self._watches[action.device] = action
        end_s, before = time.monotonic() + action.after_s, self._last.get(action.device)
        while self._watches.get(action.device) is action:
            pause_s = max(_WATCH_PAUSE_S, _WATCH_REST * min(self._took_s[action.device], default=0.0))
            await asyncio.sleep(min(pause_s, end_s - time.monotonic()))
            in_time = time.monotonic() < end_s
            seen = await self._read(action)
            if not in_time or _better(seen.sample, before):
                self._tell(seen)
                return

    def _tell(self, seen: DeviceMeasured) -> None:
        self._last[seen.device] = seen.sample
        self._post(seen)

    async def _read(self, action: act.MeasureDevice) -> DeviceMeasured:
        began_s = time.monotonic()
        try:
            sample = await self._device.measure(action.device)
        except DeviceError as error:
            return DeviceMeasured(device=action.device, sample=None, error=str(error), state=error.state, watch=action.watch)
        finally:
            self._took_s[action.device].append(time.monotonic() - began_s)
        return DeviceMeasured(device=action.device, sample=sample, watch=action.watch)

    async def memory(self) -> None:
        """Read every worker's tree, the machine and the state folder's disk."""
        used = await self._processes.memory()
        room, disk_free = self._room(), self._disk_free_bytes()
        self._post(MemoryMeasured(workers=used, available_bytes=room.available_bytes, total_bytes=room.total_bytes, disk_free_bytes=disk_free))

    async def outsiders(self) -> None:
        """See who has most memory of those that are not ours."""
        self._post(OutsidersNamed(names=tuple(await self._processes.outsiders())))


def _better(sample: DeviceSample | None, before: DeviceSample | None) -> bool:
    """Return whether a reading shows that something came back since another: memory, a process that is listed no more, or the device itself."""
    if sample is None or before is None:
        return sample is not None
    return sample.free_bytes >= before.free_bytes + _RISE_BYTES or len(sample.holdings) < len(before.holdings)
