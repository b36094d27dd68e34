"""Whether the configuration file was edited: looked at by name, so that an editor's rename is an edit like any other."""

import hashlib
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class Look(Struct, frozen=True):
    """What a look at the file tells without reading it."""

    mtime_ns: int
    size: int
    inode: int


class ConfigWatch:
    """Tells an edit from a touch, and waits until the file was left alone: between an editor's truncating and its writing there is nothing to read.

    A file that is gone, or cannot be read, for two looks is edited as well.
    """

    def __init__(self, path: Path, digest: str) -> None:
        """Begin with the file as it was loaded (digest: SHA-256 of its bytes, hexadecimal)."""
        self.path = path
        self._digest = digest
        self._seen = self._look()
        self._unsettled: tuple[Look | None] | None = None

    def edited(self) -> bool:
        """Return whether the file has other bytes than the last ones that were taken. Called each second; microseconds while nothing changes."""
        now = self._look()
        if now == self._seen:
            self._unsettled = None
            return False
        if (now,) != self._unsettled:  # gone for a moment, or still being written: look again next time
            self._unsettled = (now,)
            return False
        digest = ""
        with suppress(OSError):
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self._seen, self._unsettled = now, None
        if digest == self._digest:
            return False
        self._digest = digest
        return True

    def _look(self) -> Look | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return Look(found.st_mtime_ns, found.st_size, found.st_ino)
