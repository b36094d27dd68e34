"""Locks for the benchmarks: Warden's, a file's (flock), and a key of a Redis that is started here; each is taken, given back, and held by who is killed."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from supervisor.control import Client
from tests.bench._warden import Warden

NEED: Final = "8GiB"
REDIS_TTL_S: Final = 1.0
REDIS_ASK_S: Final = 0.1
"""How often whoever waits for the key asks, redis-py's default for a lock that blocks."""

_FLOCK_HOLDER: Final = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
_DELETE_OWN: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class Lock(Protocol):
    """What is taken, given back, and held by a process that is killed."""

    name: str
    proof: str
    """What is known of the device when it is granted."""

    def take(self) -> None:
        """Wait for it, and have it."""

    def give(self) -> None:
        """Give it back, and return when the next one may have it without waiting."""

    def held_by_another(self) -> Callable[[], float]:
        """Have another process hold it; return what kills that one and returns the instant (monotonic) at which it did."""


class WardenLock:
    """A device of Warden's."""

    name = "warden"
    proof = "its memory, read twice; on disk"

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._client = Client(lambda: warden.endpoint)
        self._held: dict[str, Any] = {}

    def take(self) -> None:
        """Ask for the device."""
        self._held = self.ask(pid=os.getpid(), owner="bench")

    def give(self) -> None:
        """Give it back; it is free at the next reading."""
        self._client.ask("gpu.unlock", {"lease": self._held["lease"], "fence": self._held["fence"]})
        while self._warden.status().devices[0].holders:
            pass

    def held_by_another(self) -> Callable[[], float]:
        """Lock it in the name of a process that does nothing."""
        process = subprocess.Popen(["sleep", "3600"])
        self.ask(pid=process.pid, owner="sleep")
        return lambda: _killed(process)

    def ask(self, **who: Any) -> dict[str, Any]:
        """Return the answer, which is a grant. Raises RuntimeError for another."""
        answer: Any = self._client.ask("gpu.lock", {**who, "need": NEED, "ttl_s": 0.0, "timeout_s": 100.0}, timeout_s=110.0)
        if not answer["granted"]:
            raise RuntimeError(f"the device was to be granted: {answer['message']}")
        return dict(answer)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class FileLock:
    """flock, which a file server or a reboot forgets, and which knows nothing of a device."""

    name = "flock"
    proof = "nothing"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a")

    def take(self) -> None:
        """Lock the file."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def give(self) -> None:
        """Unlock it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def held_by_another(self) -> Callable[[], float]:
        """Have a process lock it."""
        process = subprocess.Popen([sys.executable, "-c", _FLOCK_HOLDER, str(self._path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if process.stdout is None or process.stdout.readline() != b"held\n":
            raise RuntimeError("the file could not be locked")
        return lambda: _killed(process)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RedisLock:
    """A key that is set where there is none, and that runs out: what the usual recipe does."""

    name = f"Redis key, PX {1000 * REDIS_TTL_S:.0f}"
    proof = "nothing"

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
        self._line = socket.create_connection((host, int(port)))
        self._answers = self._line.makefile("rb")

    def take(self) -> None:
        """Ask for the key until it is ours."""
        while not self._set("bench"):
            time.sleep(REDIS_ASK_S)  # noqa: TID251  # that is how such a lock is waited for

    def give(self) -> None:
        """Take the key away, if it is ours still."""
        self._ask("EVAL", _DELETE_OWN, "1", "lock", "bench")

    def held_by_another(self) -> Callable[[], float]:
        """Set the key as another, who will not renew it."""
        if not self._set("another"):
            raise RuntimeError("the key is there already")
        return time.monotonic

    def _set(self, owner: str) -> bool:
        return self._ask("SET", "lock", owner, "NX", "PX", str(int(1000 * REDIS_TTL_S))) == b"+OK"

    def _ask(self, *words: str) -> bytes:
        parts = [f"*{len(words)}", *(line for word in words for line in (f"${len(word)}", word))]
        self._line.sendall("".join(f"{part}\r\n" for part in parts).encode())
        return self._answers.readline().rstrip()

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._line.close()


def _killed(process: "subprocess.Popen[Any]") -> float:
    """Kill a process of ours, and return the instant at which that was asked for."""
    at_s = time.monotonic()
    process.send_signal(signal.SIGKILL)
    with process:
        process.wait()
    return at_s


@contextmanager
def closing(*locks: "WardenLock | FileLock | RedisLock") -> Iterator[None]:
    """Close them at the end."""
    try:
        yield
    finally:
        for lock in locks:
            lock.close()
