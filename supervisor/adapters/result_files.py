"""Large results of jobs, each in a file of its own beside the job store: written whole and flushed before its row is, and believed only by its checksum."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import Struct

from supervisor.errors import StoreError

LARGE_BYTES: Final = 256 * 2**10
"""A result of more JSON than this is no part of its row: every list of jobs would carry it."""


class ResultFile(Struct, frozen=True):
    """Where a result lies, below the state folder, and what is in it."""

    path: str
    sha256: str
    size: int


class ResultFiles:
    """The folder `results` below the state folder. Everything here blocks: for a thread."""

    def __init__(self, state_dir: Path) -> None:
        """Keep them there; the folder is made with the first."""
        self._root = state_dir
        self._folder = state_dir / "results"

    def write(self, data: bytes) -> ResultFile:
        """Return the file once it is on disk. Raises StoreError."""
        name = f"{uuid4().hex}.json"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / f"{name}.new"
            try:
                _write(new, data)
                new.rename(self._folder / name)
            except OSError:
                new.unlink(missing_ok=True)
                raise
            _flush(self._folder)
        except OSError as error:
            raise StoreError(f"{self._folder}: a result of {len(data)} bytes cannot be kept: {error.strerror}; make room there") from error
        return ResultFile(f"{self._folder.name}/{name}", hashlib.sha256(data).hexdigest(), len(data))

    def read(self, path: str, sha256: str) -> Any:
        """Return the result. Raises StoreError where the file is away, or is not what was written."""
        file = self._root / path
        try:
            data = file.read_bytes()
        except OSError as error:
            raise StoreError(f"{file}: the result of a job cannot be read: {error.strerror}; bring the file back from a copy, or run the job again") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise StoreError(f"{file}: the result of a job has the checksum {found}, expected {sha256}: bring the file back from a copy, or run the job again")
        return msgspec.json.decode(data)

    def remove(self, paths: Iterable[str]) -> None:
        """Take these away; what cannot be is left for `sweep`."""
        for path in paths:
            _unlink(self._root / path)

    def sweep(self, kept: Iterable[str]) -> None:
        """Take away all but these: what a crash left between a file and its row."""
        known = {Path(path).name for path in kept}
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                if file.name not in known and file.suffix in {".json", ".new"}:
                    _unlink(file)


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # a file too many costs room, and no job its result
        return


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as out:  # noqa: PTH123  # a descriptor
        out.write(data)
        out.flush()
        os.fsync(descriptor)


def _flush(folder: Path) -> None:
    """Flush the folder itself: a name is on disk only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
