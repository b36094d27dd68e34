"""The line to the guard: a guard that cannot be started is tried again, and what is published is never read in halves."""

import asyncio
import errno
import mmap
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.adapters import guard_client
from supervisor.adapters.guard_client import GuardClient
from supervisor.core.events import GuardActed, GuardKilled
from supervisor.core.limits import JSONValue
from supervisor.core.model import WorkerName
from supervisor.helpers.guard import Guard

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


def test_a_kill_is_news_as_soon_as_it_is_written_and_its_end_later() -> None:
    async def story() -> None:
        client, kills = GuardClient(Said()), mmap.mmap(-1, 4096)
        client._kills, writer = kills, Guard(mmap.mmap(-1, 4096), kills)
        writer.write("locked\n")

        nothing = client.news()
        place = writer.write("sam-0#3\t100\t200\t300")
        first, again = client.news(), client.news()
        writer.write("\t0.5\n", place)
        later = client.news()
        writer.write("\t0.25\n", writer.write("yolo-0#1\t1\t2\t3"))
        both = client.news()
        client.close()

        killed = GuardKilled(worker=WorkerName("sam-0"), generation=3, available_bytes=100, held_bytes=300)
        assert (nothing, first, again) == ([], [killed], [])
        acted = GuardActed(worker=WorkerName("sam-0"), generation=3, available_bytes=100, floor_bytes=200, freed_bytes=300, took_s=0.5)
        assert later == [acted]
        assert [(type(one), one.worker) for one in both] == [(GuardKilled, "yolo-0"), (GuardActed, "yolo-0")]

    asyncio.run(story())


def children() -> list[str]:
    """Return the pids of our own children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
