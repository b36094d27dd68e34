"""What a program leaves on a disk, looked at for progress: the growth of its output, the content of a file. May block: only ever in a thread."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_FILE_MAX_BYTES: Final = 256 * 1024


class Look(Protocol):
    """Reads what a program leaves on a disk. May block for as long as the disk does: only ever in a thread."""

    def moved(self, leader: int) -> bool:
        """Return whether it is something else than at the last look. The first look only takes note."""
        ...


class Output:
    """The growth of a program's output, wherever it goes: the log by name, and the leader's own stdout, which may be a file that was renamed or removed."""

    def __init__(self, log: Path) -> None:
        self._places = (str(log),)
        self._sizes: dict[tuple[int, int], int] | None = None

    def moved(self, leader: int) -> bool:
        """Return whether more was written."""
        sizes = {}
        for place in (*self._places, *((f"/proc/{leader}/fd/1",) if leader else ())):
            with suppress(OSError):
                found = os.stat(place)  # noqa: PTH116  # half the time of Path, for each program each second
                if stat.S_ISREG(found.st_mode):
                    sizes[found.st_dev, found.st_ino] = found.st_size
        before, self._sizes = self._sizes, sizes
        # A shorter file was cut by a rotation, which keeps its end, or emptied by a person. What was written meanwhile cannot be told: it counts as written.
        return before is not None and any(size and size != before.get(file, 0) for file, size in sizes.items())


class File:
    """The content of a progress file. A file that is missing, empty or rewritten with the same bytes shows nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: bytes | None = None
        self._first = True

    def moved(self, leader: int) -> bool:
        """Return whether something else stands in it."""
        del leader
        shown = _content(self._path)
        first, self._first = self._first, False
        if not shown or shown == self._shown:
            return False
        self._shown = shown
        return not first


def _content(path: Path) -> bytes:
    """Return what stands for the file's content: its digest; its size and time where it is large or cannot be read; nothing where it is missing or empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that somebody put there must not hold us up
    except FileNotFoundError:
        return b""
    except OSError:
        return _stamp(path)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _FILE_MAX_BYTES:
            return _stamp(path)
        data = os.read(fd, _FILE_MAX_BYTES)
        return hashlib.blake2b(data, digest_size=16).digest() if data else b""
    except OSError:
        return _stamp(path)
    finally:
        os.close(fd)


def _stamp(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}".encode()  # compared for being the same, never with a clock
