"""One HTTP connection: what uvicorn's own protocol leaves open. Who is on a unix socket; an end for whoever sends its head too slowly; problems as JSON."""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any, Final

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from supervisor.front.problems import MEDIA_TYPE, ProblemView

HEAD_S: Final = 15.0
"""How long a connection may take to send the head of its request; the time between two requests counts as well."""
LOCAL: Final = "warden_local"
PEER: Final = "warden_peer"
"""The process at the other end of a unix socket: its pid and start ticks; zeros where nobody proves one."""
_START_FIELD: Final = 19
"""Counted after the command's closing parenthesis."""


class Connection(H11Protocol):
    """A connection of ours."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Note whether the peer is on a unix socket: a missing address proves nothing, it is missing for a TCP peer that left as well."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        local = peer is not None and peer.family == socket.AF_UNIX
        self.app_state = {**self.app_state, LOCAL: local, PEER: _peer(peer) if local else (0, 0)}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._unset_head()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """A request that came whole is given the time it needs."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._unset_head()

    def on_response_complete(self) -> None:
        """From here the next head is waited for."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._unset_head()
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        problem = ProblemView(
            type="urn:warden:problem:usage", title="Bad Request", status=400, detail=f"{msg} Expected HTTP/1.1.", reason="usage", evidence="", retryable=False
        )
        body = msgspec.json.encode(problem)
        headers: list[Any] = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _unset_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def _peer(peer: socket.socket) -> tuple[int, int]:
    """Return who connected, as the kernel noted it then. The start ticks tell a pid that is another's by now."""
    pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it is gone, or of a pid namespace that is not seen from here
        return 0, 0
    return pid, int(fields[_START_FIELD])
