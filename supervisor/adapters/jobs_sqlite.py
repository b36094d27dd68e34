"""Jobs in one SQLite file, and what belongs to them: events, idempotency keys, tombstones, marks, leases. Large results are files beside it."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from supervisor.adapters import jobs_sql as sql
from supervisor.adapters.result_files import ResultFile, ResultFiles
from supervisor.adapters.sqlite_thread import SqliteThread
from supervisor.adapters.stored_shapes import (
    EVENTS_KEPT,
    EXPIRE_AT_ONCE,
    cursor_after,
    encode_event,
    encode_job,
    large_result,
    place_of,
    shortened,
)
from supervisor.core.model import Job, JobId, Lease, Peak, Work
from supervisor.errors import StoreError
from supervisor.runtime.ports import StreamEvent, Tombstone

_TRIM_AT_ONCE: Final = 10_000


class SqliteJobs:
    """The store. Made by `open_store`."""

    def __init__(self, path: Path, *, events_kept: int = EVENTS_KEPT) -> None:
        """Open the file, in its thread. events_kept: of each live job, and of all others together."""
        self._events_kept = events_kept
        self._results = ResultFiles(path.parent)
        self._file = SqliteThread(path, sql.MIGRATIONS, prepare=self._sweep)

    async def opened(self) -> None:
        """Return once the file is open and of this release's version. Raises StoreError."""
        await self._file.opened()

    async def save(self, job: Job, events: Sequence[StreamEvent] = ()) -> Sequence[int]:
        """Return the numbers of the events once they and the job are on disk, with its idempotency key and its result. Raises StoreError."""
        doc = encode_job(job)
        told = [(event.job, encode_event(event)) for event in events]
        result = large_result(job, doc)
        file = None
        if result is not None:
            file = await asyncio.to_thread(self._results.write, result)
            doc = encode_job(shortened(job, file.size))
        row = _row(job, doc, file)

        def write(connection: sqlite3.Connection) -> list[int] | None:
            if job.idempotency_key:
                connection.execute(sql.SAVE_KEY, row)
            taken = connection.execute(sql.SAVE, row).rowcount > 0
            if job.attempt:
                connection.execute(sql.SAVE_ATTEMPT, row)
            return _append(connection, told) if taken else None

        numbers: list[int] | None = []  # as far as is known: a caller that is cancelled does not learn what becomes of its write
        try:
            numbers = await self._file.do(write, writes=True)
        except StoreError:
            numbers = None
            raise
        finally:
            if file is not None and numbers is None:
                await asyncio.to_thread(self._results.remove, [file.path])
        return numbers or ()

    async def find(self, job: str) -> Job | None:
        """Return the job with this id, or the only one whose id begins so, with its result. Raises StoreError."""

        def read(connection: sqlite3.Connection) -> Job | None:
            rows = connection.execute(sql.FIND, (job,)).fetchall() or connection.execute(sql.FIND_BEGINNING, (job, job + "\U0010ffff")).fetchall()
            if len(rows) != 1:
                return None
            doc, file, sha256 = rows[0]
            found = msgspec.json.decode(doc, type=Job)
            return replace(found, result=self._results.read(file, sha256)) if file else found

        found: Job | None = await self._file.do(read, writes=False)
        return found

    async def newest(self, *, statuses: Sequence[str], kind: str, limit: int) -> Sequence[Job]:
        """Return jobs, the newest first; all of them where statuses or kind are empty."""
        return await self._page(statuses, kind, limit, "")

    async def page(self, *, statuses: Sequence[str], kind: str, limit: int, cursor: str) -> tuple[Sequence[Job], str]:
        """Return jobs after the cursor, the newest first, and the cursor of the next page. Raises ValueError for a cursor that is none."""
        return cursor_after(await self._page(statuses, kind, limit + 1, cursor), limit)

    async def _page(self, statuses: Sequence[str], kind: str, limit: int, cursor: str) -> list[Job]:
        place = place_of(cursor)
        wanted = msgspec.json.encode(statuses).decode()
        after = {"created": place.created, "id": place.id} if place else {"created": None, "id": None}
        return await self._jobs(sql.PAGE, {"statuses": wanted, "kind": kind, "limit": limit, **after})

    async def live(self) -> Sequence[Job]:
        """Return the jobs that have not ended, the oldest first."""
        return await self._jobs(sql.LIVE, {})

    async def counts(self) -> Mapping[str, int]:
        """Return how many jobs there are in each status."""
        return dict(await self._rows(sql.COUNTS))

    async def by_key(self, key: str) -> tuple[JobId, str] | None:
        """Return the job that was made under this idempotency key, and the fingerprint of what was asked for then."""
        rows = await self._rows(sql.BY_KEY, key)
        return (JobId(rows[0][0]), rows[0][1]) if rows else None

    async def gone(self, job: str) -> Tombstone | None:
        """Return what is left of a job that was cleaned up."""
        rows = await self._rows(sql.GONE, job)
        return Tombstone(**dict(zip(("job", "kind", "status", "completed_wall"), rows[0], strict=True))) if rows else None

    async def expire(self, *, ended_before: float, gone_before: float, keys_before: float) -> Sequence[JobId]:
        """Take away the jobs that ended before an instant, and whatever else has run out. Returns the ids of the jobs, at most 500 at a time."""

        def write(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
            ended = connection.execute(sql.ENDED, (ended_before, EXPIRE_AT_ONCE)).fetchall()
            for statement in sql.BURY:
                connection.executemany(statement, [(name,) for name, _ in ended])
            connection.execute(sql.FORGET_TOMBSTONES, (gone_before,))
            connection.execute(sql.FORGET_KEYS, (keys_before,))
            self._trim_events(connection)
            return ended

        ended = await self._file.do(write, writes=True)
        await asyncio.to_thread(self._results.remove, [file for _, file in ended if file])  # after the commit: a row never lacks its file
        return [JobId(name) for name, _ in ended]

    def _trim_events(self, connection: sqlite3.Connection) -> None:
        of_others, of_one = sql.TRIM_EVENTS
        values = {"kept": self._events_kept, "at_once": _TRIM_AT_ONCE}
        gone = connection.execute(of_others, values).fetchall()
        for (name,) in connection.execute(sql.TALKATIVE, values).fetchall():
            gone += connection.execute(of_one, {**values, "job": name}).fetchall()
        if gone:
            connection.execute(sql.TRIMMED, max(gone))

    async def append_events(self, events: Sequence[StreamEvent]) -> Sequence[int]:
        """Return the numbers that the events got, once they are on disk. Raises StoreError; then none of them is."""
        rows = [(event.job, encode_event(event)) for event in events]

        numbers: list[int] = await self._file.do(lambda connection: _append(connection, rows), writes=True)
        return numbers

    async def events_since(self, after: int, *, job: str, limit: int) -> Sequence[tuple[int, StreamEvent]]:
        """Return the events after a number, of one job or of all, the oldest first."""

        def read(connection: sqlite3.Connection) -> list[tuple[int, StreamEvent]]:
            rows = connection.execute(sql.EVENTS_OF_JOB, (after, job, limit)) if job else connection.execute(sql.EVENTS_SINCE, (after, limit))
            return [(number, msgspec.json.decode(doc, type=StreamEvent)) for number, doc in rows]

        found: list[tuple[int, StreamEvent]] = await self._file.do(read, writes=False)
        return found

    async def event_bounds(self) -> tuple[int, int]:
        """Return the number from which on every event is kept, and the last number ever given."""
        first, last = (await self._rows(sql.EVENT_BOUNDS))[0]
        return first, last

    async def save_marks(self, marks: Mapping[str, str]) -> None:
        """Return once these are on disk, all or none; an empty value forgets one. Raises StoreError."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(sql.FORGET_MARK, [(name,) for name in marks])
            connection.executemany(sql.MARK, [(name, value) for name, value in marks.items() if value])

        await self._file.do(write, writes=True)

    async def marks(self) -> Mapping[str, str]:
        """Return all that was to be remembered."""
        return dict(await self._rows(sql.MARKS))

    async def save_leases(self, leases: Sequence[Lease], fence: int) -> None:
        """Return once these, instead of the ones before, are on disk, and this fence if it is higher than the last. Raises StoreError."""
        rows = [(lease.id, lease.device, lease.owner, lease.fence, msgspec.json.encode(lease)) for lease in leases]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(sql.FORGET_LEASES)
            connection.executemany(sql.SAVE_LEASE, rows)
            connection.execute(sql.SAVE_FENCE, (fence,))

        await self._file.do(write, writes=True)

    async def leases(self) -> Sequence[Lease]:
        """Return the leases that were saved last. Raises StoreError."""
        return [msgspec.json.decode(row[0], type=Lease) for row in await self._rows(sql.LEASES)]

    async def last_fence(self) -> int:
        """Return the highest fence ever saved."""
        return int((await self._rows(sql.LAST_FENCE))[0][0] or 0)

    async def save_peaks(self, peaks: Mapping[Work, Peak]) -> None:
        """Return once these, instead of the ones before, are on disk. Raises StoreError."""
        rows = [(work, peak.seen_bytes, peak.wanted_bytes, peak.memory_bytes) for work, peak in peaks.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(sql.FORGET_PEAKS)
            connection.executemany(sql.SAVE_PEAK, rows)

        await self._file.do(write, writes=True)

    async def peaks(self) -> Mapping[Work, Peak]:
        """Return the peaks that were saved last, in their order. Raises StoreError."""
        rows = await self._rows(sql.PEAKS)
        return {Work(work): Peak(seen_bytes=seen, wanted_bytes=wanted, memory_bytes=memory) for work, seen, wanted, memory in rows}

    async def close(self) -> None:
        """Write what waits, and close."""
        await self._file.close()

    async def _jobs(self, statement: str, values: Mapping[str, Any]) -> list[Job]:
        def read(connection: sqlite3.Connection) -> list[Job]:  # decoded in the thread: a thousand jobs would hold the loop
            return [msgspec.json.decode(row[0], type=Job) for row in connection.execute(statement, values)]

        found: list[Job] = await self._file.do(read, writes=False)
        return found

    async def _rows(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self._file.do(lambda connection: connection.execute(statement, values).fetchall(), writes=False)
        return rows

    def _sweep(self, connection: sqlite3.Connection) -> None:
        self._results.sweep(file for (file,) in connection.execute(sql.RESULT_FILES))


def _append(connection: sqlite3.Connection, rows: Sequence[tuple[str | None, bytes]]) -> list[int]:
    return [connection.execute(sql.APPEND_EVENT, row).fetchone()[0] for row in rows]


def _row(job: Job, doc: bytes, file: ResultFile | None) -> dict[str, Any]:
    """Return the values that the statements about a job are given."""
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status.value,
        "attempt": job.attempt,
        "priority": job.priority,
        "created": job.created_wall,
        "completed": job.completed_wall,
        "doc": doc,
        "file": file.path if file else None,
        "sha256": file.sha256 if file else None,
        "worker": job.worker,
        "reason": job.reason.value,
        "message": job.message,
        "key": job.idempotency_key,
        "fingerprint": job.fingerprint,
    }


async def open_store(path: Path, *, events_kept: int = EVENTS_KEPT) -> SqliteJobs:
    """Return the store, open. Raises StoreError."""
    store = SqliteJobs(path, events_kept=events_kept)
    await store.opened()
    return store
