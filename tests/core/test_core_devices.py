"""Several devices: which one somebody gets, and that who waits for one keeps nobody from another."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Reply, SaveMark, SendDrain
from supervisor.core.claims import Outside, Purpose, Waiter
from supervisor.core.decide import decide
from supervisor.core.events import AnyEvent, DeviceMeasured, LockRequested, Tick
from supervisor.core.gpu import devices_for, wrong_device
from supervisor.core.limits import GIB, MIB, Limits, WorkerSpec
from supervisor.core.line import Claim, choose
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Fleet,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Process,
    Reason,
    Ticket,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.sharing import Offer

A, B = DeviceId("GPU-a"), DeviceId("GPU-b")
TICK = Tick(wall_s=100.0)


def card(name: DeviceId, gib: int, *, state: DeviceState = DeviceState.OK) -> Device:
    return Device(id=name, name="a card", backend="nvml", total_bytes=gib * GIB, state=state, sample=DeviceSample(used_bytes=0, free_bytes=gib * GIB))


def limits(**workers: WorkerSpec) -> Limits:
    return Limits(workers=workers)


def spec(model: str, gib: int, *, resident: bool = False, replicas: int = 1) -> WorkerSpec:
    return WorkerSpec(command=(model,), gpu_bytes=gib * GIB, resident=resident, replicas=replicas, serves=(f"{model}.do",), concurrency=2)


def worker(name: str, state: WorkerState = WorkerState.DOWN, *jobs: str) -> Worker:
    process = Process(spawned_at_s=0.0, pid=77) if state not in {WorkerState.DOWN, WorkerState.BACKOFF} else None
    return Worker(name=WorkerName(name), model=name.partition("-")[0], state=state, process=process, jobs=tuple(map(JobId, jobs)))


def lease(number: int, device: DeviceId, holder: str) -> Lease:
    return Lease(
        id=LeaseId(f"l-{number}"), device=device, worker=WorkerName(holder), need_bytes=GIB, priority=10, state=LeaseState.HELD, since_s=0.0, fence=number
    )


def job(name: str, kind: str, *, worker: str | None = None, priority: int = 10) -> Job:
    if worker is None:
        return Job(id=JobId(name), kind=kind, priority=priority)
    return Job(
        id=JobId(name),
        kind=kind,
        priority=priority,
        status=JobStatus.RUNNING,
        worker=WorkerName(worker),
        attempt=1,
        sent_at_s=1.0,
        begun_at_s=1.0,
        progress_at_s=9.0,
    )


def fleet(
    devices: Sequence[Device], workers: Sequence[Worker] = (), leases: Sequence[Lease] = (), jobs: Sequence[Job] = (), waiters: Sequence[Waiter] = ()
) -> Fleet:
    return Fleet(
        workers={one.name: one for one in workers},
        devices={one.id: one for one in devices},
        leases={one.id: one for one in leases},
        jobs={one.id: one for one in jobs},
        waiters={one.outside.ticket: one for one in waiters},
    )


def waiter(name: str, gib: int, *, device: DeviceId | None = None) -> Waiter:
    who = Outside(ticket=Ticket(f"t-{name}"), name=name, pid=900)
    return Waiter(outside=who, request=name, priority=0, need_bytes=gib * GIB, arrived_at_s=0.0, deadline_at_s=1000.0, timeout_s=1000.0, device=device)


def after(now: Fleet, limits: Limits, event: AnyEvent = TICK) -> Fleet:
    return decide(now, event, limits, 10.0).fleet


def taken(now: Fleet, need_gib: int, *behind: DeviceId) -> Device | None:
    """Return the device that somebody takes or waits for. behind: those that somebody waits for who is before it."""
    first = {name: Claim(id="j-9", words="j-9", priority=10, age_s=0.0, step_s=60.0) for name in behind}
    offers = [Offer(device, need_gib * GIB) for device in devices_for(now, need_gib * GIB, 256 * MIB)]
    return choose(now, Limits(), offers, first, 10.0)[0].device if offers else None


READY, BUSY = WorkerState.READY, WorkerState.BUSY


@pytest.mark.parametrize(
    ("devices", "holders", "need_gib", "found"),
    [
        ([card(A, 16), card(B, 24)], {}, 8, A),
        ([card(A, 24), card(B, 16)], {}, 8, B),
        ([card(A, 16), card(B, 24)], {}, 20, B),
        ([card(A, 16), card(B, 16)], {}, 20, None),
        ([card(A, 16), card(B, 24)], {A: READY}, 8, B),
        ([card(A, 16), card(B, 24)], {A: BUSY}, 8, B),
        ([card(A, 16), card(B, 24)], {A: READY, B: READY}, 8, A),
        ([card(A, 16), card(B, 24)], {A: BUSY, B: READY}, 8, B),
        ([card(A, 16), card(B, 24)], {A: BUSY, B: BUSY}, 8, A),
        ([card(A, 16, state=DeviceState.LOST), card(B, 24)], {B: BUSY}, 8, B),
        ([card(A, 16, state=DeviceState.LOST), card(B, 24)], {}, 20, B),
    ],
    ids=[
        "the smallest that can hold it",
        "in whatever order they are",
        "only one is large enough",
        "none is",
        "one that nobody has to leave before a smaller one",
        "one that is free before one that is busy",
        "both held: the smaller one's holder leaves",
        "a holder that may leave before one that is busy",
        "both busy: the smaller one is waited for",
        "one that works, busy as it is, before one that is lost",
        "a lost one that is too small counts for nothing",
    ],
)
def test_which_device_is_the_best_fit(devices: list[Device], holders: dict[DeviceId, WorkerState], need_gib: int, found: DeviceId | None) -> None:
    workers = [worker(f"sam-{place}", state, *(["j-0"] if state is BUSY else [])) for place, state in enumerate(holders.values())]
    leases = [lease(place + 1, device, f"sam-{place}") for place, device in enumerate(holders)]

    best = taken(fleet(devices, workers, leases), need_gib)

    assert (best.id if best else None) == found


def test_one_that_somebody_waits_for_is_taken_only_where_no_other_will_do() -> None:
    both = fleet([card(A, 16), card(B, 24)])

    assert [taken(both, 8, *behind) for behind in ((A,), (A, B))] == [both.devices[B], both.devices[A]]
    assert taken(both, 20, B) == both.devices[B]


def test_who_waits_for_a_busy_card_keeps_nobody_from_another() -> None:
    now = fleet(
        [card(A, 24), card(B, 16)],
        [worker("sam-0", BUSY, "j-0"), worker("yolo-0")],
        [lease(1, A, "sam-0")],
        [job("j-0", "sam.do", worker="sam-0"), job("j-1", "yolo.do")],
        [waiter("pinned", 8, device=A)],
    )

    later = after(now, limits(sam=spec("sam", 20), yolo=spec("yolo", 8)))

    assert later.waiters[Ticket("t-pinned")].message == "sam-0 holds GPU-a and is busy with j-0"
    assert (later.jobs[JobId("j-1")].status, later.jobs[JobId("j-1")].device) == (JobStatus.PREPARING, B)


@pytest.mark.parametrize("state", [DeviceState.LOST, DeviceState.UNRESPONSIVE, DeviceState.UNVERIFIABLE, DeviceState.QUARANTINED])
def test_a_card_that_fails_stops_nobody_on_another(state: DeviceState) -> None:
    now = fleet([card(A, 24, state=state), card(B, 16)], [worker("sam-0"), worker("yolo-0")], jobs=[job("j-1", "sam.do", priority=0), job("j-2", "yolo.do")])

    later = after(now, limits(sam=spec("sam", 20), yolo=spec("yolo", 8)))

    assert (later.jobs[JobId("j-1")].reason, f"GPU-a is {state}" in later.jobs[JobId("j-1")].message) == (Reason.WAITING_FOR_GPU, True)
    assert (later.jobs[JobId("j-2")].status, later.jobs[JobId("j-2")].device) == (JobStatus.PREPARING, B)


def test_nobody_behind_it_prolongs_the_hold_of_the_card_that_somebody_waits_for() -> None:
    now = fleet(
        [card(A, 24), card(B, 16)],
        [worker("sam-0", BUSY, "j-0")],
        [lease(1, A, "sam-0")],
        [job("j-0", "sam.do", worker="sam-0"), job("j-1", "sam.do")],
        [waiter("pinned", 8, device=A)],
    )

    later = after(now, limits(sam=spec("sam", 20)))

    assert later.jobs[JobId("j-1")].message == "pinned (pid 900) is before it in the queue for the device"
    assert later.workers[WorkerName("sam-0")].jobs == ("j-0",)


def test_a_job_behind_one_that_waits_takes_the_other_card_with_another_replica() -> None:
    now = fleet(
        [card(A, 16), card(B, 16)],
        [worker("sam-0", BUSY, "j-0"), worker("sam-1")],
        [lease(1, A, "sam-0")],
        [job("j-0", "sam.do", worker="sam-0"), job("j-1", "sam.do")],
        [waiter("pinned", 8, device=A)],
    )

    later = after(now, limits(sam=spec("sam", 12, replicas=2)))

    assert (later.jobs[JobId("j-1")].worker, later.jobs[JobId("j-1")].device) == ("sam-1", B)


def test_two_who_wait_for_either_card_are_first_for_one_each() -> None:
    now = fleet(
        [card(A, 16), card(B, 16)],
        [worker("sam-0", BUSY, "j-0"), worker("sam-1", BUSY, "j-1")],
        [lease(1, A, "sam-0"), lease(2, B, "sam-1")],
        [job("j-0", "sam.do", worker="sam-0"), job("j-1", "sam.do", worker="sam-1")],
        [waiter("one", 8), waiter("two", 8), waiter("zwei", 8)],
    )

    later = after(now, limits(sam=spec("sam", 12, replicas=2)))

    assert [one.message for one in later.waiters.values()] == [
        "sam-0 holds GPU-a and is busy with j-0",
        "sam-1 holds GPU-b and is busy with j-1",
        "one (pid 900) is before it in the queue for the device",
    ]


def test_a_resident_is_back_on_a_card_that_whoever_waits_for_another_could_not_use() -> None:
    now = fleet(
        [card(A, 24, state=DeviceState.LOST), card(B, 16)],
        [worker("sam-0"), worker("yolo-0")],
        jobs=[replace(job("j-1", "sam.do"), reason=Reason.WAITING_FOR_GPU)],
    )

    later = after(now, limits(sam=spec("sam", 20), yolo=spec("yolo", 8, resident=True)))

    assert [(one.worker, one.device) for one in later.leases.values()] == [("yolo-0", B)]


def on(device: DeviceId, name: str = "j-1", kind: str = "sam.do") -> Job:
    return replace(job(name, kind), only_on=device)


def test_a_job_gets_the_device_that_it_names_where_another_would_fit_better() -> None:
    now = fleet([card(A, 16), card(B, 24)], [worker("sam-0")], jobs=[on(B)])

    assert after(now, limits(sam=spec("sam", 12))).jobs[JobId("j-1")].device == B


@pytest.mark.parametrize(("device", "worker_name", "status"), [(A, "sam-0", JobStatus.PREPARING), (B, "sam-1", JobStatus.PREPARING)])
def test_of_two_replicas_the_one_on_the_device_that_it_names_takes_it(device: DeviceId, worker_name: str, status: JobStatus) -> None:
    now = fleet([card(A, 16), card(B, 16)], [worker("sam-0", READY), worker("sam-1", READY)], [lease(1, A, "sam-0"), lease(2, B, "sam-1")], [on(device)])

    found = after(now, limits(sam=spec("sam", 12, replicas=2))).jobs[JobId("j-1")]

    assert (found.worker, found.status) == (worker_name, status)


def test_an_idle_worker_moves_to_the_device_that_its_job_names() -> None:
    now = fleet([card(A, 16), card(B, 16)], [worker("sam-0", READY)], [lease(1, A, "sam-0")], [on(B)])

    decision = decide(now, TICK, limits(sam=spec("sam", 12, resident=True)), 10.0)

    assert [action.worker for action in decision.actions if isinstance(action, SendDrain)] == ["sam-0"]
    assert decision.fleet.jobs[JobId("j-1")].message == "sam-0 leaves GPU-a to come back on GPU-b"


def test_one_that_was_taken_over_without_a_device_comes_back_on_the_one_that_its_job_names() -> None:
    now = fleet([card(A, 16), card(B, 16)], [worker("sam-0", READY)], jobs=[on(B)])

    decision = decide(now, TICK, limits(sam=spec("sam", 12, resident=True)), 10.0)

    assert [action.worker for action in decision.actions if isinstance(action, SendDrain)] == ["sam-0"]
    assert decision.fleet.jobs[JobId("j-1")].message == "sam-0 leaves for now to come back on GPU-b"


def test_it_stays_where_it_is_while_that_device_cannot_be_had() -> None:
    busy = [worker("sam-0", READY), worker("yolo-0", BUSY, "j-0")]
    now = fleet([card(A, 16), card(B, 16)], busy, [lease(1, A, "sam-0"), lease(2, B, "yolo-0")], [job("j-0", "yolo.do", worker="yolo-0"), on(B), on(B, "j-2")])

    later = after(now, limits(sam=spec("sam", 12), yolo=spec("yolo", 8)))
    behind = after(replace(now, waiters={Ticket("t-one"): waiter("one", 8, device=B)}), limits(sam=spec("sam", 12), yolo=spec("yolo", 8)))

    assert later.workers[WorkerName("sam-0")].state is READY
    assert [later.jobs[JobId(name)].message for name in ("j-1", "j-2")] == [
        "yolo-0 holds GPU-b and is busy with j-0",
        "j-1 is before it in the queue for the device",
    ]
    assert behind.jobs[JobId("j-1")].message == "one (pid 900) is before it in the queue for the device"


def test_a_device_that_is_gone_since_is_waited_for() -> None:
    gone = DeviceId("GPU-of-yesterday")
    down = after(fleet([card(A, 16)], [worker("sam-0")], jobs=[on(gone)]), limits(sam=spec("sam", 12)))
    idle = after(fleet([card(A, 16)], [worker("sam-0", READY)], [lease(1, A, "sam-0")], [on(gone)]), limits(sam=spec("sam", 12, resident=True)))

    assert down.jobs[JobId("j-1")].message == "there is no GPU-of-yesterday"
    assert (idle.jobs[JobId("j-1")].status, idle.workers[WorkerName("sam-0")].state) == (JobStatus.QUEUED, READY)


@pytest.mark.parametrize(
    ("name", "need_gib", "words"),
    [
        ("GPU-a", 8, ""),
        ("GPU-a", 16, "GPU-a has 16GiB, 16GiB and 256MiB of margin are needed"),
        ("GPU-a", 0, "its worker needs no device, and GPU-a was named: leave it out"),
        ("GPU-x", 8, "there is no device GPU-x; there are GPU-a"),
    ],
)
def test_a_device_that_a_job_can_never_have_is_refused_with_what_there_is(name: str, need_gib: int, words: str) -> None:
    assert wrong_device(fleet([card(A, 16)]), name, need_gib * GIB, 256 * MIB) == words


def test_an_idle_holder_leaves_only_where_no_card_is_free() -> None:
    workers = [worker("sam-0", READY), worker("yolo-0")]
    jobs = [job("j-1", "yolo.do")]
    both = limits(sam=spec("sam", 12, resident=True), yolo=spec("yolo", 8))

    one_card = decide(fleet([card(A, 16)], workers, [lease(1, A, "sam-0")], jobs), TICK, both, 10.0)
    two_cards = decide(fleet([card(A, 16), card(B, 16)], workers, [lease(1, A, "sam-0")], jobs), TICK, both, 10.0)

    assert [any(isinstance(action, SendDrain) for action in decision.actions) for decision in (one_card, two_cards)] == [True, False]


def test_where_the_only_card_that_works_is_waited_for_a_job_stands_behind() -> None:
    devices = [card(A, 24, state=DeviceState.LOST), card(B, 16)]
    busy = [worker("sam-0", BUSY, "j-0"), worker("yolo-0")]
    now = fleet(devices, busy, [lease(1, B, "sam-0")], [job("j-0", "sam.do", worker="sam-0"), job("j-1", "yolo.do")], [waiter("one", 8), waiter("two", 8)])

    later = after(now, limits(sam=spec("sam", 12), yolo=spec("yolo", 8)))

    assert later.waiters[Ticket("t-two")].message == later.jobs[JobId("j-1")].message == "one (pid 900) is before it in the queue for the device"


def test_a_job_whose_worker_needs_no_device_any_more_runs_wherever_that_is() -> None:
    now = fleet([card(A, 16)], [worker("sam-0", READY)], jobs=[on(A)])

    assert after(now, limits(sam=spec("sam", 0))).jobs[JobId("j-1")].worker == "sam-0"


def test_a_job_that_names_a_device_keeps_nobody_from_it_while_no_worker_comes_there() -> None:
    workers = [replace(worker("sam-0"), wanted=Wanted.DOWN), worker("yolo-0", READY)]
    jobs = [replace(job("j-1", "sam.do", priority=0), only_on=A), job("j-2", "yolo.do")]
    now = fleet([card(A, 16)], workers, [lease(1, A, "yolo-0")], jobs)

    later = after(now, limits(sam=spec("sam", 12), yolo=spec("yolo", 8)))

    assert later.jobs[JobId("j-2")].worker == "yolo-0"


@pytest.mark.parametrize("only_on", [None, B])
def test_a_resident_comes_back_to_a_card_that_the_queue_cannot_use(only_on: DeviceId | None) -> None:
    workers = [worker("sam-0"), worker("yolo-0", BUSY, "j-0")]
    jobs = [job("j-0", "yolo.do", worker="yolo-0"), replace(job("j-1", "yolo.do"), only_on=only_on)]
    one_at_a_time = replace(spec("yolo", 8), concurrency=1)
    now = fleet([card(A, 16), card(B, 16)], workers, [lease(1, B, "yolo-0")], jobs)

    later = after(now, limits(sam=spec("sam", 12, resident=True), yolo=one_at_a_time))

    assert [device.handover.worker if device.handover else None for device in later.devices.values()] == ["sam-0", None]


def asks(purpose: Purpose, **fields: Any) -> LockRequested:
    who = Outside(ticket=Ticket("t-one"), name="one", pid=900, start_ticks=1, boot_id="b")
    return LockRequested(request="asked", outside=who, priority=15, need_bytes=0, timeout_s=60.0, purpose=purpose, **fields)


def test_whoever_would_load_before_any_card_answers_waits_until_one_does() -> None:
    silent = Device(id=A, name="a card", backend="nvml", total_bytes=0, trouble="no answer yet")
    waiting = decide(fleet([silent], []), asks("load"), limits(), 10.0).fleet

    answers = DeviceMeasured(device=A, sample=DeviceSample(used_bytes=0, free_bytes=16 * GIB, total_bytes=16 * GIB))
    later = decide(decide(waiting, answers, limits(), 11.0).fleet, TICK, limits(), 12.0).fleet

    assert [one.message for one in waiting.waiters.values()] == ["GPU-a is ok: no answer yet"]
    assert [(one.owner, one.purpose) for one in later.leases.values()] == [("one", "load")]


def test_an_order_to_empty_a_device_leaves_no_age_behind() -> None:
    ordered = decide(fleet([card(A, 16)], []), asks("vacate", keep_free_s=30.0), limits(), 10.0)
    actions, now, at_s = list(ordered.actions), ordered.fleet, 10.0
    while now.waiters and at_s < 20.0:
        at_s += 0.5
        seen = decide(now, DeviceMeasured(device=A, sample=DeviceSample(used_bytes=0, free_bytes=16 * GIB)), limits(), at_s)
        actions, now = [*actions, *seen.actions], seen.fleet

    assert [action.message for action in actions if isinstance(action, Reply)] == ["nobody had to leave"]
    assert [action.value for action in actions if isinstance(action, SaveMark)][-1:] in ([], [""])
    assert not now.tickets
