"""The sockets that the HTTP front listens on, bound by the supervisor and handed down: while the front is restarted, callers wait instead of being refused."""

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.errors import StateError

OFF: Final = "off"
BACKLOG: Final = 2048
"""Callers that wait while there is no front; the kernel cuts it to net.core.somaxconn."""
UNIX_MODE: Final = 0o660
_PATH_MAX: Final = 107
_PORT_MAX: Final = 65_535
_PRIVILEGED: Final = 1024


class Listening:
    """Open sockets. url: where HTTP is served over TCP, "" where it is not."""

    def __init__(self, bind: str, unix: str = "") -> None:
        """Bind and listen. bind: "127.0.0.1:8650", "[::1]:0" or "off"; port 0 is any free one. unix: a socket file as well. Raises StateError; then none is."""
        self.url = ""
        self._sockets: list[socket.socket] = []
        self._unix: tuple[Path, int] | None = None
        try:
            if bind != OFF:
                self._sockets.append(_tcp(bind))
                self.url = _url(self._sockets[0])
            if unix:
                path = Path(unix)
                self._sockets.append(_unix(path))
                self._unix = (path, path.lstat().st_ino)
        except StateError:
            self.close()
            raise

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors, the TCP one first. They are closed on exec: whoever starts the front hands them down by name."""
        return tuple(one.fileno() for one in self._sockets)

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still ours."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()
        if self._unix is not None:
            path, inode = self._unix
            with suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()


def address_of(bind: str) -> tuple[socket.AddressFamily, str, int]:
    """Return family, host and port of "ADDRESS:PORT". Names are not looked up: that may take minutes. Raises ValueError with the expected form."""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdecimal() else -1
    except ValueError:
        address, number = None, -1
    if address is None or not colon or not 0 <= number <= _PORT_MAX or bracketed != (address.version == 6):  # noqa: PLR2004  # IPv6
        raise ValueError('must be "ADDRESS:PORT", such as "127.0.0.1:8650", "[::1]:8650" or "0.0.0.0:0" (port 0: any free one), or "off"')
    return socket.AF_INET6 if bracketed else socket.AF_INET, host, number


def _tcp(bind: str) -> socket.socket:
    try:
        family, host, port = address_of(bind)
    except ValueError as error:
        raise StateError(f'api.bind = "{bind}" {error}') from error
    try:
        one = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StateError(f'api.bind = "{bind}": {error.strerror}: this machine has no such addresses; bind to another one') from error
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free at once after its last owner
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "[::]" must not take IPv4's port in silence
        one.bind((host, port))
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise StateError(f'api.bind = "{bind}": {_why(error, host, port)}') from error
    return one


def _why(error: OSError, host: str, port: int) -> str:
    """Return what the system said and what to do about it."""
    advice = {
        errno.EADDRINUSE: f"another program listens on port {port} (ss -ltnp names it): end that one, or take another port",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine (ip address shows them): bind to one that is, such as 127.0.0.1",
        errno.EACCES: f"ports below {_PRIVILEGED} need root or CAP_NET_BIND_SERVICE: take a higher port",
        errno.EPERM: "this user may not listen there: take another port, or another user",
    }
    return f"{error.strerror}: {advice.get(error.errno or 0, 'nothing can listen there: bind to another address')}"


def _url(one: socket.socket) -> str:
    """Return where a client on this machine finds it; one that is bound to all addresses is found at the loopback one."""
    host, port = one.getsockname()[:2]
    if one.family == socket.AF_INET6:
        return f"http://[{'::1' if host == '::' else host}]:{port}"
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  # compared with, not bound to


def _unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _PATH_MAX:
        raise StateError(f'api.socket = "{path}" has {len(os.fsencode(path))} bytes, and a socket\'s path has at most {_PATH_MAX}: take a shorter one')
    _make_room(path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file is made with this mode less the umask: never open to others, not even for a moment, and the umask of other threads is left alone.
        os.fchmod(one.fileno(), UNIX_MODE)
        one.bind(str(path))
        path.chmod(UNIX_MODE)
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise StateError(f'api.socket = "{path}": {error.strerror}: its folder must be there and writable by this user') from error
    return one


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens on any more. Raises StateError for a living one, and for what is no socket."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f'api.socket = "{path}": {error.strerror}: its folder must be there and readable by this user') from error
    if not stat.S_ISSOCK(found.st_mode):
        raise StateError(f'api.socket = "{path}" is there and no socket: it is left alone; remove it, or take another path')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.0)  # a living one whose queue is full would hold us up
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError:  # full, or not for us: somebody is there
            pass
    raise StateError(f'api.socket = "{path}": another program listens there: end that one, or take another path')
