"""Garbage for the two sockets: bytes that are nothing, messages that are almost right, and lies about workers."""

import random
from pathlib import Path

import msgspec
import zmq

from supervisor.control import endpoint_of

_COUNT = 2000


def for_control(seed: float) -> list[bytes]:
    """Return messages that no request looks like."""
    source = random.Random(seed)  # noqa: S311  # garbage, not secrets
    nested = b"[" * 5000 + b"]" * 5000
    kinds = (lambda: source.randbytes(200), lambda: b"{" + source.randbytes(50), lambda: nested, lambda: b'{"id": "x", "op": "status", "v": 9}')
    return [source.choice(kinds)() for _ in range(_COUNT)] + [b"x" * 2**20]


def for_workers(seed: float) -> list[bytes]:
    """Return messages of no worker, and of workers with a guessed token."""
    source = random.Random(seed)  # noqa: S311  # garbage, not secrets
    stamp = {"v": 1, "worker": "alpha-0", "generation": source.randint(1, 9), "token": "guessed"}
    lies = (
        lambda: source.randbytes(200),
        lambda: msgspec.msgpack.encode({**stamp, "t": "ready", "note": ""}),
        lambda: msgspec.msgpack.encode({**stamp, "t": "result", "job": "j-1", "attempt": 1, "value": {"counted": -1}}),
        lambda: msgspec.msgpack.encode({**stamp, "t": "nonsense"}),
    )
    return [source.choice(lies)() for _ in range(_COUNT)]


def flood(state_dir: Path, name: str, messages: list[bytes]) -> int:
    """Send them to a socket of this supervisor as fast as it takes them. Returns how many went out."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 100)
    socket.connect(endpoint_of(state_dir, name))
    sent = 0
    for message in messages:
        if not socket.poll(200, zmq.POLLOUT):
            break
        socket.send(message, zmq.NOBLOCK)
        sent += 1
    socket.close()
    context.term()
    return sent
