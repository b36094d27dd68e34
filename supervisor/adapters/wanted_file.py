"""The operator's last word on each worker, in a small file of the state folder: it stands over a crash of ours, a stop, and a reboot."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from supervisor.core.model import Wanted, WorkerName
from supervisor.errors import StoreError


class WantedFile:
    """Where the operator wants workers up or down. One that is not in it goes by its configuration."""

    def __init__(self, path: Path) -> None:
        """Read the file, where there is one. Raises StoreError: a word that cannot be read must not be guessed."""
        self._path = path
        self._writing = asyncio.Lock()
        try:
            self._words = msgspec.json.decode(path.read_bytes(), type=dict[WorkerName, Wanted])
        except FileNotFoundError:
            self._words = {}
        except (OSError, msgspec.DecodeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): it says which workers were stopped by hand; mend it, or remove it and stop them again"
            ) from error

    def words(self) -> Mapping[WorkerName, Wanted]:
        """Return every word that was given and not taken back."""
        return dict(self._words)

    async def save(self, words: Mapping[WorkerName, Wanted | None]) -> None:
        """Return once these words, and the earlier ones on other workers, are on disk; None takes a word back.

        Raises StoreError: they then stand in memory only, and are written with the next.
        """
        async with self._writing:
            merged = {**self._words, **words}
            kept = {name: wanted for name, wanted in merged.items() if wanted is not None}
            if kept == self._words and self._path.exists() == bool(kept):
                return
            self._words = kept
            try:
                await asyncio.to_thread(_write, self._path, msgspec.json.encode(kept))
            except OSError as error:
                raise StoreError(f"{error.filename or self._path}: {error.strerror or error}") from error


def _write(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, and return once that outlives a power cut. In a thread."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
