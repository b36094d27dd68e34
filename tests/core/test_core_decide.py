"""What `decide` takes in without harm, and what it must never do."""

import pytest
from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.actions import Leave, MeasureDevice, MeasureMemory, Reply
from supervisor.core.decide import decide, first_fleet
from supervisor.core.limits import GIB
from supervisor.core.model import Device, DeviceId, DeviceSample, Evidence, Exit, JobId, Wanted, Worker, WorkerName, WorkerState
from supervisor.core.readings import look
from supervisor.core.turn import Turn
from tests.support.simulated_device import HOST
from tests.support.world import World, usual_limits

LIMITS = usual_limits()
DEVICES = (Device(id=HOST, name="host", backend="host", total_bytes=16 * GIB),)
FLEET = first_fleet(LIMITS, DEVICES)
SAM = WorkerName("sam-0")
J = JobId("j-1")
MESSAGES: list[ev.WorkerEvent] = [
    ev.WorkerSpawned(worker=SAM, generation=0, pid=1),
    ev.SpawnFailed(worker=SAM, generation=0, detail="no"),
    ev.WorkerExited(worker=SAM, generation=0, exit=Exit("code", 0)),
    ev.TreeGone(worker=SAM, generation=0),
    ev.TreeStuck(worker=SAM, generation=0, pids=(1,)),
    ev.EvidenceGathered(worker=SAM, generation=0, evidence=Evidence()),
    ev.HelloHeard(worker=SAM, generation=0),
    ev.ReadyHeard(worker=SAM, generation=0),
    ev.NoteHeard(worker=SAM, generation=0, level="info", text="x"),
    ev.ProgramSeen(worker=SAM, generation=0, ready=True, alive=True, moved=True, status="x", extend_s=1.0),
    ev.BeatHeard(worker=SAM, generation=0, jobs=(ev.JobProgress(job=J, attempt=1),)),
    ev.JobAccepted(worker=SAM, generation=0, job=J, attempt=1),
    ev.JobFinished(worker=SAM, generation=0, job=J, attempt=1),
    ev.JobEnded(worker=SAM, generation=0, job=J, attempt=1, reason="user_error"),
    ev.LevelMeasured(worker=SAM, generation=0, job=J, moment="before", used_bytes=1),
    ev.ReleaseMeasured(worker=SAM, generation=0, job=J, used_bytes=1, proved=True),
]


def test_there_is_a_message_of_every_kind_here() -> None:
    assert {type(message) for message in MESSAGES} == set(ev.WorkerEvent.__args__)


@pytest.mark.parametrize("event", MESSAGES, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", WorkerState)
def test_a_message_that_fits_nothing_changes_no_state_and_raises_nothing(event: ev.WorkerEvent, state: WorkerState) -> None:
    """A worker without a process, in every state that the table has; only an exit or a proof may move it."""
    fleet = first_fleet(LIMITS, DEVICES)
    odd = Worker(name=SAM, model="sam", state=state, wanted=Wanted.DOWN)
    fleet = type(fleet)(workers={**fleet.workers, SAM: odd}, devices=fleet.devices)

    decision = decide(fleet, event, LIMITS, 1.0)

    moves = {ev.WorkerExited, ev.SpawnFailed, ev.TreeGone, ev.TreeStuck}
    rests = {WorkerState.BACKOFF: WorkerState.DOWN, WorkerState.QUARANTINED: WorkerState.DOWN}
    if type(event) not in moves and decision.fleet.workers[SAM].state is not state:
        assert decision.fleet.workers[SAM].state in {rests.get(state), WorkerState.STOPPING, WorkerState.DRAINING}


@pytest.mark.parametrize("event", MESSAGES, ids=lambda event: type(event).__name__)
def test_a_message_of_an_old_generation_or_an_unknown_worker_is_dropped_and_counted(event: ev.WorkerEvent) -> None:
    fleet = first_fleet(LIMITS, DEVICES)
    newer = Worker(name=SAM, model="sam", generation=3)
    fleet = type(fleet)(workers={SAM: newer}, devices=fleet.devices)
    nobody = type(fleet)(devices=fleet.devices)

    for before in (fleet, nobody):
        decision = decide(before, event, LIMITS, 1.0)

        assert decision.actions == ()
        assert decision.fleet == type(fleet)(workers=before.workers, devices=before.devices, dropped=1)


def test_a_beat_touches_one_worker_only() -> None:
    world = World()
    world.submit("j-1", "yolo.train")
    world.run(5)

    decision = decide(world.fleet, ev.BeatHeard(worker=WorkerName("yolo-0"), generation=1), LIMITS, world.now_s)

    assert decision.actions == ()
    assert decision.fleet.jobs is world.fleet.jobs
    assert decision.fleet.leases is world.fleet.leases
    assert decision.fleet.workers[SAM] is world.fleet.workers[SAM]


def test_the_fleet_that_came_in_stays_as_it_was() -> None:
    before = first_fleet(LIMITS, DEVICES)

    decide(before, ev.SupervisorStarted(wall_s=1e9), LIMITS, 1.0)

    assert before == FLEET


def test_a_reading_of_an_unknown_device_is_nothing() -> None:
    decision = decide(FLEET, ev.DeviceMeasured(device=DeviceId("cuda:7"), sample=DeviceSample(used_bytes=0, free_bytes=1)), LIMITS, 1.0)

    assert DeviceId("cuda:7") not in decision.fleet.devices


def test_memory_is_kept_for_workers_that_have_a_process() -> None:
    world = World()
    world.run(3)

    read = ev.MemoryMeasured(workers={SAM: 5, WorkerName("yolo-0"): 6, WorkerName("gone-0"): 7}, available_bytes=9)
    after = decide(world.fleet, read, LIMITS, 3.0).fleet

    assert (after.workers[SAM].memory_bytes, after.workers[WorkerName("yolo-0")].memory_bytes, after.available_bytes) == (5, None, 9)


def test_the_regular_look_leaves_a_device_that_is_being_polled_alone() -> None:
    world = World()
    idle = look(world.fleet)
    world.run(0.05)
    proving = look(world.fleet)

    assert idle == (MeasureMemory(), MeasureDevice(device=HOST))
    assert proving == (MeasureMemory(),)


def test_a_reading_that_somebody_else_ordered_proves_nothing_twice() -> None:
    """The second reading of a proof comes after a pause; one that happens to come before it does not count."""
    world = World()
    world.run(0.006)
    assert world.fleet.devices[HOST].handover is not None
    early = ev.DeviceMeasured(device=HOST, sample=DeviceSample(used_bytes=0, free_bytes=16 * GIB))

    after = decide(world.fleet, early, LIMITS, 0.02)

    assert after.fleet.devices[HOST].handover is not None
    assert after.actions == ()


def test_two_orders_to_stop_are_one_and_now_outweighs_later() -> None:
    world = World()
    world.fault("sam-0").ignores_term = True
    world.run(3)
    world.post(0, ev.ShutdownRequested(request="first"))
    world.run(4)
    world.post(0, ev.ShutdownRequested(request="second", at_once=True))
    world.run(5)

    assert world.left
    assert world.fleet.stopping_since_s == 3.0
    assert set(world.replies) == {"first", "second"}


def test_a_supervisor_without_workers_leaves_at_once() -> None:
    decision = decide(first_fleet(LIMITS, ()), ev.ShutdownRequested(request="x"), LIMITS, 0.0)

    assert isinstance(decision.actions[-1], Leave)
    assert Reply(request="x") in decision.actions


def test_replicas_and_autostart_make_the_first_fleet() -> None:
    fleet = first_fleet(LIMITS, DEVICES, fence=41)

    assert set(fleet.workers) == {"sam-0", "yolo-0"}
    assert fleet.fence == 41
    assert fleet.workers[SAM].wanted is Wanted.UP


def test_a_lease_that_never_got_a_fence_has_used_its_number_all_the_same() -> None:
    before = replace(first_fleet(LIMITS, DEVICES), fence=11, serial=13)

    after = first_fleet(LIMITS, DEVICES, fence=before.last_number)

    assert (after.fence, after.serial) == (13, 13), "the next lease is l-14, not the second l-12"


def test_an_event_outside_the_vocabulary_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError, match="worker_sneezed"):
        Turn(FLEET, LIMITS, 0.0).announce("worker_sneezed")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Exit("code", 3), "exit code 3"),
        (Exit("signal", 9), "killed by signal 9"),
        (Exit("signal", 11, "SIGSEGV"), "killed by signal 11 (SIGSEGV)"),
        (Exit("spawn_failed", 0, "no such file"), "could not be started: no such file"),
        (Exit("unknown"), "exit unknown"),
    ],
)
def test_an_exit_is_told_in_words(how: Exit, words: str) -> None:
    assert str(how) == words


def test_the_operators_word_is_known_before_the_first_event() -> None:
    fleet = first_fleet(LIMITS, DEVICES, wanted={SAM: Wanted.DOWN})

    assert {name: worker.wanted for name, worker in fleet.workers.items()} == {SAM: Wanted.DOWN, WorkerName("yolo-0"): Wanted.UP}
