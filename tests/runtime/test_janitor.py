"""The janitor: what ended goes after its time, rows before folders; what lives stays; trouble is said once and tried again."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from supervisor.adapters.job_files import JobFolders
from supervisor.adapters.jobs_sqlite import SqliteJobs, open_store
from supervisor.core.limits import JobLimits, Limits
from supervisor.core.model import TERMINAL, Job, JobId, JobStatus
from supervisor.runtime.janitor import KEYS_S, TOMBSTONES_S, Janitor

pytestmark = pytest.mark.asyncio

NOW = 1_800_000_000.0
KEEP_S = 3600.0


class House:
    """A store, folders, a janitor, and what it said."""

    def __init__(self, store: SqliteJobs, root: Path) -> None:
        self.store = store
        self.root = root
        self.limits = Limits(jobs=JobLimits(keep_finished_s=KEEP_S))
        self.said: list[tuple[str, str, Mapping[str, Any]]] = []
        self.janitor = self.another()

    def another(self) -> Janitor:
        """Return the janitor of a supervisor that starts now."""
        return Janitor(store=self.store, files=JobFolders(self.root), limits=lambda: self.limits, say=lambda *line: self.said.append(line))

    async def ended(self, name: str, *, ago_s: float, status: JobStatus = JobStatus.COMPLETED, key: str = "") -> None:
        """Keep a job that ended so long ago, with its folder."""
        at = NOW - ago_s
        await self.store.save(Job(id=JobId(name), kind="k", status=status, attempt=1, created_wall=at, completed_wall=at, idempotency_key=key))
        (self.root / name).mkdir()
        (self.root / name / "mask").write_text("x")

    def folders(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "jobs").mkdir()
    store = await open_store(tmp_path / "jobs.sqlite")
    yield House(store, tmp_path / "jobs")
    await store.close()


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_an_ended_job_goes_once_it_was_kept_long_enough(house: House, status: JobStatus) -> None:
    await house.ended("j-old", ago_s=KEEP_S + 1, status=status)
    await house.ended("j-new", ago_s=KEEP_S - 1, status=status)

    await house.janitor.sweep(NOW)

    assert house.folders() == {"j-new"}
    assert (await house.store.find("j-old"), await house.store.gone("j-old") is not None) == (None, True)
    assert await house.store.find("j-new") is not None
    assert house.said == [("info", "jobs_expired", {"count": 1, "reason": "kept for 3600 s after their end"})]


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in TERMINAL])
async def test_a_live_job_stays_however_old_it_is(house: House, status: JobStatus) -> None:
    await house.ended("j-live", ago_s=10 * TOMBSTONES_S, status=status)

    await house.janitor.sweep(NOW)

    assert house.folders() == {"j-live"}
    assert await house.store.find("j-live") is not None
    assert house.said == []


async def test_the_limit_is_looked_at_each_time(house: House) -> None:
    await house.ended("j-1", ago_s=100)
    await house.janitor.sweep(NOW)
    before = house.folders()

    house.limits = replace(house.limits, jobs=JobLimits(keep_finished_s=99.0))
    await house.janitor.sweep(NOW)

    assert (before, house.folders()) == ({"j-1"}, set())


async def test_keys_last_a_day_and_tombstones_a_month(house: House) -> None:
    await house.ended("j-1", ago_s=KEEP_S + 1, key="k")
    at = NOW - KEEP_S - 1
    await house.janitor.sweep(NOW)

    await house.janitor.sweep(at + KEYS_S)
    key_kept = await house.store.by_key("k")
    await house.janitor.sweep(at + KEYS_S + 1)
    key_gone = await house.store.by_key("k")
    await house.janitor.sweep(at + TOMBSTONES_S)
    stone_kept = await house.store.gone("j-1")
    await house.janitor.sweep(at + TOMBSTONES_S + 1)

    assert (key_kept, key_gone) == (("j-1", ""), None)
    assert stone_kept is not None
    assert await house.store.gone("j-1") is None


async def test_thousands_go_in_one_sweep(house: House) -> None:
    await asyncio.gather(*(house.store.save(Job(id=JobId(f"j-{n}"), kind="k", status=JobStatus.FAILED, completed_wall=1.0)) for n in range(1203)))

    await house.janitor.sweep(NOW)

    assert dict(await house.store.counts()) == {}
    assert house.said[0][2]["count"] == 1203


async def test_a_folder_that_cannot_be_removed_is_said_once_and_tried_again(house: House, tmp_path: Path) -> None:
    await house.ended("j-1", ago_s=KEEP_S + 1)
    (house.root / "j-1").rename(tmp_path / "aside")
    (house.root / "j-1").symlink_to(tmp_path / "aside")
    await house.ended("j-2", ago_s=KEEP_S + 1)

    for _ in range(3):
        await house.janitor.sweep(NOW)
    said = [line for line in house.said if line[0] != "info"]
    (house.root / "j-1").unlink()
    (tmp_path / "aside").rename(house.root / "j-1")
    await house.janitor.sweep(NOW)

    assert [(level, event, fields["count"]) for level, event, fields in said] == [("warning", "cleanup_failed", 1)]
    assert "j-1 is a link, a folder was expected" in said[0][2]["reason"]
    assert house.folders() == set()


async def test_a_supervisor_that_comes_after_finishes_what_an_earlier_one_could_not(house: House) -> None:
    await house.ended("j-1", ago_s=KEEP_S + 1)
    await house.ended("j-live", ago_s=KEEP_S + 1, status=JobStatus.RUNNING)
    (house.root / "somebody's").mkdir()
    await house.store.expire(ended_before=NOW - KEEP_S, gone_before=0.0, keys_before=0.0)  # and the kill comes here

    await house.another().sweep(NOW)

    assert house.folders() == {"j-live", "somebody's"}


async def test_a_store_that_fails_is_said_once_and_asked_again(house: House) -> None:
    await house.ended("j-1", ago_s=KEEP_S + 1)
    await house.store._file.do(lambda connection: connection.execute("ALTER TABLE keys RENAME TO away"), writes=True)

    await house.janitor.sweep(NOW)
    await house.janitor.sweep(NOW)
    said, folders = list(house.said), house.folders()
    await house.store._file.do(lambda connection: connection.execute("ALTER TABLE away RENAME TO keys"), writes=True)
    await house.janitor.sweep(NOW)

    assert [event for _, event, _ in said] == ["cleanup_failed"]
    assert "no such table: keys" in said[0][2]["reason"]
    assert (folders, house.folders()) == ({"j-1"}, set())


async def test_it_runs_at_once_and_until_it_is_cancelled(house: House) -> None:
    await house.ended("j-1", ago_s=NOW)  # decades ago by any clock
    gone = asyncio.Event()
    janitor = Janitor(store=house.store, files=JobFolders(house.root), limits=lambda: house.limits, say=lambda *_: gone.set())

    task = asyncio.create_task(janitor.run())
    async with asyncio.timeout(20):
        await gone.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
