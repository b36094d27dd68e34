"""Who gets the device: `may_begin` against a slow obvious twin, over every state that its holders can be in."""

import itertools

import pytest
from msgspec.structs import replace

from supervisor.core.gpu import Begin, Blocked, device_for, leases_on, may_begin, refusal, startable, wants_back
from supervisor.core.limits import GIB, MIB, Limits, WorkerSpec
from supervisor.core.model import (
    WITH_PROCESS,
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Fleet,
    Handover,
    Holding,
    JobId,
    Lease,
    LeaseId,
    LeaseState,
    Process,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
)

HOST = Device(id=DeviceId("host"), name="host", backend="host", total_bytes=16 * GIB)
HANDOVER = Handover(lease=LeaseId("l-9"), worker=WorkerName("yolo-0"), job=JobId("j-1"), leaving=(), need_bytes=8 * GIB, ordered_at_s=10.0)
COMING_BACK = replace(HANDOVER, worker=WorkerName("back-0"), job=None)
NEXT = [
    Worker(name=WorkerName("yolo-0"), model="yolo", state=WorkerState.DOWN, jobs=(JobId("j-1"),)),
    Worker(name=WorkerName("back-0"), model="sam", state=WorkerState.DOWN),
]
LEASES = [None, *LeaseState]


def worker(name: str, state: WorkerState, *, busy: bool = False) -> Worker:
    process = Process(spawned_at_s=0.0, pid=77) if state in WITH_PROCESS else None
    return Worker(name=WorkerName(name), model="sam", state=state, jobs=(JobId(f"of-{name}"),) if busy else (), process=process)


def lease(name: str, state: LeaseState, device: str = "host") -> Lease:
    return Lease(id=LeaseId(f"l-{name}"), device=DeviceId(device), worker=WorkerName(name), need_bytes=GIB, priority=10, state=state, since_s=0.0)


def fleet(*holders: tuple[Worker, LeaseState | None]) -> Fleet:
    leases = [lease(who.name, state) for who, state in holders if state is not None]
    return Fleet(
        workers={who.name: who for who in (*NEXT, *(who for who, _ in holders))}, leases={found.id: found for found in leases}, devices={HOST.id: HOST}
    )


def twin(fleet: Fleet, device: Device, *, weak: bool) -> bool:
    """Say it one rule after the other, for every worker that there is."""
    if device.state is not DeviceState.OK or device.handover == HANDOVER or (weak and device.handover == COMING_BACK):
        return False
    for who in fleet.workers.values():
        for held in fleet.leases.values():
            if held.worker != who.name or held.device != device.id:
                continue
            if held.state in {LeaseState.FREE, LeaseState.WAITING}:
                continue
            if who.state is WorkerState.UNKILLABLE or who.jobs:
                return False
            if who.state is WorkerState.BUSY:
                return False
            if weak and who.state in {WorkerState.STARTING, WorkerState.READY}:
                return False
    return True


HOLDERS = [(worker("a", state, busy=busy), held) for state in WorkerState for busy in (False, True) for held in LEASES]


@pytest.mark.parametrize(
    "device", [HOST, *(replace(HOST, state=state) for state in DeviceState), replace(HOST, handover=HANDOVER), replace(HOST, handover=COMING_BACK)], ids=str
)
def test_one_holder_in_every_state_leaves_or_blocks_as_the_twin_says(device: Device) -> None:
    for holder in HOLDERS:
        for weak in (False, True):
            now = fleet(holder)
            plan = may_begin(now, device, weak=weak)

            assert isinstance(plan, Begin) is twin(now, device, weak=weak), (holder, weak)
            if isinstance(plan, Blocked):
                assert plan.sentence


def test_two_holders_in_every_pair_of_states_leave_or_block_as_the_twin_says() -> None:
    others = [(worker("b", state, busy=busy), LeaseState.HELD) for state in WorkerState for busy in (False, True)]
    for one, other in itertools.product(HOLDERS, others):
        for weak in (False, True):
            now = fleet(one, other)

            assert isinstance(may_begin(now, HOST, weak=weak), Begin) is twin(now, HOST, weak=weak), (one, other, weak)


def test_a_holder_of_another_device_is_in_nobodys_way() -> None:
    busy = worker("a", WorkerState.BUSY, busy=True)
    elsewhere = lease("a", LeaseState.HELD, "cuda:1")
    now = Fleet(workers={busy.name: busy}, leases={elsewhere.id: elsewhere}, devices={HOST.id: HOST})

    assert may_begin(now, HOST, weak=False) == Begin(())


@pytest.mark.parametrize(
    ("who", "device", "words"),
    [
        (worker("sam-0", WorkerState.BUSY, busy=True), HOST, "sam-0 holds host and is busy with of-sam-0"),
        (worker("sam-0", WorkerState.BUSY), HOST, "sam-0 holds host and is busy"),
        (worker("sam-0", WorkerState.READY), HOST, "sam-0 holds host"),
        (worker("sam-0", WorkerState.UNKILLABLE), replace(HOST, state=DeviceState.QUARANTINED), "host is quarantined: sam-0 cannot be killed"),
        (worker("sam-0", WorkerState.READY), replace(HOST, state=DeviceState.LOST), "host is lost"),
        (worker("sam-0", WorkerState.READY), replace(HOST, handover=HANDOVER), "host is being handed to yolo-0"),
    ],
)
def test_who_is_in_the_way_is_named(who: Worker, device: Device, words: str) -> None:
    assert may_begin(fleet((who, LeaseState.HELD)), device, weak=True) == Blocked(words)


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize(("now_s", "due"), [(99.9, False), (100.0, True)])
def test_a_worker_may_start_when_it_is_down_or_its_pause_is_over(state: WorkerState, now_s: float, due: bool) -> None:
    who = replace(worker("a", state), retry_at_s=100.0)

    expected = state is WorkerState.DOWN or (due and state in {WorkerState.BACKOFF, WorkerState.QUARANTINED})

    assert startable(who, now_s) is expected


@pytest.mark.parametrize(
    ("resident", "wanted", "state", "back"),
    [
        (True, Wanted.UP, WorkerState.DOWN, True),
        (True, Wanted.DOWN, WorkerState.DOWN, False),
        (False, Wanted.UP, WorkerState.DOWN, False),
        (True, Wanted.UP, WorkerState.READY, False),
    ],
)
def test_only_a_resident_that_is_wanted_up_wants_back(resident: bool, wanted: Wanted, state: WorkerState, back: bool) -> None:
    limits = Limits(workers={"sam": WorkerSpec(command=("x",), resident=resident)})

    assert wants_back(replace(worker("a", state), wanted=wanted), limits, 0.0) is back


def test_the_smallest_device_that_can_ever_hold_the_need_is_chosen() -> None:
    devices = [replace(HOST, id=DeviceId(name), total_bytes=size * GIB) for name, size in (("c", 24), ("b", 16), ("a", 16), ("d", 8))]
    now = Fleet(devices={device.id: device for device in devices})

    for need in (1, 7, 8, 15, 16, 23, 24):
        fitting = sorted((device.total_bytes, device.id) for device in devices if device.total_bytes - 256 * MIB >= need * GIB)
        found = device_for(now, need * GIB, 256 * MIB)
        assert (found.id if found else None) == (fitting[0][1] if fitting else None)


def test_a_refusal_names_who_holds_what_and_since_when() -> None:
    sam = worker("sam-0", WorkerState.STOPPING)
    sample = DeviceSample(used_bytes=15 * GIB, free_bytes=GIB, holdings=(Holding(sam.name, 77, 14 * GIB), Holding(None, 4242, GIB)))

    words = refusal(fleet((sam, LeaseState.YIELDING)), replace(HOST, sample=sample), HANDOVER, 256 * MIB, 130.0)

    assert words == (
        "yolo-0 needs 8GiB + 256MiB margin on host, 1GiB of 16GiB free, not proved in 120 s; "
        "sam-0 (pid 77) holds 14GiB, stopping for 130 s; pid 4242, not ours, uses 1GiB"
    )


@pytest.mark.parametrize(("trouble", "words"), [("", "not read yet"), ("the probe hangs", "the probe hangs")])
def test_a_refusal_says_what_could_not_be_read(trouble: str, words: str) -> None:
    sam = worker("sam-0", WorkerState.DOWN)

    sentence = refusal(fleet((sam, LeaseState.COOLING)), replace(HOST, trouble=trouble), HANDOVER, 256 * MIB, 130.0)

    assert f"free memory unknown ({words})" in sentence
    assert "sam-0 holds ?, down for 130 s" in sentence


def test_free_and_waiting_leases_hold_nothing() -> None:
    now = fleet(*((worker(state, WorkerState.READY), state) for state in LeaseState))

    assert {held.state for held in leases_on(now, HOST)} == set(LeaseState) - {LeaseState.FREE, LeaseState.WAITING}
