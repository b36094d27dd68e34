"""Our own notices to systemd, over the datagram socket of sd_notify(3). Without NOTIFY_SOCKET every one of them does nothing."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

_USEC: Final = 1_000_000
_OFTEN_ENOUGH: Final = 2


class Systemd:
    """The service manager that started us. No notice waits or raises: a lost one is no reason to stop; each returns whether it was sent."""

    def __init__(self, address: str = "", watchdog_every_s: float | None = None) -> None:
        """Talk to this address: a path, or "@name" in the abstract namespace; empty: to nobody.

        watchdog_every_s: how often `watchdog` must be called, None when nobody waits for it.
        """
        self.watchdog_every_s = watchdog_every_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (half the watchdog's time is often enough; it may be meant for another process)."""
        address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        every_s = int(usec) / _USEC / _OFTEN_ENOUGH if usec.isascii() and usec.isdigit() and int(usec) and for_us else None
        return cls(address if address.startswith(("/", "@")) else "", every_s)

    def ready(self) -> bool:
        """Everything is up; also the end of `reloading`."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`, such as "2/2 workers up, gpu0 held by sam-0"."""
        return self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> bool:
        """We are on our way out; TimeoutStopSec has begun."""
        return self._send("STOPPING=1")

    def reloading(self, monotonic_usec: int) -> bool:
        """The configuration is being read again; `ready` ends it. monotonic_usec: CLOCK_MONOTONIC at its begin (Type=notify-reload asks for it)."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec}")

    def watchdog(self) -> bool:
        """We turn. To be sent only where the loop has really turned since the last one."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> bool:
        if self._socket is not None:
            with suppress(OSError):  # systemd itself restarts, or its buffer is full: the next notice may come through
                self._socket.sendto(text.encode(errors="replace"), self._address)
                return True
        return False
