"""A device that is watched: it is read over and over, and what comes back is told at once; what does not is told when the pause is over."""

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from supervisor.core.actions import MeasureDevice
from supervisor.core.events import AnyEvent, DeviceMeasured
from supervisor.core.limits import GIB, MIB
from supervisor.core.model import DeviceId, DeviceSample, DeviceState, Holding, WorkerName
from supervisor.runtime.measuring import Measures
from supervisor.runtime.ports import DeviceError, Room

pytestmark = pytest.mark.asyncio

CARD = DeviceId("GPU-1")
AN_HOUR_S = 3600.0
SAM = Holding(WorkerName("sam-0"), 77, 14 * GIB)
STRANGER = Holding(None, 78, MIB)


def sample(free_bytes: int, *holdings: Holding) -> DeviceSample:
    return DeviceSample(used_bytes=15 * GIB - free_bytes, free_bytes=free_bytes, holdings=holdings)


class Scripted:
    """A device of which each reading is given, the last for ever. took_s: how long the driver takes."""

    def __init__(self, readings: Iterable[DeviceSample | DeviceError], *, took_s: float = 0.0) -> None:
        self.readings = list(readings)
        self.took_s = took_s
        self.began_s: list[float] = []
        self.asked = asyncio.Event()

    async def measure(self, device: DeviceId) -> DeviceSample:  # noqa: ARG002  # there is one
        self.began_s.append(time.monotonic())
        self.asked.set()
        await asyncio.sleep(self.took_s)  # noqa: TID251  # it stands for the driver's own time
        found = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(found, DeviceError):
            raise found
        return found

    async def used_by(self, worker: WorkerName, device: DeviceId) -> int | None:
        raise AssertionError(f"nobody asked what {worker} has of {device}")


class Nobody:
    """Processes of which none is read here."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        raise AssertionError(f"nobody asked for {name}")


def measures(device: Scripted, told: list[AnyEvent]) -> Measures:
    return Measures(Nobody(), device, room=lambda: Room(0, 0), disk_free_bytes=lambda: None, post=told.append)  # type: ignore[arg-type]  # it has none


def watch(after_s: float = AN_HOUR_S, *, number: float = 1.0) -> MeasureDevice:
    return MeasureDevice(device=CARD, after_s=after_s, watch=number)


@pytest.mark.parametrize(
    ("before", "meanwhile", "then"),
    [
        pytest.param(sample(GIB, SAM), [sample(GIB, SAM)] * 3, sample(15 * GIB, SAM), id="memory comes back"),
        pytest.param(sample(9 * GIB, SAM, STRANGER), [sample(9 * GIB, SAM, STRANGER)] * 3, sample(9 * GIB, STRANGER), id="somebody is listed no more"),
        pytest.param(sample(GIB), [sample(GIB + 16 * MIB)] * 3, sample(GIB + 32 * MIB), id="little by little"),
        pytest.param(DeviceError("away"), [DeviceError("away", DeviceState.LOST)] * 3, sample(GIB, SAM), id="the device comes back"),
        pytest.param(sample(GIB, SAM), [DeviceError("away")] * 2 + [sample(GIB, SAM)] * 2, sample(2 * GIB, SAM), id="a failure in between"),
    ],
)
async def test_what_comes_back_is_told_at_once(before: DeviceSample | DeviceError, meanwhile: list[DeviceSample | DeviceError], then: DeviceSample) -> None:
    told: list[AnyEvent] = []
    device = Scripted([before, *meanwhile, then])
    reads = measures(device, told)
    await reads.device(MeasureDevice(device=CARD))

    await reads.device(watch(number=7.5))

    assert told[1:] == [DeviceMeasured(device=CARD, sample=then, watch=7.5)]
    assert len(device.began_s) == len(meanwhile) + 2


async def test_what_does_not_come_back_is_told_when_the_pause_is_over() -> None:
    told: list[AnyEvent] = []
    device = Scripted([sample(GIB, SAM)])
    reads = measures(device, told)
    await reads.device(MeasureDevice(device=CARD))

    began_s = time.monotonic()
    await reads.device(watch(0.1))

    assert told[1:] == [DeviceMeasured(device=CARD, sample=sample(GIB, SAM), watch=1.0)]
    assert time.monotonic() - began_s >= 0.1


async def test_a_later_watch_ends_an_earlier_one_which_says_nothing() -> None:
    told: list[AnyEvent] = []
    device = Scripted([sample(GIB, SAM)])
    reads = measures(device, told)
    await reads.device(MeasureDevice(device=CARD))
    device.asked.clear()
    earlier = asyncio.create_task(reads.device(watch(number=1.0)))
    await asyncio.wait_for(device.asked.wait(), 30)

    later = asyncio.create_task(reads.device(watch(number=2.0)))
    await asyncio.wait_for(earlier, 30)
    device.readings = [sample(15 * GIB)]
    await asyncio.wait_for(later, 30)

    assert [event.watch for event in told[1:] if isinstance(event, DeviceMeasured)] == [2.0]


@pytest.mark.slow
async def test_one_reading_that_was_held_up_does_not_make_the_next_wait() -> None:
    told: list[AnyEvent] = []
    device = Scripted([sample(GIB, SAM)])
    reads = measures(device, told)
    await reads.device(MeasureDevice(device=CARD))
    await reads.device(MeasureDevice(device=CARD))
    device.took_s = 1.5
    await reads.device(MeasureDevice(device=CARD))
    device.took_s, device.readings = 0.0, [sample(GIB, SAM), sample(15 * GIB)]

    await asyncio.wait_for(reads.device(watch()), 10.0)  # after 1.5 s nothing would be read for 13.5

    assert told[3:] == [DeviceMeasured(device=CARD, sample=sample(15 * GIB), watch=1.0)]


async def test_a_slow_driver_is_left_alone_for_most_of_the_time() -> None:
    told: list[AnyEvent] = []
    device = Scripted([sample(GIB, SAM)], took_s=0.02)
    reads = measures(device, told)
    await reads.device(MeasureDevice(device=CARD))
    device.readings = [*[sample(GIB, SAM)] * 4, sample(15 * GIB)]

    await asyncio.wait_for(reads.device(watch()), 60.0)

    began_s = device.began_s[1:]
    assert len(began_s) == 5
    pauses = [later - earlier for earlier, later in pairwise(began_s)]
    assert min(pauses) >= 0.2, "after 20 ms of reading nothing is read for 180"
