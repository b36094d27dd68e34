"""Stamps: what the workers under chaos write down themselves, as witnesses that do not depend on the supervisor; and the locks that make doubles visible."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

FILE: Final = "stamps.jsonl"


class Stamp(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened in a worker. what: born heart start step end left error double. at_s is CLOCK_MONOTONIC, one clock for all processes."""

    at_s: float
    what: str
    worker: str
    generation: int
    pid: int
    job: str = ""
    attempt: int = 0
    note: str = ""


class Pen:
    """Appends stamps of one process; one write for each, so that a kill leaves no half a line and no two mix."""

    def __init__(self, folder: Path, *, worker: str, generation: int) -> None:
        """Open the file that all write to."""
        self._fd = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._worker = worker
        self._generation = generation

    def write(self, what: str, *, job: str = "", attempt: int = 0, note: str = "") -> None:
        """Append one stamp."""
        stamp = Stamp(at_s=time.monotonic(), what=what, worker=self._worker, generation=self._generation, pid=os.getpid(), job=job, attempt=attempt, note=note)
        os.write(self._fd, msgspec.json.encode(stamp) + b"\n")


class Claim:
    """An exclusive lock that the kernel gives back with the process, however it ends. holder: who had it already; empty when it is ours now."""

    def __init__(self, path: Path, who: str) -> None:
        """Try to take it, and write down who we are."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.holder = os.pread(self._fd, 200, 0).decode() or "somebody"
        else:
            self.holder = ""
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, who.encode(), 0)

    def release(self) -> None:
        """Give it back."""
        os.close(self._fd)


class Reader:
    """Reads what was stamped since the last look."""

    def __init__(self, folder: Path) -> None:
        """Read from the beginning."""
        self._path = folder / FILE
        self._offset = 0
        self._decoder = msgspec.json.Decoder(Stamp)

    def read(self) -> list[Stamp]:
        """Return the new stamps, in the order of their writing."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [self._decoder.decode(line) for line in whole.splitlines()]
