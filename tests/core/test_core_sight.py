"""What readings make of a device, and who is said to use it."""

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Announce, SaveJob
from supervisor.core.decide import decide
from supervisor.core.events import Adopted, DeviceFaulted, DeviceMeasured, DevicesFound, ReleaseMeasured, SupervisorStarted
from supervisor.core.gpu import Blocked, device_for, held_by, may_begin, no_device
from supervisor.core.limits import GIB, MIB, Limits, WorkerSpec
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Fleet,
    Handover,
    Holding,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Process,
    Worker,
    WorkerName,
    WorkerState,
)

CARD = Device(id=DeviceId("GPU-1"), name="a card", backend="nvml", total_bytes=15 * GIB)
STAND_IN = Device(id=DeviceId("nvml"), name="no card", backend="nvml", total_bytes=0, state=DeviceState.UNVERIFIABLE, trouble="no driver; install one")
FREE = DeviceSample(used_bytes=0, free_bytes=15 * GIB)
SAM = WorkerName("sam-0")


def fleet(*devices: Device, lease: LeaseState | None = None, state: WorkerState = WorkerState.DOWN) -> Fleet:
    process = Process(spawned_at_s=0.0, pid=77) if state is WorkerState.READY else None
    sam = Worker(name=SAM, model="sam", state=state, process=process)
    held = Lease(id=LeaseId("l-1"), device=devices[0].id, worker=SAM, need_bytes=GIB, priority=10, state=lease or LeaseState.HELD, since_s=0.0)
    return Fleet(workers={SAM: sam}, devices={device.id: device for device in devices}, leases={held.id: held} if lease else {})


def nobody() -> Limits:
    return Limits(workers={"sam": WorkerSpec(command=("sam",), gpu_bytes=14 * GIB, resident=False, serves=("sam.segment",))})


def after(now: Fleet, event: DeviceMeasured | DevicesFound) -> tuple[Fleet, list[str]]:
    decision = decide(now, event, nobody(), 10.0)
    return decision.fleet, [action.event for action in decision.actions if hasattr(action, "event")]


def test_who_has_the_node_open_and_is_not_listed_is_named_in_a_refusal() -> None:
    openers = (Holding(None, 4242, None, "python"), Holding(SAM, 77, None), Holding(None, 4243, None))
    sample = DeviceSample(used_bytes=9 * GIB, free_bytes=6 * GIB, node="/dev/nvidia0", openers=openers)

    words = held_by(fleet(CARD), replace(CARD, sample=sample), 0.0)

    assert words == [
        "9GiB are used by no process that is listed",
        "pid 4242 (python), not ours, has /dev/nvidia0 open and is not listed",
        "pid 77, of sam-0, has /dev/nvidia0 open and is not listed",
        "pid 4243, not ours, has /dev/nvidia0 open and is not listed",
    ]


@pytest.mark.parametrize(("worker", "freed"), [(SAM, False), (None, True)])
def test_a_lease_cools_for_as_long_as_its_workers_processes_have_the_node_open(worker: WorkerName | None, freed: bool) -> None:
    sample = DeviceSample(used_bytes=GIB, free_bytes=14 * GIB, openers=(Holding(worker, 77, None),))

    now, told = after(fleet(CARD, lease=LeaseState.COOLING), DeviceMeasured(device=CARD.id, sample=sample))

    assert (not now.leases, "lease_released" in told) == (freed, freed)


def test_a_card_that_was_held_and_answers_at_last_is_known_by_its_name_and_size() -> None:
    held = Device(id=CARD.id, name="a card that is not listed", backend="nvml", total_bytes=0, state=DeviceState.UNRESPONSIVE)

    now, told = after(fleet(held, STAND_IN), DevicesFound(devices=(CARD,), instead_of=STAND_IN.id))

    assert [(one.id, one.name, one.total_bytes, one.state) for one in now.devices.values()] == [
        (CARD.id, CARD.name, CARD.total_bytes, DeviceState.UNRESPONSIVE)
    ]
    assert told == []


@pytest.mark.parametrize(
    ("readings", "state"),
    [
        ([None], DeviceState.LOST),
        ([None, DeviceState.UNRESPONSIVE, None], DeviceState.UNRESPONSIVE),
        ([DeviceState.LOST, None], DeviceState.OK),
        ([DeviceState.UNVERIFIABLE, None], DeviceState.OK),
    ],
    ids=["a good reading", "a driver that hung meanwhile", "gone and back", "driver loaded anew"],
)
def test_what_brings_a_card_back_that_reported_a_fault_of_its_own(readings: list[DeviceState | None], state: DeviceState) -> None:
    now = decide(fleet(CARD), DeviceFaulted(device=CARD.id, xid=48), nobody(), 10.0).fleet
    for one in readings:
        sample = None if one else FREE
        now, _ = after(now, DeviceMeasured(device=CARD.id, sample=sample, error="it failed" if one else "", state=one))

    card = now.devices[CARD.id]
    assert card.state is state
    assert ("Xid 48" in card.trouble, bool(card.fault)) == (state is not DeviceState.OK,) * 2


def test_a_fault_of_a_device_that_is_not_there_is_nothing() -> None:
    assert decide(fleet(CARD), DeviceFaulted(device=DeviceId("GPU-2"), xid=79), nobody(), 10.0).actions == ()


def test_a_fault_that_only_a_lease_without_a_process_can_be_blamed_for_condemns_nobody() -> None:
    decision = decide(fleet(CARD, lease=LeaseState.HELD), DeviceFaulted(device=CARD.id, xid=31), nobody(), 10.0)

    (said,) = [action for action in decision.actions if isinstance(action, Announce)]
    assert said.reason.endswith("on it: sam-0")
    assert decision.fleet.devices[CARD.id].xids == {31: 1}


@pytest.mark.parametrize("state", [DeviceState.LOST, DeviceState.UNVERIFIABLE, DeviceState.UNRESPONSIVE])
def test_a_failed_reading_says_what_the_device_is_and_is_told_once(state: DeviceState) -> None:
    failed = DeviceMeasured(device=CARD.id, sample=None, error="it failed; do this", state=state)

    first, told = after(fleet(CARD), failed)
    second, again = after(first, failed)

    assert (first.devices[CARD.id].state, first.devices[CARD.id].trouble, told) == (state, "it failed; do this", [f"device_{state}"])
    assert (second.devices[CARD.id].state, again) == (state, [])


def test_a_failed_reading_that_may_be_over_with_the_next_changes_no_state() -> None:
    now, told = after(fleet(CARD), DeviceMeasured(device=CARD.id, sample=None, error="no answer within 2 s"))

    assert (now.devices[CARD.id].state, now.devices[CARD.id].trouble, told) == (DeviceState.OK, "no answer within 2 s", [])


def test_a_good_reading_brings_a_device_back() -> None:
    lost = replace(CARD, state=DeviceState.LOST, trouble="fallen off")

    now, told = after(fleet(lost), DeviceMeasured(device=CARD.id, sample=FREE))

    assert (now.devices[CARD.id].state, now.devices[CARD.id].trouble, told) == (DeviceState.OK, "", ["device_back"])


@pytest.mark.parametrize("event", [DeviceMeasured(device=CARD.id, sample=FREE), DeviceMeasured(device=CARD.id, sample=None, error="x", state=DeviceState.LOST)])
def test_no_reading_takes_a_device_out_of_quarantine(event: DeviceMeasured) -> None:
    now, told = after(fleet(replace(CARD, state=DeviceState.QUARANTINED)), event)

    assert (now.devices[CARD.id].state, told) == (DeviceState.QUARANTINED, [])


def test_a_reading_tells_the_size_and_the_proof_and_another_keeps_them() -> None:
    unknown = replace(CARD, total_bytes=0)
    told = replace(FREE, total_bytes=15 * GIB, proof="by pid")

    first, _ = after(fleet(unknown), DeviceMeasured(device=CARD.id, sample=told))
    second, _ = after(first, DeviceMeasured(device=CARD.id, sample=FREE))

    assert [(now.devices[CARD.id].total_bytes, now.devices[CARD.id].proof) for now in (first, second)] == [(15 * GIB, "by pid")] * 2


@pytest.mark.parametrize(("watch", "back_at_s"), [(12.0, 10.0), (11.0, None), (None, None)])
def test_a_reading_that_comes_before_its_time_counts_if_it_is_that_of_the_look_under_way(watch: float | None, back_at_s: float | None) -> None:
    handover = Handover(lease=LeaseId("l-2"), worker=SAM, leaving=(), need_bytes=GIB, ordered_at_s=0.0, gone_at_s=1.0)
    awaited = fleet(replace(CARD, handover=handover, look_at_s=12.0))

    now, _ = after(awaited, DeviceMeasured(device=CARD.id, sample=FREE, watch=watch))
    then = now.devices[CARD.id].handover

    assert then is not None
    assert then.back_at_s == back_at_s


@pytest.mark.parametrize(("used_bytes", "cools"), [(None, True), (GIB, True), (0, False)])
def test_a_lease_cools_for_as_long_as_its_worker_is_listed_whatever_its_size(used_bytes: int | None, cools: bool) -> None:
    sample = replace(FREE, holdings=(Holding(SAM, 77, used_bytes),))

    now, _ = after(fleet(CARD, lease=LeaseState.COOLING), DeviceMeasured(device=CARD.id, sample=sample))

    assert bool(now.leases) is cools


def test_devices_that_answer_by_now_take_the_place_of_what_stood_for_them() -> None:
    now, told = after(fleet(STAND_IN), DevicesFound(devices=(CARD,), instead_of=STAND_IN.id))

    assert (list(now.devices), told) == ([CARD.id], ["device_found"])


def test_what_stands_for_a_device_stays_while_somebody_has_a_lease_on_it() -> None:
    found = DevicesFound(devices=(CARD,), instead_of=STAND_IN.id)

    first, _ = after(fleet(STAND_IN, lease=LeaseState.HELD, state=WorkerState.READY), found)
    second, told = after(first, found)

    assert set(first.devices) == {STAND_IN.id, CARD.id}
    assert (set(second.devices), told) == ({STAND_IN.id, CARD.id}, [])


def test_nobody_is_sent_away_for_a_device_that_cannot_be_read_just_now() -> None:
    unread = replace(CARD, trouble="no answer within 2 s")

    plan = may_begin(fleet(unread), unread, weak=False)

    assert plan == Blocked("GPU-1 cannot be read just now: no answer within 2 s")


def test_a_device_that_works_goes_before_a_smaller_one_that_does_not() -> None:
    lost = replace(CARD, id=DeviceId("GPU-0"), total_bytes=10 * GIB, state=DeviceState.LOST)

    assert device_for(fleet(lost, CARD), 8 * GIB, 256 * MIB) == CARD
    assert device_for(fleet(lost), 8 * GIB, 256 * MIB) == lost


@pytest.mark.parametrize(
    ("devices", "words"),
    [((CARD,), "no device is large enough"), ((), "no device is large enough"), ((STAND_IN,), "nvml is unverifiable: no driver; install one")],
)
def test_a_job_that_no_device_can_take_hears_why(devices: tuple[Device, ...], words: str) -> None:
    assert no_device(Fleet(devices={device.id: device for device in devices})) == words


def test_who_uses_a_device_is_named_as_far_as_it_is_known() -> None:
    holdings = (Holding(SAM, 77, None), Holding(WorkerName("old-0"), 78, GIB), Holding(None, 4242, GIB, "python3"), Holding(None, 4243, None))
    device = replace(CARD, sample=DeviceSample(used_bytes=9 * GIB, free_bytes=6 * GIB, holdings=holdings))

    assert held_by(fleet(device, lease=LeaseState.COOLING), device, 5.0) == [
        "sam-0 (pid 77) holds an unknown size, down for 5 s",
        "old-0 (pid 78) uses 1GiB without a lease",
        "pid 4242 (python3), not ours, uses 1GiB",
        "pid 4243, not ours, uses an unknown size",
    ]


def test_memory_of_no_process_is_named_and_so_is_a_pid_that_may_be_anybodys() -> None:
    sample = DeviceSample(used_bytes=9 * GIB, free_bytes=6 * GIB, holdings=(Holding(None, 4242, GIB),), by_pid=False)
    device = replace(CARD, sample=sample)

    assert held_by(fleet(device), device, 5.0) == [
        "pid 4242, as the driver counts, which may be one of ours, uses 1GiB",
        "8GiB are used by no process that is listed",
    ]


@pytest.mark.parametrize(("given", "device"), [("GPU-2", "GPU-2"), (None, "GPU-1"), ("GPU-of-yesterday", "GPU-1")])
def test_a_worker_that_is_taken_back_has_the_device_that_it_was_born_with(given: str | None, device: str) -> None:
    other = replace(CARD, id=DeviceId("GPU-2"))
    found = Adopted(worker=SAM, generation=3, pid=77, age_s=60.0, device=DeviceId(given) if given else None)

    now = decide(fleet(CARD, other), SupervisorStarted(wall_s=0.0, adopted=(found,)), nobody(), 10.0).fleet

    assert [lease.device for lease in now.leases.values()] == [device]


def test_a_release_that_cannot_be_read_is_not_said_to_be_done() -> None:
    job = Job(id=JobId("j-1"), kind="sam.segment", status=JobStatus.CANCELLING, worker=SAM, level_bytes=GIB, peak_bytes=3 * GIB, attempt=1)
    sam = Worker(name=SAM, model="sam", state=WorkerState.BUSY, generation=1, process=Process(spawned_at_s=0.0, pid=77), jobs=(job.id,))
    unread = ReleaseMeasured(worker=SAM, generation=1, job=job.id, used_bytes=None, proved=False)

    now = decide(Fleet(workers={SAM: sam}, jobs={job.id: job}), unread, nobody(), 10.0)

    (saved,) = [action.job for action in now.actions if isinstance(action, SaveJob)]
    assert (saved.status, saved.receipt.freed_bytes if saved.receipt else None) == (JobStatus.CANCELLED, 0)
    assert "what is still held cannot be read" in saved.message
    assert now.fleet.workers[SAM].stop is not None, "its process is ended, to give it back"


def test_nothing_is_ordered_on_a_device_that_is_not_there() -> None:
    now, told = after(fleet(CARD), DeviceMeasured(device=DeviceId("GPU-9"), sample=FREE))

    assert (set(now.devices), told) == ({CARD.id}, [])
