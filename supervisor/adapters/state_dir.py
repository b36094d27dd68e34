"""The state folder: made private, held by one supervisor at a time, with short paths for its sockets. The log folder is held as well."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from supervisor.control import HOLDER_FILE, Holder, holder_of
from supervisor.errors import StateError, Taken

_SOCKET_PATH_MAX: Final = 107
_LONGEST_SOCKET: Final = "control.sock"
_LOCK: Final = "supervisor.lock"
_MARKERS: Final = frozenset({_LOCK, "jobs.sqlite"})
"""What only a state folder holds. The store alone too: that is what is put back from a backup."""
_NOBODYS: Final = frozenset({"lost+found"})
"""What a disk's own root holds before anybody has put a thing there."""


class StateDir:
    """The folders, locked for as long as this process lives (the kernel lets go of the locks whatever happens to us).

    closed: a sentence where others could enter it before, empty where they could not.
    """

    def __init__(self, path: Path, log_dir: Path, environ: Mapping[str, str], *, config: Path) -> None:
        """Make the folders and take the locks, before anything else is touched. Raises StateError or Taken."""
        self.path = path
        self.run_dir = path / "run"
        self.jobs_dir = path / "jobs"
        self.closed = _made_private(path)
        self._lock = _locked(path)
        try:
            self._log_lock = _held(log_dir, Holder(pid=os.getpid(), state_dir=str(path), config=str(config)))
        except (StateError, Taken):
            os.close(self._lock)
            raise
        try:
            for folder in (self.run_dir, self.jobs_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
            (log_dir / "workers").mkdir(parents=True, exist_ok=True)
            self.sockets_dir = self._short(environ)
        except OSError as error:
            raise StateError(f"{error.filename}: {error.strerror}: the state and log folders must be writable by this user") from error

    def _short(self, environ: Mapping[str, str]) -> Path:
        """Return a folder whose socket paths the kernel can take, and say in the state folder where it is."""
        pointer = self.path / "sockets"
        left = Path(pointer.read_text().strip()) if pointer.is_file() else None  # by a supervisor that was killed
        if left is not None and _is_private(left):
            return left  # whoever still tries there finds us again
        pointer.unlink(missing_ok=True)
        if len(os.fsencode(self.path / _LONGEST_SOCKET)) <= _SOCKET_PATH_MAX:
            return self.path
        folder = Path(tempfile.mkdtemp(prefix="warden-", dir=environ.get("XDG_RUNTIME_DIR") or None))  # 0700 by mkdtemp
        pointer.write_text(f"{folder}\n")
        return folder

    def close(self) -> None:
        """Let the lock go, and take the short folder away."""
        if self.sockets_dir != self.path:
            (self.path / "sockets").unlink(missing_ok=True)
            with suppress(OSError):  # somebody put a file there: theirs to take away
                self.sockets_dir.rmdir()
        os.ftruncate(self._log_lock, 0)
        os.close(self._log_lock)
        os.close(self._lock)


def _is_private(folder: Path) -> bool:
    """Return whether this is a folder of our own that nobody else can enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _made_private(path: Path) -> str:
    """Make the folder, or take one that is there and make it ours alone; return what changed, in a sentence. Raises StateError for somebody else's."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = sorted({found.name for found in path.iterdir()} - _NOBODYS)
        ours = not _MARKERS.isdisjoint(held)
        before = stat.S_IMODE(path.stat().st_mode)
        if not ours and (held or before & stat.S_ISVTX):  # closing a folder that others use would lock them out, /tmp with the whole machine
            what = f"holds {', '.join(held[:3])}{', ...' if len(held) > len(held[:3]) else ''}" if held else "is shared (sticky)"
            raise StateError(
                f"{path}: {what} and is no state folder of Warden's (it has no {_LOCK}): "
                "supervisor.state_dir must name a new or an empty folder, which is then closed to everybody else (0700)"
            )
        path.chmod(0o700)
    except OSError as error:
        raise _unusable(path, error) from error
    return "" if before == 0o700 else f"{path} had mode {before:04o}, and has 0700 now: it holds what only Warden may change"  # noqa: PLR2004  # as above


def _locked(path: Path) -> int:
    """Take the lock and say whose it is. Raises StateError or Taken."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "?"
        os.close(lock)
        raise Taken(f"another supervisor (pid {holder}) runs on {path}: stop that one, or give this one another state_dir") from error
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(lock)
        raise _unusable(path, error) from error
    return lock


def _unusable(path: Path, error: OSError) -> StateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError(f"{error.filename or path}: {error.strerror}: make room on its disk, or put supervisor.state_dir on another")
    return StateError(f"{error.filename or path}: {error.strerror}: supervisor.state_dir must be a folder that this user can write to")


def _held(log_dir: Path, holder: Holder) -> int:
    """Hold the log folder: of two supervisors that write the same logs, one has lost its state folder in an edit, and its workers run already."""
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(log_dir / HOLDER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError(f"{error.filename}: {error.strerror}: supervisor.log_dir must be a folder that this user can write to") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        who = holder_of(log_dir)
        named = f" (pid {who.pid}, on {who.state_dir}, by {who.config})" if who else ""
        stop = f"stop it with: warden --config {who.config} stop; or" if who else "stop that one, or"
        raise Taken(f"another supervisor{named} writes the logs in {log_dir}: {stop} give this one another log_dir") from error
    os.ftruncate(lock, 0)
    os.write(lock, msgspec.json.encode(holder))
    return lock
