"""The line to the guard: a guard that cannot be started is tried again, and what is published is never read in halves."""

import asyncio
import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.adapters import guard_client
from supervisor.adapters.guard_client import GuardClient
from supervisor.core.limits import JSONValue

MAX_S = 30.0


class Said:
    """What the client says; another saying sets `came`."""

    def __init__(self) -> None:
        self.reasons: list[JSONValue] = []
        self.came = asyncio.Event()

    def __call__(self, event: str, fields: Mapping[str, JSONValue]) -> None:
        """Take one in."""
        self.reasons.append(f"{event}: {fields['reason']}")
        self.came.set()


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("call", ["posix_spawn", "memfd_create", "pidfd_open"])
@pytest.mark.parametrize("first", [True, False], ids=["the first", "another"])
def test_a_guard_that_cannot_be_started_is_said_and_tried_again_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, call: str, *, first: bool) -> None:
    monkeypatch.setattr(guard_client, "_AGAIN_S", 0.01)
    real, bugs = getattr(os, call), list[object]()
    left = 3

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: bugs.append(context))
        before = descriptors()
        started, said = asyncio.Event(), Said()

        def sometimes(*arguments: object, **more: object) -> int:
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if left < -1 or call != "memfd_create":  # of the two pieces the second
                started.set()
            return int(real(*arguments, **more))

        if first:
            monkeypatch.setattr(os, call, sometimes)
        client = GuardClient(said)
        if not first:
            monkeypatch.setattr(os, call, sometimes)
            os.kill(int(children()[0]), signal.SIGKILL)
        await asyncio.wait_for(started.wait(), MAX_S)
        alive = children()
        client.close()
        monkeypatch.undo()
        refused = [reason for reason in said.reasons if "could not be started: [Errno 11]" in str(reason)]
        assert (len(refused), len(alive), bugs) == (3, 1, [])
        assert all(str(reason).startswith("guard_ended: ") for reason in said.reasons)
        assert children() == []
        assert descriptors() == before + 2  # of its two pieces of shared memory

    asyncio.run(story())


def children() -> list[str]:
    """Return the pids of our own children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
