"""The SQLite store when its process is killed: before every statement that it ever runs, and at any moment. Nothing acknowledged is lost, nothing half done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.adapters.jobs_sqlite import open_store
from supervisor.core.model import JobStatus
from supervisor.runtime.ports import StreamEvent

ROOT = Path(__file__).parent.parent.parent
WRITER = """
import asyncio, json, os, signal, sys
from pathlib import Path
from msgspec.structs import replace
from supervisor.adapters.jobs_sqlite import open_store
from supervisor.core.model import DeviceId, Job, JobId, JobStatus, Lease, LeaseId, LeaseState, WorkerName
from supervisor.runtime.ports import StreamEvent

path, kill_at, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
seen = 0

def count(statement):
    global seen
    seen += 1
    if seen == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def said(what, value):
    print(json.dumps([what, value]), flush=True)

async def one_round(store, number):
    queued = Job(id=JobId(f"j-{number:04}"), kind="k", created_wall=number, idempotency_key=f"k-{number}", fingerprint="f")
    await store.save(queued); said("queued", number)
    running = replace(queued, status=JobStatus.RUNNING, attempt=1)
    await store.save(running); said("running", number)
    large = ["x" * 1000] * 300
    await store.save(replace(running, status=JobStatus.COMPLETED, completed_wall=float(number), result=large)); said("completed", number)
    events = [StreamEvent(at_wall=1.0, event=name, job=queued.id) for name in ("job_queued", "job_completed")]
    said("events", list(await store.append_events(events)))
    await store.save_marks({"m": str(number)}); said("mark", number)
    lease = Lease(id=LeaseId("l"), device=DeviceId("d"), worker=WorkerName("w"), need_bytes=1, priority=1, state=LeaseState.HELD, since_s=1.0, fence=number)
    await store.save_leases([lease], number); said("lease", number)
    for gone in await store.expire(ended_before=number - 0.5, gone_before=-1.0, keys_before=-1.0):
        said("gone", int(gone.removeprefix("j-")))

async def main():
    store = await open_store(path)
    for number in range(1, rounds + 1):
        if number == rounds:  # the statements of the last round are counted
            await store._file.do(lambda connection: connection.set_trace_callback(count), writes=False)
        await one_round(store, number)
    await store.close()
    said("end", seen)

asyncio.run(main())
"""


def write(path: Path, *, kill_at: int, rounds: int, lines: int | None = None) -> list[tuple[str, Any]]:
    """Return what a writer was told is done, until it ended. kill_at: it kills itself before that statement. lines: it is killed once it has said so many."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(kill_at), str(rounds)], stdout=subprocess.PIPE, cwd=ROOT)
    assert writer.stdout is not None
    heard = [writer.stdout.readline() for _ in range(lines or 0)]
    if lines is not None:
        os.kill(writer.pid, signal.SIGKILL)
    heard += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    return [tuple(json.loads(line)) for line in heard if line.endswith(b"\n")]


async def whole(path: Path, said: list[tuple[str, Any]]) -> None:
    """Prove that the store holds what was acknowledged, and nothing half done."""
    told = {what: [value for one, value in said if one == what] for what in ("queued", "running", "completed", "events", "mark", "lease", "gone")}
    numbers = [number for pair in told["events"] for number in pair]
    store = await open_store(path)

    kept = {int(job.id.removeprefix("j-")): job for job in await store.newest(statuses=[], kind="", limit=10_000)}
    gone = {number for number in range(1, 1000) if await store.gone(f"j-{number:04}") is not None}
    assert not set(kept) & gone
    assert set(told["queued"]) <= set(kept) | gone
    assert len(set(kept) | gone) <= len(told["queued"]) + 1, "at most the one that was being written"
    assert set(told["gone"]) <= gone
    for number in set(told["running"]) & set(kept):
        assert kept[number].status in {JobStatus.RUNNING, JobStatus.COMPLETED}
    for number in set(told["completed"]) & set(kept):
        assert kept[number].status is JobStatus.COMPLETED
    for number in set(kept) | gone:
        assert await store.by_key(f"k-{number}") == (f"j-{number:04}", "f"), "a key is written together with its job"
    files = {file.name for file in (path.parent / "results").glob("*")}
    whole_jobs = [job for job in kept.values() if job.status is JobStatus.COMPLETED]
    assert len(files) == len(whole_jobs), "one file for each large result, and none that a crash left over"
    for job in whole_jobs:
        found = await store.find(job.id)
        assert found is not None
        assert found.result == ["x" * 1000] * 300

    first, last = await store.event_bounds()
    stored = [number for number, _ in await store.events_since(0, job="", limit=10_000)]
    assert numbers == sorted(set(numbers))
    assert {number for number in numbers if number >= first} <= set(stored) | {n for n in numbers if (n + 1) // 2 in gone}
    assert stored == sorted(set(stored))
    assert list(await store.append_events([StreamEvent(at_wall=1.0, event="e")])) == [last + 1]
    assert last >= max(numbers, default=0)

    assert int((await store.marks()).get("m", "0")) in {max(told["mark"], default=0), max(told["mark"], default=0) + 1}
    assert await store.last_fence() in {max(told["lease"], default=0), max(told["lease"], default=0) + 1}
    assert [lease.fence for lease in await store.leases()] in ([], [await store.last_fence()])
    await store.close()


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_a_kill_before_any_statement_of_any_write_loses_and_doubles_nothing(tmp_path: Path) -> None:
    kill_at, said = 0, list[tuple[str, Any]]()
    while not said or said[-1][0] != "end":
        kill_at += 1
        folder = tmp_path / str(kill_at)
        folder.mkdir()

        said = write(folder / "jobs.sqlite", kill_at=kill_at, rounds=2)

        await whole(folder / "jobs.sqlite", said)
    assert kill_at > 30, "each BEGIN, each write and each COMMIT"


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path) -> None:
    for lines in (1, 5, 6, 13, 21, 40):
        folder = tmp_path / str(lines)
        folder.mkdir()

        said = write(folder / "jobs.sqlite", kill_at=0, rounds=500, lines=lines)

        await whole(folder / "jobs.sqlite", said)
