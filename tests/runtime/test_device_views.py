"""Devices as people and programs read them: who waits in which order, and what is not as it should be."""

import pytest
from msgspec.structs import replace

from supervisor.core.limits import GIB, JobLimits, Limits, WorkerSpec
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Fleet,
    Holding,
    Job,
    JobId,
    Lease,
    LeaseId,
    LeaseState,
    Outside,
    Reason,
    Ticket,
    Waiter,
    Worker,
    WorkerName,
)
from supervisor.runtime.device_views import device_view
from supervisor.runtime.troubles import unwell

NOW = 1000.0
A, B = DeviceId("GPU-a"), DeviceId("GPU-b")
LIMITS = Limits(workers={"sam": WorkerSpec(command=("sam",), gpu_bytes=12 * GIB, serves=("sam.do",))}, jobs=JobLimits(age_step_s=60.0))
SAM = WorkerName("sam-0")
COOLS = Lease(id=LeaseId("l-1"), device=A, worker=SAM, need_bytes=12 * GIB, priority=10, state=LeaseState.COOLING, since_s=NOW - 130, fence=3)
LATE = Outside(ticket=Ticket("t-late"), name="late", pid=9)
STALE = Lease(
    id=LeaseId("l-2"),
    device=A,
    outside=LATE,
    need_bytes=0,
    priority=15,
    state=LeaseState.STALE,
    since_s=NOW - 60,
    fence=4,
    expires_at_s=NOW - 30,
    purpose="load",
)


def card(name: DeviceId, gib: int, **fields: object) -> Device:
    device = Device(id=name, name="a card", backend="nvml", total_bytes=gib * GIB, sample=DeviceSample(used_bytes=0, free_bytes=gib * GIB))
    return replace(device, state=DeviceState.OK, **fields)


def waits(name: str, *, priority: int = 10, only_on: DeviceId | None = None, waited_s: float = 5.0) -> Job:
    return Job(id=JobId(name), kind="sam.do", priority=priority, only_on=only_on, reason=Reason.WAITING_FOR_GPU, message="x", queued_at_s=NOW - waited_s)


def program(name: str, **fields: object) -> Waiter:
    waiter = Waiter(
        outside=Outside(ticket=Ticket(f"t-{name}"), name=name, pid=77),
        request="r",
        priority=15,
        need_bytes=GIB,
        arrived_at_s=NOW - 5,
        deadline_at_s=NOW + 60,
        timeout_s=65.0,
    )
    return replace(waiter, **fields)


def fleet(*devices: Device, jobs: tuple[Job, ...] = (), waiters: tuple[Waiter, ...] = (), leases: tuple[Lease, ...] = ()) -> Fleet:
    return Fleet(
        workers={SAM: Worker(name=SAM, model="sam", since_s=NOW - 130)},
        devices={device.id: device for device in devices},
        jobs={job.id: job for job in jobs},
        waiters={waiter.outside.ticket: waiter for waiter in waiters},
        leases={lease.id: lease for lease in leases},
    )


def line_of(now: Fleet, device: DeviceId) -> list[str]:
    view = device_view(now.devices[device], fleet=now, limits=LIMITS, now_s=NOW)
    return [waiter.job or waiter.owner for waiter in view.waiters]


def test_jobs_and_programs_that_wait_stand_in_the_order_of_their_turn() -> None:
    coming = Lease(id=LeaseId("l-9"), device=A, outside=LATE, need_bytes=GIB, priority=15, state=LeaseState.WAITING, since_s=NOW)
    now = fleet(
        card(A, 16),
        jobs=(waits("j-calm", priority=20), waits("j-mid")),
        waiters=(
            program("loader", purpose="load", priority=0, device=A),
            program("calm", priority=12),
            program("hot", priority=0),
            program("coming", lease=coming.id, priority=20),
        ),
        leases=(coming,),
    )

    assert line_of(now, A) == ["coming", "hot", "j-mid", "calm", "j-calm", "loader"]


def test_whoever_waits_is_shown_at_the_card_where_it_waits() -> None:
    now = fleet(card(A, 16), card(B, 24), jobs=(waits("j-b", only_on=B), waits("j-any")), waiters=(program("big", need_bytes=20 * GIB), program("b", device=B)))

    assert (line_of(now, A), line_of(now, B)) == (["j-any"], ["j-b", "b", "big"])


@pytest.mark.parametrize(
    ("device", "leases", "words"),
    [
        (card(A, 16), (), []),
        (replace(card(A, 16), state=DeviceState.LOST, trouble="it fell off the bus"), (), ["GPU-a is lost: it fell off the bus"]),
        (card(A, 16), (STALE,), ["late (pid 9) holds GPU-a to load a model, and does not renew its lease, 30 s over its time"]),
        (
            card(A, 16, sample=DeviceSample(used_bytes=12 * GIB, free_bytes=4 * GIB, holdings=(Holding(SAM, 77, 12 * GIB),))),
            (COOLS,),
            ["the memory of sam-0 on GPU-a is not back 130 s after its end: sam-0 (pid 77) holds 12GiB, down for 130 s"],
        ),
        (card(A, 16), (replace(COOLS, since_s=NOW - 100),), []),
        (
            card(A, 16, intruders=(Holding(None, 42, GIB, name="python3"),)),
            (),
            ["GPU-a is contaminated: pid 42 (python3) uses 1GiB without a lease; it is waited for, not ended"],
        ),
    ],
    ids=["all is well", "lost", "a stale lease for loading", "memory that is late", "memory that is not late yet", "an intruder"],
)
def test_what_is_not_as_it_should_be_with_a_card_is_told_by_the_card_and_by_the_whole(device: Device, leases: tuple[Lease, ...], words: list[str]) -> None:
    now = fleet(device, leases=leases)

    assert device_view(device, fleet=now, limits=LIMITS, now_s=NOW).unwell == words
    assert unwell(now, LIMITS, NOW) == words
