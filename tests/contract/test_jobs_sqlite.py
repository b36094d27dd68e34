"""What only a store on disk must keep: reopening, the kill of its process in mid-write, files that cannot be used."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.adapters.jobs_sql import MIGRATIONS
from supervisor.adapters.jobs_sqlite import open_store
from supervisor.core.model import DeviceId, Job, JobId, JobStatus, Lease, LeaseId, LeaseState, WorkerName
from supervisor.errors import StoreError

pytestmark = pytest.mark.asyncio


LEASE = Lease(id=LeaseId("l-1"), device=DeviceId("host"), worker=WorkerName("sam-0"), need_bytes=5, priority=10, state=LeaseState.HELD, since_s=1.0, fence=9)


def job(name: str, *, status: JobStatus = JobStatus.QUEUED, attempt: int = 0) -> Job:
    """Return a small job."""
    return Job(id=JobId(name), kind="demo.count", status=status, attempt=attempt, created_wall=1.0)


async def test_what_was_saved_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.save(job("j-1", status=JobStatus.RUNNING, attempt=1))
    await store.save_leases([LEASE], 9)
    await store.close()

    again = await open_store(tmp_path / "jobs.sqlite")

    assert await again.find("j-1") == job("j-1", status=JobStatus.RUNNING, attempt=1)
    assert await again.last_fence() == 9
    assert list(await again.leases()) == [LEASE]
    await again.close()


async def test_a_close_writes_what_waits(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    writes = [asyncio.ensure_future(store.save(job(f"j-{number}"))) for number in range(20)]
    await asyncio.gather(*writes[:1])

    await store.close()

    again = await open_store(tmp_path / "jobs.sqlite")
    assert len(await again.live()) == 20
    await again.close()


async def test_each_attempt_leaves_a_row(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    for attempt, status in ((1, JobStatus.RUNNING), (1, JobStatus.QUEUED), (2, JobStatus.RUNNING), (2, JobStatus.COMPLETED)):
        await store.save(job("j-1", status=status, attempt=attempt))
    await store.close()

    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    rows = connection.execute("SELECT attempt, status FROM attempts ORDER BY attempt").fetchall()
    connection.close()

    assert rows == [(1, "queued"), (2, "completed")]


async def test_the_file_is_crash_safe(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.close()

    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    mode, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "user_version"))
    connection.close()

    assert (mode, version) == ("wal", len(MIGRATIONS))


WRITER = """
import asyncio, sys
from pathlib import Path
from supervisor.adapters.jobs_sqlite import open_store
from supervisor.core.model import Job, JobId

async def write(store, number):
    await store.save(Job(id=JobId(f"j-{number:06}"), kind="k", params={"pad": "x" * 2000}, created_wall=number))
    print(number, flush=True)

async def main():
    store = await open_store(Path(sys.argv[1]))
    number = 0
    while True:
        await asyncio.gather(*(write(store, number + i) for i in range(10)))
        number += 10

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 37, 250])
async def test_nothing_acknowledged_is_lost_when_the_writing_process_is_killed(tmp_path: Path, after: int) -> None:
    path = tmp_path / "jobs.sqlite"
    writer = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent.parent
    )
    assert writer.stdout is not None
    acknowledged = {int(writer.stdout.readline()) for _ in range(after)}

    os.kill(writer.pid, signal.SIGKILL)
    acknowledged |= {int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")}
    writer.wait()
    writer.stdout.close()

    store = await open_store(path)
    kept = {int(one.id.removeprefix("j-")) for one in await store.live()}
    await store.close()
    assert acknowledged <= kept
    assert len(kept) <= len(acknowledged) + 10


async def test_a_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    await (await open_store(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreError, match=r"jobs.sqlite: written by a newer release \(version 99, this one knows 3\)"):
        await open_store(path)

    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 99
    connection.close()


async def test_a_file_that_is_no_store_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"this is text, and long enough to be looked at as a header" * 100)

    with pytest.raises(StoreError, match=r"jobs.sqlite: file is not a database; move it aside"):
        await open_store(path)


async def test_a_folder_in_the_place_of_the_file_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file; it must be a file that this user can write to"):
        await open_store(tmp_path)


async def test_a_missing_folder_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file; it must be a file that this user can write to"):
        await open_store(tmp_path / "nowhere" / "jobs.sqlite")


async def test_a_file_that_another_program_locks_is_a_store_error_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.sqlite_thread._BUSY_MS", 50)
    store = await open_store(tmp_path / "jobs.sqlite")
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match="database is locked"):
        await store.save(job("j-1"))
    other.execute("ROLLBACK")
    other.close()
    await store.save(job("j-1"))

    assert await store.find("j-1") == job("j-1")
    await store.close()


async def test_a_row_that_cannot_be_read_is_a_store_error_and_the_rest_works(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.save(job("j-1"))
    await store.save(job("j-2"))
    other = sqlite3.connect(tmp_path / "jobs.sqlite")
    with other:
        other.execute("UPDATE jobs SET doc = CAST('{' AS BLOB) WHERE id = 'j-1'")
    other.close()

    with pytest.raises(StoreError, match=r"jobs\.sqlite"):
        await store.find("j-1")

    assert await store.find("j-2") == job("j-2")
    await store.close()


async def test_a_job_that_json_cannot_hold_is_a_store_error_and_the_rest_works(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")

    with pytest.raises(StoreError, match="j-1 holds what JSON cannot"):
        await store.save(Job(id=JobId("j-1"), kind="k", params={"x": object()}))

    await store.save(job("j-2"))
    assert await store.find("j-2") == job("j-2")
    await store.close()


async def test_a_full_disk_is_a_store_error_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "jobs.sqlite")
    await store.save(job("j-1"))
    await store._file.do(lambda connection: connection.execute("PRAGMA max_page_count = 16"), writes=False)

    with pytest.raises(StoreError, match="full"):
        await store.save(Job(id=JobId("j-2"), kind="k", params={"pad": "x" * 10**6}))

    assert await store.find("j-1") == job("j-1")
    await store.close()
