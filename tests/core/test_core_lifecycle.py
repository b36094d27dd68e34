"""Every state and signal of the four tables against `advance`: the legal moves, and errors that name both ends."""

import pytest

from supervisor.core import jobs, lifecycle
from supervisor.core.jobs import JOB, Step
from supervisor.core.lifecycle import DEVICE, LEASE, WORKER, IllegalTransition, Sight, Signal, Turn
from supervisor.core.model import (
    AT_WORK,
    TERMINAL,
    WITH_PROCESS,
    Device,
    DeviceId,
    DeviceState,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Worker,
    WorkerName,
    WorkerState,
)


def test_every_state_has_its_row() -> None:
    assert set(WORKER) == set(WorkerState)
    assert set(LEASE) == set(LeaseState)
    assert set(DEVICE) == set(DeviceState)
    assert set(JOB) == set(JobStatus)


def test_every_signal_is_used() -> None:
    assert {signal for row in WORKER.values() for signal in row} == set(Signal)
    assert {turn for row in LEASE.values() for turn in row} == set(Turn)
    assert {sight for row in DEVICE.values() for sight in row} == set(Sight)
    assert {step for row in JOB.values() for step in row} == set(Step)


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("signal", Signal)
def test_a_worker_moves_as_its_table_says(state: WorkerState, signal: Signal) -> None:
    worker = Worker(name=WorkerName("sam-0"), model="sam", state=state, generation=7, since_s=1.0)
    expected = WORKER[state].get(signal)

    if expected is None:
        assert not lifecycle.may(worker, signal)
        with pytest.raises(IllegalTransition, match=f"sam-0 generation 7 is {state} .*no move by {signal}"):
            lifecycle.advance(worker, signal, 2.0)
    else:
        assert lifecycle.may(worker, signal)
        moved = lifecycle.advance(worker, signal, 2.0)
        assert (moved.state, moved.since_s, moved.generation) == (expected, 2.0, 7)
    assert worker.state is state


@pytest.mark.parametrize("state", DeviceState)
@pytest.mark.parametrize("sight", Sight)
def test_a_device_moves_as_its_table_says(state: DeviceState, sight: Sight) -> None:
    device = Device(id=DeviceId("GPU-1"), name="a card", backend="nvml", total_bytes=1, state=state)
    expected = DEVICE[state].get(sight)

    if expected is None:
        with pytest.raises(IllegalTransition, match=f"GPU-1 is {state}: no move by {sight}"):
            lifecycle.advance_device(device, sight)
    else:
        assert lifecycle.advance_device(device, sight).state is expected


@pytest.mark.parametrize("state", LeaseState)
@pytest.mark.parametrize("turn", Turn)
def test_a_lease_moves_as_its_table_says(state: LeaseState, turn: Turn) -> None:
    lease = Lease(id=LeaseId("l-1"), device=DeviceId("host"), worker=WorkerName("sam-0"), need_bytes=1, priority=10, state=state, since_s=1.0, fence=3)
    expected = LEASE[state].get(turn)

    if expected is None:
        with pytest.raises(IllegalTransition, match=f"l-1 of sam-0 on host is {state}: no move by {turn}"):
            lifecycle.advance_lease(lease, turn, 2.0)
    else:
        moved = lifecycle.advance_lease(lease, turn, 2.0)
        assert (moved.state, moved.since_s, moved.fence) == (expected, 2.0, 3)


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("step", Step)
def test_a_job_moves_as_its_table_says(status: JobStatus, step: Step) -> None:
    job = Job(id=JobId("j-1"), kind="sam.propagate", status=status, attempt=2, critical="saving")
    expected = JOB[status].get(step)

    if expected is None:
        with pytest.raises(IllegalTransition, match=f"j-1 attempt 2 is {status}: no move by {step}"):
            jobs.advance(job, step, 9.0)
    else:
        moved = jobs.advance(job, step, 9.0)
        assert moved.status is expected
        assert moved.completed_wall == (9.0 if expected in TERMINAL else None)
        assert moved.critical == ("" if expected in TERMINAL else "saving")
        assert moved.started_wall == (9.0 if step is Step.BEGIN else None)


def test_a_second_attempt_keeps_the_start_of_the_first() -> None:
    job = Job(id=JobId("j-1"), kind="sam.propagate", status=JobStatus.PREPARING, started_wall=5.0)

    assert jobs.advance(job, Step.BEGIN, 9.0).started_wall == 5.0


def test_terminal_states_have_no_way_out_and_are_the_only_ones() -> None:
    assert {status for status, row in JOB.items() if not row} == TERMINAL


def test_a_job_at_work_can_end_in_every_way_and_is_never_at_rest_by_mistake() -> None:
    for status in AT_WORK:
        assert Step.FAIL in JOB[status]
        assert Step.FINISH in JOB[status]


def test_every_state_with_a_process_can_see_it_exit() -> None:
    assert {state for state, row in WORKER.items() if Signal.EXIT in row} == WITH_PROCESS | {WorkerState.UNKILLABLE}


def test_every_worker_state_leads_back_to_a_start() -> None:
    for state in WorkerState:
        reached, edge = {state}, {state}
        while edge:
            edge = {after for before in edge for after in WORKER[before].values()} - reached
            reached |= edge
        assert WorkerState.STARTING in reached
