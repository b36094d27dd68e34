"""What the front tells the supervisor about itself: sd_notify(3). Without NOTIFY_SOCKET nobody is told anything."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Self


class Notices:
    """The address that takes notices. No notice waits or raises: a lost one is no reason to stop."""

    def __init__(self, address: str = "", watchdog_every_s: float | None = None) -> None:
        """Talk to this address: a path, or "@name" in the abstract namespace; empty: to nobody."""
        self.watchdog_every_s = watchdog_every_s
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC (half of it is often enough) and WATCHDOG_PID (it may be meant for another process)."""
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        wanted = usec.isdigit() and int(usec) > 0 and pid in {"", str(os.getpid())}
        return cls(environ.get("NOTIFY_SOCKET", ""), int(usec) / 1_000_000 / 2 if wanted else None)

    def say(self, *lines: str) -> None:
        """Send one notice of these lines, such as "READY=1"."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as one:
            one.sendto("\n".join(lines).encode(), self._address)
