"""The SQLite store when the world is against it: a full disk at each kind of write, results that were tampered with, files of earlier releases."""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.adapters.jobs_sql import MIGRATIONS
from supervisor.adapters.jobs_sqlite import SqliteJobs, open_store
from supervisor.core.model import TERMINAL, DeviceId, Job, JobId, JobStatus, Lease, LeaseId, LeaseState, Peak, Reason, WorkerName
from supervisor.errors import StoreError
from supervisor.runtime.ports import StreamEvent
from tests.support.disk import small_disk

pytestmark = pytest.mark.asyncio

DATA = Path(__file__).parent.parent / "data"
LARGE = ["x" * 1000] * 300
Write = Callable[[SqliteJobs, int], Awaitable[object]]


def job(name: str, *, result: object = None, pad: int = 0) -> Job:
    """Return a job; an ended one where it has a result."""
    status = JobStatus.QUEUED if result is None else JobStatus.COMPLETED
    return Job(id=JobId(name), kind="k", params="x" * pad, status=status, attempt=1, created_wall=1.0, completed_wall=2.0 if result else None, result=result)


def lease(number: int) -> Lease:
    """Return a lease."""
    return Lease(
        id=LeaseId("l"), device=DeviceId("d"), worker=WorkerName("w" * 5000), need_bytes=1, priority=1, state=LeaseState.HELD, since_s=1.0, fence=number
    )


async def expire(store: SqliteJobs, number: int) -> None:
    """Take the job away that ended at this number."""
    await store.expire(ended_before=number + 0.5, gone_before=float("-inf"), keys_before=float("-inf"))


async def until_refused(store: SqliteJobs, write: Write, acknowledged: list[int]) -> None:
    """Write until it fails: what was made room for before is used up first."""
    for number in range(1, 5000):
        await write(store, number)
        acknowledged.append(number)


WRITES: dict[str, Write] = {
    "a job": lambda store, number: store.save(job(f"j-{number}", pad=5000)),
    "a large result": lambda store, number: store.save(job(f"j-{number}", result=LARGE)),
    "events": lambda store, number: store.append_events([StreamEvent(at_wall=1.0, event="e" * 5000, data={"n": number})]),
    "a mark": lambda store, number: store.save_marks({f"m-{number}": "x" * 5000}),
    "leases": lambda store, number: store.save_leases([lease(number)], number),
    "clean-up": expire,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITES)
async def test_a_full_disk_is_told_to_whoever_writes_loses_nothing_and_heals(tmp_path: Path, what: str) -> None:
    with small_disk(tmp_path) as disk:
        store = await open_store(disk.folder / "jobs.sqlite")
        await asyncio.gather(*(store.save(replace(job(f"j-ended-{number:03}", result=True), completed_wall=float(number))) for number in range(1, 301)))
        disk.fill()
        acknowledged: list[int] = []

        with pytest.raises(StoreError, match=r"full|disk I/O error|No space left"):
            await until_refused(store, WRITES[what], acknowledged)
        seen = (await store.counts(), await store.event_bounds(), await store.marks(), await store.last_fence())
        disk.free()
        assert (await store.counts(), await store.event_bounds(), await store.marks(), await store.last_fence()) == seen
        await WRITES[what](store, len(acknowledged) + 1)

        await store.close()
        again = await open_store(disk.folder / "jobs.sqlite")
        jobs, (_, last), marks, fence = await again.counts(), await again.event_bounds(), await again.marks(), await again.last_fence()
        results = len(list((disk.folder / "results").glob("*")))
        await again.close()
        done = len(acknowledged) + 1
        assert {
            "a job": jobs.get("queued"),
            "a large result": results,
            "events": last,
            "a mark": len(marks),
            "leases": fence,
            "clean-up": 300 - jobs["completed"],
        }[what] == done


# --- results ---


async def kept_result(tmp_path: Path) -> tuple[SqliteJobs, Path]:
    """Return a store that holds one job with a large result, and the file of it."""
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.save(job("j-1", result=LARGE))
    (file,) = (tmp_path / "results").iterdir()
    return store, file


async def test_a_large_result_lies_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)

    assert file.stat().st_size > 300_000
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert (tmp_path / "jobs.sqlite-wal").stat().st_size < 200_000
    await store.close()


async def test_a_result_that_was_changed_is_not_believed_and_the_rest_works(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"x", b"y", 1))

    with pytest.raises(StoreError, match=r"the result of a job has the checksum [0-9a-f]{64}, expected [0-9a-f]{64}: bring the file back from a copy"):
        await store.find("j-1")

    assert [one.result for one in await store.newest(statuses=[], kind="", limit=5)] == [{"omitted_bytes": file.stat().st_size}]
    await store.close()


async def test_a_result_that_is_away_is_a_store_error(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)
    file.unlink()

    with pytest.raises(StoreError, match="cannot be read: No such file or directory; bring the file back from a copy, or run the job again"):
        await store.find("j-1")

    await store.close()


async def test_a_result_goes_with_its_job(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)

    await store.expire(ended_before=3.0, gone_before=0.0, keys_before=0.0)

    assert not file.exists()
    await store.close()


async def test_a_result_whose_job_is_refused_leaves_no_file(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)

    await store.save(job("j-1", result=["y" * 1000] * 300))

    assert list((tmp_path / "results").iterdir()) == [file]
    found = await store.find("j-1")
    assert found is not None
    assert found.result == LARGE
    await store.close()


async def test_what_a_crash_left_beside_the_results_goes_at_the_next_start(tmp_path: Path) -> None:
    store, file = await kept_result(tmp_path)
    await store.close()
    (file.parent / f"{'0' * 32}.json").write_text("[]")
    (file.parent / f"{'1' * 32}.json.new").write_text("[")
    (file.parent / "notes.txt").write_text("a person's own")

    again = await open_store(tmp_path / "jobs.sqlite")

    assert {one.name for one in file.parent.iterdir()} == {file.name, "notes.txt"}
    await again.close()


async def test_a_folder_for_results_that_cannot_be_made_is_a_store_error_and_the_job_can_be_saved_later(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    (tmp_path / "results").write_text("in the way")

    with pytest.raises(StoreError, match=r"results: a result of \d+ bytes cannot be kept: File exists; make room there"):
        await store.save(job("j-1", result=LARGE))

    (tmp_path / "results").unlink()
    await store.save(job("j-1", result=LARGE))
    found = await store.find("j-1")
    assert found is not None
    assert found.result == LARGE
    await store.close()


# --- other releases ---


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_file_of_each_released_version_opens_and_keeps_its_jobs(tmp_path: Path, version: int) -> None:
    path = tmp_path / "jobs.sqlite"
    shutil.copy(DATA / f"jobs-{version}.sqlite", path)

    store = await open_store(path)

    found = {one.status: one for one in await store.newest(statuses=[], kind="", limit=50)}
    assert set(found) == set(JobStatus)
    assert all(one.params == {"epochs": 3, "data": "ü/☃"} and one.attempt == 1 and not one.idempotency_key for one in found.values())
    assert found[JobStatus.COMPLETED].result == {"best": 0.5}
    failure, receipt = found[JobStatus.FAILED].error, found[JobStatus.CANCELLED].receipt
    assert failure is not None
    assert (failure.reason, failure.log_tail) == (Reason.STALLED, ("one", "two"))
    assert receipt is not None
    assert receipt.freed_bytes == 5
    assert (await store.last_fence(), [one.id for one in await store.leases()]) == (9, ["l-1"])
    expired = await store.expire(ended_before=1e12, gone_before=0.0, keys_before=0.0)
    assert len(expired) == len(TERMINAL)
    assert list(await store.append_events([StreamEvent(at_wall=1.0, event="e")])) == [1]
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    connection.close()


async def test_peaks_of_devices_are_kept_as_memory_is_learned_beside_them(tmp_path: Path) -> None:
    shutil.copy(DATA / "jobs-5.sqlite", tmp_path / "jobs.sqlite")

    store = await open_store(tmp_path / "jobs.sqlite")

    assert dict(await store.peaks()) == {"yolo yolo.train batch=16": Peak(seen_bytes=7, wanted_bytes=9)}
    await store.close()


async def test_a_migration_that_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    shutil.copy(DATA / "jobs-2.sqlite", path)
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE trimmed (own TEXT)")  # in the way of the next step
    other.close()

    with pytest.raises(StoreError, match="table trimmed already exists"):
        await open_store(path)

    other = sqlite3.connect(path)
    columns = {row[1] for row in other.execute("PRAGMA table_info(trimmed)")}
    version = other.execute("PRAGMA user_version").fetchone()[0]
    other.execute("DROP TABLE trimmed")
    other.close()
    assert (version, columns) == (2, {"own"})
    store = await open_store(path)
    assert len(await store.newest(statuses=[], kind="", limit=50)) == len(JobStatus)
    await store.close()


async def test_work_after_the_close_is_a_store_error(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.close()

    with pytest.raises(StoreError, match=r"jobs.sqlite is closed: the supervisor is about to end"):
        await store.save(job("j-1"))


async def test_a_write_that_cannot_be_is_refused_alone_whoever_shares_its_commit(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    impossible = replace(job("j-no"), priority=2**70)
    events = [StreamEvent(at_wall=1.0, event="e")]

    outcomes = await asyncio.gather(
        *(store.save(job(f"j-{number}")) for number in range(20)), store.save(impossible), store.append_events(events), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [*[tuple] * 20, StoreError, list]
    assert len(await store.live()) == 20
    assert await store.event_bounds() == (1, 1)
    await store.close()
