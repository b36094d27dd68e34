"""Jobs in one SQLite file: one connection, owned by one thread; writes that come while a commit runs share the next one, and are acknowledged after it.

A window to wait in would cost a lone writer its length and win nothing: what comes during a commit is grouped anyway (measured: 2.6 ms against 8.9 ms for
one client, the same for eight).

SQLite before 3.51.3 can corrupt a WAL file that two connections use (https://sqlite.org/wal.html#walresetbug): nothing else ever opens this file.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from supervisor.core.model import TERMINAL, Job, Lease
from supervisor.errors import StoreError

BATCH_MAX: Final = 500
_BUSY_MS: Final = 5000

MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL, priority INTEGER NOT NULL,
        created REAL NOT NULL, completed REAL, doc BLOB NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_status ON jobs (status, created);
    CREATE INDEX jobs_by_created ON jobs (created);
    CREATE TABLE attempts (
        job TEXT NOT NULL, attempt INTEGER NOT NULL, worker TEXT, status TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
        PRIMARY KEY (job, attempt)
    ) STRICT;
    CREATE TABLE leases (id TEXT PRIMARY KEY, device TEXT NOT NULL, worker TEXT NOT NULL, fence INTEGER NOT NULL, doc BLOB NOT NULL) STRICT;
    CREATE TABLE fences (name TEXT PRIMARY KEY, fence INTEGER NOT NULL) STRICT;
    """,
)
"""One script for each version of the file, run in order; `user_version` says which were. A released one is never changed."""

_SAVE: Final = """
    INSERT INTO jobs (id, kind, status, attempt, priority, created, completed, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, attempt = excluded.attempt, priority = excluded.priority, completed = excluded.completed,
        doc = excluded.doc
    WHERE excluded.attempt >= jobs.attempt AND jobs.status NOT IN ('completed', 'failed', 'cancelled')
"""
_SAVE_ATTEMPT: Final = """
    INSERT INTO attempts (job, attempt, worker, status, reason, message) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (job, attempt) DO UPDATE SET worker = coalesce(excluded.worker, attempts.worker), status = excluded.status, reason = excluded.reason,
        message = excluded.message
    WHERE attempts.status NOT IN ('completed', 'failed', 'cancelled')
"""
_SAVE_FENCE: Final = """
    INSERT INTO fences (name, fence) VALUES ('device', ?) ON CONFLICT (name) DO UPDATE SET fence = max(fence, excluded.fence)
"""

_NEWEST: Final = """
    SELECT doc FROM jobs WHERE (? = '[]' OR status IN (SELECT value FROM json_each(?))) AND (? = '' OR kind = ?) ORDER BY created DESC, id DESC LIMIT ?
"""

_Work = Callable[[sqlite3.Connection], Any]


class _Ask(NamedTuple):
    """One thing for the thread to do, and who waits for it."""

    work: _Work
    writes: bool
    future: "asyncio.Future[Any]"


class SqliteJobs:
    """The store. Made by `open_store`."""

    def __init__(self, path: Path) -> None:
        """Start the thread; it opens the file. Raises StoreError where that fails."""
        self._path = path
        self._asked: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="warden-store", daemon=True)
        self._thread.start()

    async def opened(self) -> None:
        """Return once the file is open and of this release's version. Raises StoreError."""
        await self._opened

    async def save(self, job: Job) -> None:
        """Return once the job is on disk. Raises StoreError."""
        try:
            doc = msgspec.json.encode(job)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StoreError(f"job {job.id} holds what JSON cannot: {error}") from error
        row = (job.id, job.kind, job.status.value, job.attempt, job.priority, job.created_wall, job.completed_wall, doc)
        attempt = (job.id, job.attempt, job.worker, job.status.value, job.reason.value, job.message)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_SAVE, row)
            if job.attempt:
                connection.execute(_SAVE_ATTEMPT, attempt)

        await self._do(write, writes=True)

    async def find(self, job: str) -> Job | None:
        """Return the job with this id, or the only one whose id begins so."""
        rows = await self._read("SELECT doc FROM jobs WHERE id = ?", job)
        if not rows:
            rows = await self._read("SELECT doc FROM jobs WHERE id >= ? AND id < ? LIMIT 2", job, job + "\U0010ffff")
        return rows[0] if len(rows) == 1 else None

    async def newest(self, *, statuses: Sequence[str], kind: str, limit: int) -> Sequence[Job]:
        """Return jobs, the newest first; all of them where statuses or kind are empty."""
        wanted = msgspec.json.encode(statuses).decode()
        return await self._read(_NEWEST, wanted, wanted, kind, kind, limit)

    async def live(self) -> Sequence[Job]:
        """Return the jobs that have not ended, the oldest first."""
        ended = msgspec.json.encode(sorted(TERMINAL)).decode()
        return await self._read("SELECT doc FROM jobs WHERE status NOT IN (SELECT value FROM json_each(?)) ORDER BY created, id", ended)

    async def counts(self) -> Mapping[str, int]:
        """Return how many jobs there are in each status."""
        rows = await self._do(lambda connection: connection.execute("SELECT status, count(*) FROM jobs GROUP BY status").fetchall(), writes=False)
        return dict(rows)

    async def save_leases(self, leases: Sequence[Lease], fence: int) -> None:
        """Return once these, instead of the ones before, are on disk, and this fence if it is higher than the last. Raises StoreError."""
        rows = [(lease.id, lease.device, lease.worker, lease.fence, msgspec.json.encode(lease)) for lease in leases]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM leases")
            connection.executemany("INSERT INTO leases (id, device, worker, fence, doc) VALUES (?, ?, ?, ?, ?)", rows)
            connection.execute(_SAVE_FENCE, (fence,))

        await self._do(write, writes=True)

    async def leases(self) -> Sequence[Lease]:
        """Return the leases that were saved last. Raises StoreError."""
        rows = await self._do(lambda connection: connection.execute("SELECT doc FROM leases ORDER BY fence").fetchall(), writes=False)
        return [msgspec.json.decode(row[0], type=Lease) for row in rows]

    async def last_fence(self) -> int:
        """Return the highest fence ever saved."""
        rows = await self._do(lambda connection: connection.execute("SELECT max(fence) FROM fences").fetchall(), writes=False)
        return int(rows[0][0] or 0)

    async def close(self) -> None:
        """Write what waits, and close."""
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _read(self, sql: str, *values: str | int) -> list[Job]:
        def read(connection: sqlite3.Connection) -> list[Job]:  # decoded in the thread: a thousand jobs would hold the loop
            return [msgspec.json.decode(row[0], type=Job) for row in connection.execute(sql, values)]

        found: list[Job] = await self._do(read, writes=False)
        return found

    async def _do(self, work: _Work, *, writes: bool) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.put(_Ask(work, writes, future))
        return await future

    # --- below: only the thread ---

    def _run(self) -> None:
        try:
            connection = _open(self._path)
        except (sqlite3.Error, StoreError) as error:
            self._tell(self._opened, StoreError(f"{self._path}: {error}"))
            return
        self._tell(self._opened, None)
        while batch := self._take():
            self._do_batch(connection, batch)
        connection.close()

    def _take(self) -> list[_Ask]:
        """Return what is asked next; where it writes, together with everything else that waits by now. Empty when the store closes."""
        ask = self._asked.get()
        batch: list[_Ask] = []
        while ask is not None:
            batch.append(ask)
            if not batch[0].writes or len(batch) == BATCH_MAX:
                return batch
            try:
                ask = self._asked.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._asked.put(None)  # close after this batch
        return batch

    def _do_batch(self, connection: sqlite3.Connection, batch: list[_Ask]) -> None:
        """Do all of it in one transaction, then tell each who asked: nobody hears of a write before it is on disk."""
        try:
            connection.execute("BEGIN IMMEDIATE" if batch[0].writes else "BEGIN")
            results = [ask.work(connection) for ask in batch]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # this thread must not die: everybody would wait for ever
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            known = isinstance(error, (sqlite3.Error, msgspec.DecodeError))
            results = [StoreError(f"{self._path}: {error}") if known else error] * len(batch)
        for ask, result in zip(batch, results, strict=True):
            self._tell(ask.future, result)

    def _tell(self, future: asyncio.Future[Any], outcome: Any) -> None:
        def tell() -> None:
            if not future.done():
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(tell)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(f"written by a newer release (version {version}, this one knows {len(MIGRATIONS)}): use that release, or another state_dir")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
    return connection


async def open_store(path: Path) -> SqliteJobs:
    """Return the store, open. Raises StoreError."""
    store = SqliteJobs(path)
    await store.opened()
    return store
