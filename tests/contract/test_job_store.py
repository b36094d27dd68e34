"""The contract of a job store, kept by the one in memory and the one in SQLite alike."""

import asyncio
from functools import partial

import pytest
from msgspec.structs import replace

from supervisor.core.model import (
    AT_WORK,
    TERMINAL,
    DeviceId,
    Failure,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Peak,
    Reason,
    Receipt,
    Work,
    WorkerName,
)
from supervisor.runtime.ports import JobStore

pytestmark = pytest.mark.asyncio

WHOLE = Job(
    id=JobId("j-whole"),
    kind="demo.train",
    params={"epochs": 3, "data": "ü/☃", "deep": [{"x": [1, 2.5, None, True]}], "big": 2**63},
    status=JobStatus.RUNNING,
    reason=Reason.NONE,
    message="a message",
    priority=0,
    attempt=2,
    max_attempts=4,
    worker=WorkerName("yolo-0"),
    phase="train",
    done=7.0,
    total=9.0,
    metrics={"loss": 0.125},
    tries={"crash": 1},
    created_wall=1_700_000_000.25,
    started_wall=1_700_000_001.5,
    retry_of=JobId("j-before"),
)


def job(name: str, *, created: float = 1.0, status: JobStatus = JobStatus.QUEUED, attempt: int = 0, kind: str = "demo.count") -> Job:
    """Return a small job."""
    return Job(id=JobId(name), kind=kind, status=status, attempt=attempt, created_wall=created)


async def test_a_job_comes_back_as_it_was_saved(store: JobStore) -> None:
    await store.save(WHOLE)

    assert await store.find("j-whole") == WHOLE


async def test_the_end_of_a_job_comes_back_with_its_error_and_its_receipt(store: JobStore) -> None:
    failure = Failure(reason=Reason.STALLED, message="m", evidence="e", phase="p", stack="s", log_tail=("one", "two"))
    ended = replace(WHOLE, status=JobStatus.FAILED, reason=Reason.STALLED, error=failure, receipt=Receipt(freed_bytes=5, took_s=0.5), completed_wall=2.0)

    await store.save(WHOLE)
    await store.save(ended)

    assert await store.find("j-whole") == ended


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("then", list(JobStatus))
async def test_an_ended_job_never_changes(store: JobStore, status: JobStatus, then: JobStatus) -> None:
    ended = job("j-1", status=status, attempt=1)
    await store.save(ended)

    await store.save(replace(ended, status=then, attempt=2, result="other"))

    assert await store.find("j-1") == ended


@pytest.mark.parametrize("late", [JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.QUEUED])
async def test_an_older_attempt_is_refused(store: JobStore, late: JobStatus) -> None:
    second = job("j-1", status=JobStatus.RUNNING, attempt=2)
    await store.save(second)

    await store.save(job("j-1", status=late, attempt=1))

    assert await store.find("j-1") == second


async def test_the_same_attempt_may_be_saved_again(store: JobStore) -> None:
    await store.save(job("j-1", status=JobStatus.PREPARING, attempt=1))

    await store.save(job("j-1", status=JobStatus.RUNNING, attempt=1))

    found = await store.find("j-1")
    assert found is not None
    assert found.status is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("asked", "found"),
    [("j-abc", "j-abc"), ("j-abcd", "j-abcd"), ("j-x", "j-xyz"), ("j-ab", None), ("j-", None), ("", None), ("nothing", None), ("j-x%", None), ("j-_yz", None)],
)
async def test_a_job_is_found_by_its_id_or_by_a_beginning_that_only_it_has(store: JobStore, asked: str, found: str | None) -> None:
    for name in ("j-abc", "j-abcd", "j-xyz"):
        await store.save(job(name))

    one = await store.find(asked)

    assert (one.id if one else None) == found


async def test_the_newest_come_first_and_only_those_asked_for(store: JobStore) -> None:
    await store.save(job("j-1", created=1.0, status=JobStatus.COMPLETED))
    await store.save(job("j-2", created=3.0, kind="demo.train"))
    await store.save(job("j-3", created=2.0, status=JobStatus.RUNNING))
    await store.save(job("j-0", created=2.0))

    async def ids(**asked: object) -> list[str]:
        return [one.id for one in await store.newest(**{"statuses": [], "kind": "", "limit": 50, **asked})]  # type: ignore[arg-type]  # by name

    assert await ids() == ["j-2", "j-3", "j-0", "j-1"]
    assert await ids(limit=2) == ["j-2", "j-3"]
    assert await ids(kind="demo.train") == ["j-2"]
    assert await ids(statuses=["running", "completed"]) == ["j-3", "j-1"]
    assert await ids(statuses=["queued"], kind="demo.count") == ["j-0"]
    assert await ids(statuses=["failed"]) == []


async def test_live_jobs_are_all_that_have_not_ended_the_oldest_first(store: JobStore) -> None:
    for number, status in enumerate(JobStatus):
        await store.save(job(f"j-{status}", created=100.0 - number, status=status, attempt=1))

    live = await store.live()

    assert {one.status for one in live} == {JobStatus.QUEUED, JobStatus.PAUSED, *AT_WORK}
    assert [one.created_wall for one in live] == sorted(one.created_wall for one in live)


async def test_counts_are_by_status(store: JobStore) -> None:
    await store.save(job("j-1"))
    await store.save(job("j-2"))
    await store.save(job("j-3", status=JobStatus.FAILED))

    assert dict(await store.counts()) == {"queued": 2, "failed": 1}


async def test_fences_only_rise(store: JobStore) -> None:
    assert await store.last_fence() == 0

    for fence in (3, 1, 7, 5):
        await store.save_leases([], fence)

    assert await store.last_fence() == 7


async def test_the_leases_that_were_saved_last_are_all_there_are(store: JobStore) -> None:
    first, second = (
        Lease(id=LeaseId(name), device=DeviceId("host"), worker=WorkerName(name), need_bytes=5, priority=10, state=LeaseState.HELD, since_s=1.0, fence=fence)
        for name, fence in (("l-1", 1), ("l-2", 2))
    )

    await store.save_leases([first, second], 2)
    assert list(await store.leases()) == [first, second]
    await store.save_leases([second], 2)

    assert list(await store.leases()) == [second]


async def test_many_writers_at_once_are_all_kept(store: JobStore) -> None:
    await asyncio.gather(*(store.save(job(f"j-{number:03}", created=number)) for number in range(300)))

    assert len(await store.live()) == 300


async def test_a_read_after_an_awaited_write_sees_it(store: JobStore) -> None:
    seen = []
    for number in range(50):
        await store.save(job(f"j-{number}"))
        seen.append(partial(store.find, f"j-{number}"))

    assert all([await one() is not None for one in seen])


async def test_the_peaks_that_were_saved_last_are_all_there_are_and_in_their_order(store: JobStore) -> None:
    assert dict(await store.peaks()) == {}
    first = {Work("yolo yolo.train batch=16"): Peak(seen_bytes=2**40, wanted_bytes=2**41), Work("sam"): Peak(seen_bytes=5, memory_bytes=2**42)}

    await store.save_peaks(first)
    kept = list((await store.peaks()).items())
    await store.save_peaks({Work("ü"): Peak(), **{work: peak for work, peak in first.items() if work != "sam"}})

    assert kept == list(first.items())
    assert list((await store.peaks()).items()) == [("ü", Peak()), ("yolo yolo.train batch=16", Peak(seen_bytes=2**40, wanted_bytes=2**41))]
