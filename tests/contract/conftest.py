"""The two stores that keep one contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from supervisor.adapters.jobs_memory import MemoryJobs
from supervisor.adapters.jobs_sqlite import open_store
from supervisor.runtime.ports import JobStore

EVENTS_KEPT = 50


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobStore]:
    if request.param == "memory":
        one: JobStore = MemoryJobs(events_kept=EVENTS_KEPT)
    else:
        one = await open_store(tmp_path / "jobs.sqlite", events_kept=EVENTS_KEPT)
    yield one
    await one.close()
