"""One SQLite file: one connection, owned by one thread; writes that come while a commit runs share the next one, and are acknowledged after it.

A window to wait in would cost a lone writer its length and win nothing: what comes during a commit is grouped anyway (measured: 2.6 ms against 8.9 ms for
one client, the same for eight).

SQLite before 3.51.3 can corrupt a WAL file that two connections use (https://sqlite.org/wal.html#walresetbug): nothing else ever opens this file.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from supervisor.errors import StoreError

BATCH_MAX: Final = 500
_BUSY_MS: Final = 5000
_NO_ROOM: Final = "see whether its disk is full or broken: make room, or put supervisor.state_dir on another"
_NO_DATABASE: Final = "move it aside (with its -wal and -shm) to begin with an empty queue, or put a copy of it there"
_NOT_OURS: Final = "it must be a file that this user can write to, in a folder of the same kind: see what is there, and its permissions"
_REMEDIES: Final = (
    ("SQLITE_FULL", _NO_ROOM),
    ("SQLITE_IOERR", _NO_ROOM),
    ("SQLITE_NOTADB", _NO_DATABASE),
    ("SQLITE_CORRUPT", _NO_DATABASE),
    ("SQLITE_CANTOPEN", _NOT_OURS),
    ("SQLITE_READONLY", _NOT_OURS),
    ("SQLITE_PERM", _NOT_OURS),
)
"""What a person can do about an error, by the beginning of its name (https://sqlite.org/rescode.html)."""

Work = Callable[[sqlite3.Connection], Any]


class _Ask(NamedTuple):
    """One thing for the thread to do, and who waits for it."""

    work: Work
    writes: bool
    future: "asyncio.Future[Any]"


class SqliteThread:
    """The file. `opened` says whether it could be opened; `do` gives it work."""

    def __init__(self, path: Path, migrations: Sequence[str], *, prepare: Work) -> None:
        """Start the thread; it opens the file, brings it to the newest version, and runs `prepare` once."""
        self._path = path
        self._migrations = migrations
        self._prepare = prepare
        self._asked: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="warden-store", daemon=True)
        self._thread.start()

    async def opened(self) -> None:
        """Return once the file is open and of this release's version. Raises StoreError."""
        await self._opened

    async def do(self, work: Work, *, writes: bool) -> Any:
        """Return what the work returns, once it is on disk where it writes. Raises StoreError; then nothing of it was done."""
        if self._closed:
            raise StoreError(f"{self._path} is closed: the supervisor is about to end")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.put(_Ask(work, writes, future))
        return await future

    async def close(self) -> None:
        """Do what waits, and close."""
        self._closed = True
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- below: only the thread ---

    def _run(self) -> None:
        try:
            connection = _open(self._path, self._migrations, self._prepare)
        except (sqlite3.Error, StoreError, OSError) as error:
            self._tell(self._opened, StoreError(_sentence(self._path, error)))
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
            if len(batch) > 1:  # each by itself: nobody is refused for what another one asked
                for ask in batch:
                    self._do_batch(connection, [ask])
                return
            known = isinstance(error, (sqlite3.Error, msgspec.DecodeError, OverflowError))
            results = [StoreError(_sentence(self._path, error)) if known else error]
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


def _sentence(path: Path, error: Exception) -> str:
    """Return what went wrong, and where that is known what to do."""
    name = getattr(error, "sqlite_errorname", "")
    remedy = next((words for beginning, words in _REMEDIES if name.startswith(beginning)), "")
    return f"{path}: {error}{f'; {remedy}' if remedy else ''}"


def _open(path: Path, migrations: Sequence[str], prepare: Work) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    try:
        _migrate(connection, migrations)
        prepare(connection)
    except BaseException:
        connection.close()  # and with it what a migration that broke off holds
        raise
    return connection


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(f"written by a newer release (version {version}, this one knows {len(migrations)}): use that release, or another state_dir")
    for number, script in enumerate(migrations[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
