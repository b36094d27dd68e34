"""Old log files: NAME.1 is the newest. Bytes are copied whole, files shift by rename, and a head is cut off in place where the file system can do it."""

import ctypes
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_COLLAPSE_RANGE: Final = 0x08  # FALLOC_FL_COLLAPSE_RANGE of linux/falloc.h
_CHUNK: Final = 4 * 2**20
_LINE_SOUGHT: Final = 64 * 2**10
_COPIES_MAX: Final = 9
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

COPIED: Final = ".copied"
"""Ends the name of a whole copy whose bytes may or may not have left the live file yet: a later look files it away, so a crash repeats lines and loses none."""


def collapse(fd: int, count: int) -> None:
    """Take the first count bytes out of the file; whoever appends meanwhile goes on behind the rest.

    count is a multiple of the block size and below the file's size. ext4 and xfs can do it. Raises OSError: EOPNOTSUPP or EINVAL where the file system
    cannot (tmpfs, btrfs, NFS).
    """
    if _LIBC.fallocate(fd, _COLLAPSE_RANGE, 0, count) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def collapses(folder: Path) -> str:
    """Try `collapse` on a throw-away file in the folder. Returns an empty text when it worked, else why not."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            block = os.fstatvfs(file.fileno()).f_bsize
            os.write(file.fileno(), b"a" * block + b"b")
            collapse(file.fileno(), block)
            return "" if os.pread(file.fileno(), 2, 0) == b"b" else "the bytes that were left are not the right ones"
    except OSError as error:
        return error.strerror or str(error)


def cut_point(fd: int, below: int, reach: int) -> int:
    """Return where a head may be cut off: a whole number of blocks below this offset, at a line's start when one falls there within the last `reach` bytes.

    Lines of 100 bytes start at one block in 25, and free text at one in its lines' length: nearly every cut is clean. 0: the file is too small.
    """
    block = os.fstatvfs(fd).f_bsize
    highest = (below - 1) // block * block
    for point in range(highest, max(0, highest - reach), -block):
        if os.pread(fd, 1, point - 1) == b"\n":
            return point
    return max(0, highest)


def line_start(fd: int, at: int) -> int:
    """Return where the first whole line at or behind this offset begins; the offset itself when no line ends near it."""
    if at <= 0:
        return 0
    found = os.pread(fd, _LINE_SOUGHT, at - 1).find(b"\n")
    return at if found < 0 else at + found


def copy(fd: int, start: int, end: int, to: Path) -> None:
    """Copy the bytes from start to end into a new file, onto the disk; it has its name only when it is whole. Raises OSError (a full disk, say)."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    partial = to.with_name(f"{to.name}.partial")
    try:
        out = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            while start < end:
                sent = os.sendfile(out, fd, start, min(_CHUNK, end - start))
                if sent == 0:
                    break  # somebody made the file shorter meanwhile: there is nothing more to save
                start += sent
            os.fdatasync(out)  # before the original goes: else a power cut takes both
        finally:
            os.close(out)
        partial.replace(to)
    except OSError:
        with suppress(OSError):  # the first failure is the one to tell; the next copy writes over what is left
            partial.unlink(missing_ok=True)
        raise


def shift_in(log: Path, copied: Sequence[Path], keep: int) -> None:
    """Make the copied files (newest first) LOG.1, LOG.2 and so on; those that were there move up, and what goes past `keep` is dropped. Raises OSError."""
    room = len(copied)
    for number in range(keep, 0, -1):
        old = numbered(log, number)
        if number + room > keep:
            old.unlink(missing_ok=True)
        elif old.exists():
            old.replace(numbered(log, number + room))
    for number in range(room, 0, -1):
        if number <= keep:
            copied[number - 1].replace(numbered(log, number))
        else:
            copied[number - 1].unlink(missing_ok=True)


def numbered(log: Path, number: int) -> Path:
    """Return the path of an old file: sam-0.log.1."""
    return log.with_name(f"{log.name}.{number}")


def copy_path(log: Path, number: int) -> Path:
    """Return the path of a copy that is not filed away yet: sam-0.log.1.copied."""
    return log.with_name(f"{log.name}.{number}{COPIED}")


def left_copies(log: Path) -> list[Path]:
    """Return whole copies that a crash left behind, newest first."""
    found = (copy_path(log, number) for number in range(1, _COPIES_MAX + 1))
    return [path for path in found if path.exists()]
