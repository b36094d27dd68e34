"""What unmodified programs say by sd_notify(3): a datagram socket for each generation, and only who is of that generation is believed."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from supervisor.adapters import proc

USEC: Final = 1_000_000
_MESSAGE_MAX_BYTES: Final = 4096
"""What a service manager takes at the most; a longer one is dropped whole."""
_STATUS_MAX: Final = 200
_CREDENTIALS: Final = struct.Struct("3i")
_ROOM: Final = socket.CMSG_SPACE(_CREDENTIALS.size)
"""For the credentials alone. File descriptors that come along find no room, so the kernel closes them: that is also the answer that BARRIER=1 waits for."""
_DRAIN_MAX: Final = 64
_PAUSE_S: Final = 0.05
"""A program that floods its socket is read 64 messages at a time, and waits in between: the kernel holds it up, and nobody else."""
_ANCESTORS_MAX: Final = 32
_WATCHDOG: Final = b"WATCHDOG_USEC="


class Notice(Struct, frozen=True, kw_only=True):
    """One message. status is None where it has no STATUS=; extend_s is the time from now that it asks for."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    watchdog: bool = False
    status: str | None = None
    extend_s: float = 0.0


def read_notice(data: bytes) -> Notice:
    """Return what the message says. Fields that only a service manager can act on (MAINPID, FDSTORE, ERRNO, BARRIER) are passed over."""
    pairs = (line.partition("=") for line in data.decode(errors="replace").split("\n"))
    fields = {name: value for name, _, value in pairs}
    extend = fields.get("EXTEND_TIMEOUT_USEC", "")
    status = fields.get("STATUS")
    return Notice(
        ready=fields.get("READY") == "1",
        reloading=fields.get("RELOADING") == "1",
        stopping=fields.get("STOPPING") == "1",
        watchdog=fields.get("WATCHDOG") == "1",
        status=None if status is None else "".join(sign if sign.isprintable() else " " for sign in status).strip()[:_STATUS_MAX],
        extend_s=int(extend) / USEC if extend.isascii() and extend.isdigit() and len(extend) < len(str(2**64)) else 0.0,
    )


def is_member(pid: int, leader: int, socket_path: Path) -> bool:
    """Return whether a process is of the leader's tree: in its session, below it, or born with this NOTIFY_SOCKET in its environment.

    False for one that is gone already. Microseconds, so the loop may ask; /proc/PID/environ, which can block, is read last and hardly ever.
    """
    if not leader or pid <= 0:
        return False
    if pid == leader:  # not reaped before its generation is proved gone, so the number is nobody else's
        return True
    seen = proc.look(pid)
    if seen is None:
        return False
    above: proc.Seen | None = seen
    for _ in range(_ANCESTORS_MAX):
        if above is None:
            break
        if leader in (above.pid, above.session):
            return True
        above = proc.look(above.ppid) if above.ppid > 1 else None
    return b"NOTIFY_SOCKET=" + os.fsencode(socket_path) in _born_with(pid)


def watchdog_s(pid: int) -> float | None:
    """Return the seconds of the WATCHDOG_USEC that a process was born with, None where that cannot be read."""
    found = (word.removeprefix(_WATCHDOG) for word in _born_with(pid) if word.startswith(_WATCHDOG))
    return next((int(usec) / USEC for usec in found if usec.isdigit()), None)


def _born_with(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


class NoticeSocket:
    """A bound NOTIFY_SOCKET, read on the loop. `hear` gets what members of the tree say, `drop` the reason why another message was not believed."""

    def __init__(self, path: Path, *, leader: Callable[[], int], hear: Callable[[Notice], None], drop: Callable[[str], None]) -> None:
        """Bind to a socket file; one that an earlier supervisor left is replaced. leader returns the pid of the tree's leader, 0 for none. Raises OSError."""
        self.path = path
        self._leader = leader
        self._hear = hear
        self._drop = drop
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._again: asyncio.TimerHandle | None = None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
        except OSError:
            self._socket.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._drain)

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        with suppress(OSError):  # somebody removed the folder
            self.path.unlink(missing_ok=True)

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._socket, self._drain)

    def _drain(self) -> None:
        leader = self._leader()
        proved: set[int] = set()
        for _ in range(_DRAIN_MAX):
            try:
                data, ancillary, flags, _address = self._socket.recvmsg(_MESSAGE_MAX_BYTES, _ROOM)
            except BlockingIOError:
                return
            if flags & socket.MSG_TRUNC:
                self._drop("malformed notice")
                continue
            pid = next((_CREDENTIALS.unpack(value)[0] for _level, kind, value in ancillary if kind == socket.SCM_CREDENTIALS), 0)
            if pid in proved or is_member(pid, leader, self.path):
                proved.add(pid)
                self._hear(read_notice(data))
            else:
                self._drop("notice of a stranger")
        self._loop.remove_reader(self._socket)
        self._again = self._loop.call_later(_PAUSE_S, self._resume)
