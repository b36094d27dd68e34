"""Holders that live together on a device: who leaves for a newcomer, against a brute-force twin, and what is booked, promised and learned."""

import itertools
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core import peaks, sharing
from supervisor.core.actions import Announce
from supervisor.core.budget import HEADROOM_BYTES, NONE_LOST, Share, learned_bytes, leavers, raised_bytes
from supervisor.core.gpu import Begin, Blocked, may_begin
from supervisor.core.limits import GIB, MIB, GpuLimits, Limits, WorkerSpec
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
    Peak,
    Process,
    Ticket,
    Work,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.turn import Turn

CARD: Final = Device(id=DeviceId("card"), name="card", backend="nvml", total_bytes=15 * GIB)
MARGIN: Final = 256 * MIB
SPECS: Final = {
    "sam": WorkerSpec(command=("sam",), gpu_bytes=6 * GIB, serves=("sam.propagate",)),
    "yolo": WorkerSpec(command=("yolo",), gpu_bytes=4 * GIB, resident=False, serves=("yolo.train",)),
}
SHARED: Final = Limits(workers=SPECS, gpu=GpuLimits(sharing="budget", margin_bytes=MARGIN))
ALONE: Final = Limits(workers=SPECS)
TRAINING: Final = Job(id=JobId("j-1"), kind="yolo.train", params={"batch": 16, "epochs": 3})
TRAINED: Final = Work("yolo yolo.train batch=16")

sizes = st.integers(0, 8).map(lambda gib: gib * GIB)
shares = st.lists(
    st.tuples(sizes, st.one_of(st.none(), st.just(NONE_LOST), st.tuples(st.just(True), st.integers(-3, 0)))),  # a harm
    max_size=6,
).map(lambda found: [Share(lease=LeaseId(f"l-{i}"), who=f"w-{i}", booked_bytes=size, harm=harm) for i, (size, harm) in enumerate(found)])


def fits(leaving: tuple[Share, ...], everyone: list[Share], need_bytes: int, room_bytes: int) -> bool:
    """Say the rule anew: what stays, and the newcomer, are no more than there is room for."""
    return need_bytes + sum(share.booked_bytes for share in everyone if share not in leaving) <= room_bytes


def every_choice(everyone: list[Share]) -> list[tuple[Share, ...]]:
    """Return every way to send some of those away who may be."""
    movable = [share for share in everyone if share.harm is not None]
    return [chosen for count in range(len(movable) + 1) for chosen in itertools.combinations(movable, count)]


@given(everyone=shares, need_bytes=sizes, room_bytes=sizes.map(lambda size: size * 2))
@settings(max_examples=600)
def test_who_leaves_is_enough_no_more_than_needed_and_as_little_urgent_as_can_be(everyone: list[Share], need_bytes: int, room_bytes: int) -> None:
    leaving = leavers(everyone, need_bytes, room_bytes)

    enough = [chosen for chosen in every_choice(everyone) if fits(chosen, everyone, need_bytes, room_bytes)]
    assert (leaving is None) is (not enough)
    if leaving is None:
        return
    assert fits(leaving, everyone, need_bytes, room_bytes), "more is booked than there is room for"
    for fewer in itertools.combinations(leaving, len(leaving) - 1) if leaving else ():
        assert not fits(fewer, everyone, need_bytes, room_bytes), "somebody leaves who need not"
    worst = max((share.harm for share in leaving if share.harm), default=NONE_LOST)
    assert worst == min(max((share.harm for share in chosen if share.harm), default=NONE_LOST) for chosen in enough), "somebody more urgent leaves than need be"


def test_among_equals_the_smallest_that_is_enough_leaves_alone_else_the_largest_first() -> None:
    everyone = [Share(lease=LeaseId(f"l-{size}"), who="w", booked_bytes=size * GIB, harm=(True, 0)) for size in (2, 3, 5)]

    def sizes_leaving(short: int) -> list[int]:
        return [share.booked_bytes // GIB for share in leavers(everyone, short * GIB, 10 * GIB) or ()]

    assert [sizes_leaving(short) for short in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)] == [[], [2], [2], [3], [5], [5], [5, 2], [5, 3], [5, 3, 2], [5, 3, 2]]


# --- with a fleet ---


def fleet(*held: tuple[str, int, WorkerState, bool], device: Device = CARD, known: dict[Work, Peak] | None = None) -> Fleet:
    """Return a fleet of holders: each with its model, need in bytes, state, and whether it has a job."""
    workers, leases = {}, {}
    for number, (model, need, state, busy) in enumerate(held):
        name = WorkerName(f"{model}-{number}")
        process = Process(spawned_at_s=0.0, ready_at_s=1.0)
        workers[name] = Worker(name=name, model=model, state=state, since_s=1.0, process=process, jobs=(JobId(f"of-{name}"),) if busy else ())
        lease = Lease(id=LeaseId(f"l-{number}"), device=device.id, worker=name, need_bytes=need, priority=10 + number, state=LeaseState.HELD, since_s=0.0)
        leases[lease.id] = lease
    return Fleet(workers=workers, leases=leases, devices={device.id: device}, peaks=known or {})


def sample(used: dict[str, int], *, stranger: int = 0, nobody: int = 0, by_process: bool = True, total: int = CARD.total_bytes) -> DeviceSample:
    """Return a reading: what each worker uses, what a stranger does, and what is in use by no process."""
    taken = sum(used.values()) + stranger + nobody
    holdings = tuple(Holding(WorkerName(name), 7, size) for name, size in used.items()) + ((Holding(None, 4242, stranger),) if stranger else ())
    return DeviceSample(used_bytes=taken, free_bytes=total - taken, holdings=holdings if by_process else (), by_process=by_process)


def plan(now: Fleet, need_bytes: int, *, weak: bool = False, limits: Limits = SHARED, now_s: float = 100.0) -> Begin | Blocked:
    """Return whether a newcomer may come, as the core asks."""
    device = now.devices[CARD.id]
    books = sharing.books(now, limits, device=device, need_bytes=need_bytes, now_s=now_s)
    return may_begin(now, device, weak=weak, books=books)


states = st.sampled_from([WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.EXITED])
holders = st.lists(st.tuples(st.just("sam"), st.integers(0, 7).map(lambda gib: gib * GIB), states, st.booleans()), max_size=4)


@given(
    held=holders,
    uses=st.lists(sizes, min_size=4, max_size=4),
    stranger=st.integers(0, 3),
    nobody=st.integers(0, 2),
    need=st.integers(1, 14),
    weak=st.booleans(),
    by_process=st.booleans(),
)
@settings(max_examples=600)
def test_never_is_more_booked_than_the_device_has_beside_strangers_and_nobody_leaves_needlessly(  # noqa: PLR0917  # hypothesis names them
    held: list[tuple[str, int, WorkerState, bool]], uses: list[int], stranger: int, nobody: int, need: int, weak: bool, by_process: bool
) -> None:
    total = max(15, sum(uses) // GIB + stranger + nobody) * GIB
    used = {f"sam-{number}": uses[number] for number in range(len(held))}
    device = replace(CARD, total_bytes=total, sample=sample(used, stranger=stranger * GIB, nobody=nobody * GIB, by_process=by_process, total=total))
    now = fleet(*held, device=device)

    found = plan(now, need * GIB, weak=weak)

    size_of = {lease.id: max(lease.need_bytes or total, used[lease.worker or ""] if by_process else 0) for lease in now.leases.values()}
    foreign = (stranger + nobody) * GIB if by_process else max(0, sum(used.values()) + (stranger + nobody) * GIB - sum(one[1] for one in held))
    idle = {lease.id for lease, one in zip(now.leases.values(), held, strict=True) if not one[3] and one[2] in {WorkerState.STARTING, WorkerState.READY}}
    going = {lease.id for lease, one in zip(now.leases.values(), held, strict=True) if not one[3] and one[2] not in {*idle_states(), WorkerState.BUSY}}
    movable = going | (set() if weak else idle)

    def together(leaving: set[LeaseId]) -> bool:
        return need * GIB + sum(size for name, size in size_of.items() if name not in leaving) + foreign + MARGIN <= total

    assert isinstance(found, Begin) is together(movable)
    if isinstance(found, Begin):
        leaving = {lease.id for lease in found.leaving}
        assert leaving <= movable
        assert together(leaving)
        assert not any(together(leaving - {name}) for name in leaving)
    else:
        assert found.sentence


def idle_states() -> set[WorkerState]:
    """Return the states in which a worker without a job could leave, and is not leaving."""
    return {WorkerState.STARTING, WorkerState.READY}


READY, BUSY = WorkerState.READY, WorkerState.BUSY


@pytest.mark.parametrize(
    ("held", "need", "weak", "words"),
    [
        ([("sam", 6 * GIB, BUSY, True)], 9, False, "9GiB do not fit on card beside sam-0, which is busy with of-sam-0 (6GiB): 8.75GiB left after the margin"),
        ([("sam", 6 * GIB, READY, False)], 9, True, "9GiB do not fit on card beside sam-0 (6GiB): 8.75GiB left after the margin"),
        ([], 14, False, "14GiB do not fit on card: 12GiB left after the margin; pid 4242, not ours, uses 2GiB; 768MiB are used by no process that is listed"),
    ],
)
def test_who_a_newcomer_does_not_fit_beside_is_named_with_numbers(held: list[tuple[str, int, WorkerState, bool]], need: int, weak: bool, words: str) -> None:
    reading = None if held else sample({}, stranger=2 * GIB, nobody=768 * MIB)

    assert plan(fleet(*held, device=replace(CARD, sample=reading)), need * GIB, weak=weak) == Blocked(words)


@pytest.mark.parametrize("state", [LeaseState.HELD, LeaseState.STALE, LeaseState.COOLING])
def test_a_program_outside_without_a_need_has_the_device_alone(state: LeaseState) -> None:
    lease = Lease(
        id=LeaseId("l-9"), device=CARD.id, outside=Outside(ticket=Ticket("t"), name="notebook", pid=9), need_bytes=0, priority=15, state=state, since_s=0.0
    )
    now = Fleet(leases={lease.id: lease}, devices={CARD.id: CARD})

    found = plan(now, GIB)

    if state is LeaseState.COOLING:
        assert found == Begin((lease,))
    else:
        assert found == Blocked("1GiB do not fit on card beside notebook (pid 9) (15GiB): 0 left after the margin")
    assert isinstance(plan(fleet(("sam", 6 * GIB, READY, False)), 0), Begin), "and who asks for none makes everybody leave"


def test_a_device_that_is_not_ok_or_on_its_way_is_given_to_nobody() -> None:
    lost = replace(CARD, state=DeviceState.LOST, trouble="fallen off the bus")

    assert plan(fleet(device=lost), GIB) == Blocked("card is lost: fallen off the bus")


# --- the sums ---


@pytest.mark.parametrize(
    ("name", "reading", "freed_at_s", "room"),
    [
        ("never read", None, None, 15 * GIB - MARGIN),
        ("idle", sample({}), None, 15 * GIB - MARGIN),
        ("what holders use is theirs", sample({"sam-0": 5 * GIB}), None, 15 * GIB - MARGIN),
        ("what a stranger uses is not to be had", sample({"sam-0": 5 * GIB}, stranger=2 * GIB), None, 13 * GIB - MARGIN),
        ("nor what nobody is listed for", sample({"sam-0": 5 * GIB}, nobody=2 * GIB), None, 13 * GIB - MARGIN),
        ("but for a while after somebody left", sample({"sam-0": 5 * GIB}, nobody=2 * GIB), 90.1, 15 * GIB - MARGIN),
        ("and no longer", sample({"sam-0": 5 * GIB}, nobody=2 * GIB), 90.0, 13 * GIB - MARGIN),
        ("what the driver keeps for itself is nobody's", replace(sample({}), free_bytes=14 * GIB), None, 14 * GIB - MARGIN),
        ("of totals alone the holders have what they were given", sample({"sam-0": 5 * GIB}, by_process=False), None, 15 * GIB - MARGIN),
        ("and what is over that is a stranger's", sample({"sam-0": 8 * GIB}, by_process=False), None, 13 * GIB - MARGIN),
    ],
)
def test_the_room_is_what_strangers_leave(name: str, reading: DeviceSample | None, freed_at_s: float | None, room: int) -> None:
    device = replace(CARD, sample=reading, freed_at_s=freed_at_s)
    now = fleet(("sam", 6 * GIB, READY, False), device=device)

    assert sharing.room_on(now, SHARED, device=device, now_s=100.0) == room, name


def test_what_cools_is_booked_and_its_memory_is_not_counted_as_a_strangers() -> None:
    device = replace(CARD, sample=sample({}, nobody=4 * GIB))
    now = fleet(("yolo", 4 * GIB, WorkerState.DOWN, False), device=device)
    (lease,) = now.leases.values()
    now = replace(now, leases={lease.id: replace(lease, state=LeaseState.COOLING)})

    assert sharing.room_on(now, SHARED, device=device, now_s=100.0) == 15 * GIB - MARGIN
    assert plan(now, 14 * GIB) == Begin(tuple(now.leases.values()))
    assert plan(now, 10 * GIB) == Begin(()), "nobody has to be waited for whom it fits beside"


@pytest.mark.parametrize(
    ("reading", "awaits", "kept"),
    [
        (sample({}), (), 10 * GIB),
        (sample({"sam-0": 2 * GIB, "yolo-1": 5 * GIB}), (), 4 * GIB),
        (sample({"sam-0": 2 * GIB}), ("l-0",), 4 * GIB),
        (sample({"sam-0": 2 * GIB, "yolo-1": 3 * GIB}, by_process=False), (), 5 * GIB),
        (sample({"sam-0": 9 * GIB, "yolo-1": 4 * GIB}, by_process=False), (), 0),
    ],
)
def test_what_was_promised_to_those_who_stay_and_is_not_used_yet_is_kept_for_them(reading: DeviceSample, awaits: tuple[str, ...], kept: int) -> None:
    device = replace(CARD, sample=reading)
    now = fleet(("sam", 6 * GIB, READY, False), ("yolo", 4 * GIB, BUSY, True), device=device)
    waited = tuple(map(LeaseId, awaits))

    assert sharing.promised(now, SHARED, device=device, awaits=waited) == kept
    assert sharing.promised(now, ALONE, device=device, awaits=waited) == 0


@pytest.mark.parametrize(
    ("model", "job", "limits", "asked"),
    [
        ("yolo", TRAINING, ALONE, 4 * GIB),
        ("yolo", TRAINING, SHARED, 5 * GIB * 11 // 10 + HEADROOM_BYTES),
        ("yolo", replace(TRAINING, params={"batch": 32}), SHARED, 4 * GIB),
        ("yolo", replace(TRAINING, params={"batch": 8}), SHARED, 4 * GIB),
        ("yolo", None, SHARED, 5 * GIB * 11 // 10 + HEADROOM_BYTES),
        ("sam", Job(id=JobId("j-2"), kind="sam.propagate"), SHARED, 7 * GIB * 11 // 10 + HEADROOM_BYTES),
    ],
)
def test_what_is_asked_is_the_declared_need_or_what_such_work_was_seen_to_take(model: str, job: Job | None, limits: Limits, asked: int) -> None:
    known = {
        TRAINED: Peak(seen_bytes=5 * GIB, wanted_bytes=2 * GIB),
        Work("yolo yolo.train batch=8"): Peak(seen_bytes=GIB),
        Work("sam"): Peak(seen_bytes=GIB, wanted_bytes=7 * GIB),
        Work("samba"): Peak(seen_bytes=14 * GIB),
    }

    assert sharing.asked_of(fleet(known=known), limits, model=model, job=job) == asked


def test_what_is_asked_is_cut_to_what_can_be_had_but_never_below_what_is_declared() -> None:
    device = replace(CARD, sample=sample({}, stranger=2 * GIB))
    now = fleet(device=device)

    def seek(declared: int, asked: int) -> tuple[DeviceId, int]:
        (found, need_bytes), *_ = sharing.offers(now, SHARED, declared_bytes=declared * GIB, asked_bytes=asked * GIB, now_s=100.0)
        return found.id, need_bytes

    assert seek(6, 20) == (CARD.id, 13 * GIB - MARGIN)
    assert seek(14, 20) == (CARD.id, 14 * GIB), "it is refused with numbers where it is not proved"
    assert seek(6, 8) == (CARD.id, 8 * GIB)
    assert sharing.offers(now, SHARED, declared_bytes=15 * GIB, asked_bytes=15 * GIB, now_s=100.0) == []


def test_of_several_devices_the_one_where_nobody_has_to_leave_goes_first_then_the_one_that_can_give_all_then_the_smallest() -> None:
    now = fleet(("sam", 12 * GIB, READY, False))
    small, large = (replace(CARD, id=DeviceId(name), total_bytes=size * GIB) for name, size in (("b-small", 10), ("a-large", 24)))
    now = replace(now, devices={**now.devices, small.id: small, large.id: large})

    def best(declared: int, asked: int, limits: Limits = SHARED) -> str:
        return sharing.offers(now, limits, declared_bytes=declared * GIB, asked_bytes=asked * GIB, now_s=100.0)[0].device.id

    assert [best(2, 2), best(8, 8), best(11, 11), best(8, 12), best(8, 99)] == ["b-small", "b-small", "a-large", "a-large", "b-small"]
    assert best(11, 11, ALONE) == "card"


@pytest.mark.parametrize(
    ("given_gib", "peak", "limits", "enough"),
    [
        (6, Peak(), SHARED, True),
        (6, Peak(seen_bytes=6 * GIB), SHARED, True),
        (6, Peak(seen_bytes=7 * GIB), SHARED, False),
        (6, Peak(wanted_bytes=7 * GIB), SHARED, False),
        (6, Peak(seen_bytes=7 * GIB), ALONE, True),
        (14, Peak(seen_bytes=15 * GIB), SHARED, False),
        (15, Peak(seen_bytes=16 * GIB), SHARED, True),
    ],
)
def test_a_worker_that_was_given_less_than_a_job_takes_comes_back_with_more_where_there_is(given_gib: int, peak: Peak, limits: Limits, enough: bool) -> None:
    now = fleet(("yolo", given_gib * GIB, READY, False), known={TRAINED: peak})
    (worker,) = now.workers.values()

    assert sharing.covers(now, limits, worker=worker, job=TRAINING, now_s=100.0) is enough


# --- what is learned ---


@pytest.mark.parametrize(
    ("params", "work"),
    [
        ({"batch": 16, "epochs": 3, "image_size": 640}, "yolo yolo.train image_size=640 batch=16"),
        ({"imgsz": 640.0, "batch": 0.7}, "yolo yolo.train imgsz=640 batch=0.7"),
        ({"batch": "many", "imgsz": [640, 480]}, "yolo yolo.train"),
        ({"batch": 10**400}, "yolo yolo.train"),
        ({"batch": float("nan")}, "yolo yolo.train"),
        (None, "yolo yolo.train"),
        ([1], "yolo yolo.train"),
    ],
)
def test_work_is_called_by_its_model_kind_and_sizes(params: object, work: str) -> None:
    assert peaks.work_of("yolo", Job(id=JobId("j"), kind="yolo.train", params=params)) == work
    assert peaks.work_of("yolo", None) == "yolo"


def test_nothing_is_booked_over_the_need_for_work_that_was_never_seen() -> None:
    assert learned_bytes(0) == 0
    assert learned_bytes(10 * GIB) == 11 * GIB + 256 * MIB
    assert raised_bytes(4 * GIB) == 5 * GIB


def test_a_reading_is_learned_for_the_job_at_work_or_for_the_loaded_model_alone() -> None:
    device = replace(CARD, sample=sample({"yolo-0": 5 * GIB, "sam-1": 3 * GIB, "sam-2": 2 * GIB}))
    job = replace(TRAINING, id=JobId("of-yolo-0"), begun_at_s=2.0)
    now = fleet(("yolo", 4 * GIB, BUSY, True), ("sam", 6 * GIB, READY, False), ("sam", 6 * GIB, READY, False), device=device)
    worked = replace(now.workers[WorkerName("sam-1")], since_s=50.0)  # it has had a job since it was loaded
    turn = Turn(replace(now, jobs={job.id: job}, workers={**now.workers, worked.name: worked}), SHARED, 100.0)

    peaks.measured(turn, device)
    peaks.measured(turn, replace(device, sample=sample({"yolo-0": 3 * GIB})))

    assert turn.fleet.peaks == {TRAINED: Peak(seen_bytes=5 * GIB), Work("sam"): Peak(seen_bytes=2 * GIB)}
    assert [(action.event, action.reason) for action in turn.actions if isinstance(action, Announce)] == [
        ("gpu_need_exceeded", f"{TRAINED} uses 5GiB, workers.yolo.gpu says 4GiB")
    ]


def test_only_so_much_is_remembered_and_what_was_learned_last_stays() -> None:
    now = fleet(("yolo", 4 * GIB, BUSY, True))
    (worker,) = now.workers.values()
    turn = Turn(now, SHARED, 100.0)

    for batch in range(peaks.PEAKS_KEPT + 3):
        job = replace(TRAINING, id=JobId("of-yolo-0"), params={"batch": batch}, begun_at_s=2.0)
        turn.fleet = replace(turn.fleet, jobs={job.id: job})
        peaks.heard(turn, worker, GIB)

    assert len(turn.fleet.peaks) == peaks.PEAKS_KEPT
    assert [*turn.fleet.peaks][-1] == f"yolo yolo.train batch={peaks.PEAKS_KEPT + 2}"


def test_what_was_too_little_is_raised_by_a_quarter_of_what_was_given_however_often() -> None:
    now = fleet(("yolo", 4 * GIB, BUSY, True))
    (worker,) = now.workers.values()
    turn = Turn(now, SHARED, 100.0)

    raised = [peaks.too_little(turn, worker, TRAINING) for _ in range(3)]

    assert raised == [5 * GIB] * 3
    assert turn.fleet.peaks == {TRAINED: Peak(wanted_bytes=5 * GIB)}


@pytest.mark.parametrize(
    ("yolo", "need", "holds_up"),
    [
        ((BUSY, True), 14, False),
        ((BUSY, True), 9, True),
        ((READY, False), 14, True),
        ((WorkerState.DRAINING, False), 14, True),
        ((BUSY, True), 0, True),
    ],
)
def test_more_work_keeps_the_first_in_line_waiting_unless_somebody_else_works_in_its_way(yolo: tuple[WorkerState, bool], need: int, holds_up: bool) -> None:
    now = fleet(("sam", 6 * GIB, BUSY, True), ("yolo", 4 * GIB, *yolo))
    turn = Turn(now, SHARED, 100.0)

    assert sharing.holds_up(turn, now.workers[WorkerName("sam-0")], CARD, need * GIB) is holds_up
