"""ZeroMQ ROUTER sockets on the loop: plain sockets drained on `add_reader`, which costs a fifth of zmq.asyncio."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

from supervisor.errors import StateError

_DRAIN_MAX: Final = 500
"""Messages taken in one go, so that a flood cannot keep the loop from everything else."""
_LOOK_S: Final = 2.0


class SocketFile:
    """The name of a bound socket in the file system: who comes finds it by that alone."""

    def __init__(self, socket: "zmq.Socket[bytes]", path: Path) -> None:
        """Bind to the file; one that an earlier supervisor left is replaced. Raises StateError; the socket is closed then."""
        self.path = path
        self._socket = socket
        try:
            self._bind()
        except StateError:
            socket.close()
            raise

    def restore(self) -> bool:
        """Make the file again where somebody took it away, and return whether that was so. Those who are connected stay. Raises StateError."""
        if self._inode() == self._bound:
            return False
        self._bind()
        return True

    def remove(self) -> None:
        """Take the file away."""
        self.path.unlink(missing_ok=True)

    def _bind(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            self._socket.bind(f"ipc://{self.path}")  # beside the listener that has lost its name: to unbind that would end its connections
        except (OSError, zmq.ZMQError) as error:
            raise StateError(f"{self.path}: {error.strerror}: a socket must be possible there; put supervisor.state_dir on another file system") from error
        self._bound = self._inode()

    def _inode(self) -> int:
        with suppress(OSError):
            return self.path.lstat().st_ino
        return 0


async def keep(files: Sequence[SocketFile], say: Callable[[str, Mapping[str, str]], None]) -> None:
    """Look every few seconds whether the sockets can still be found, until cancelled: who comes would think that no supervisor runs."""
    lost: set[Path] = set()
    while True:
        await asyncio.sleep(_LOOK_S)
        for file in files:
            try:
                restored = file.restore()
            except StateError as error:
                if file.path not in lost:
                    say("socket_lost", {"reason": str(error)})
                lost.add(file.path)
                continue
            if restored:
                say("socket_restored", {"reason": f"{file.path} was taken away by somebody, and is made again"})
            lost.discard(file.path)


class Router:
    """A bound ROUTER socket: `receive` gets every message as (sender's routing id, bytes)."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", path: Path, receive: Callable[[bytes, bytes], None], *, max_message_bytes: int) -> None:
        """Bind to a socket file; one that an earlier supervisor left is replaced. Raises StateError."""
        self._receive = receive
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that comes back under its name is heard again
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        self.file = SocketFile(self._socket, path)
        self._loop = asyncio.get_running_loop()
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._again: asyncio.Handle | None = None
        self._loop.call_soon(self._drain)

    def send(self, to: bytes, data: bytes) -> bool:
        """Send, or return False where that client is away or does not read."""
        try:
            self._socket.send_multipart((to, data), zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        finally:
            self._look_again()  # the descriptor is edge-triggered: a send may swallow the edge of a message that came in meanwhile
        return True

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self.file.remove()

    def _look_again(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._again = None
        if self._socket.closed:
            return
        for _ in range(_DRAIN_MAX):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._receive(parts[0], parts[-1] if len(parts) > 1 else b"")
        self._look_again()
