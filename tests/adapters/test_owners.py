"""Processes of programs outside Warden: proved by pid, start and boot; their end is noticed at once, and a pid that was given out anew is nobody's."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from supervisor.adapters.owners import Owners
from supervisor.runtime.peers import Peer

WITHIN_S = 20

pytestmark = pytest.mark.asyncio


@pytest.fixture
def program() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


async def found(owners: Owners, pid: int) -> Peer:
    peer = await owners.look(pid)
    assert peer is not None
    return peer


async def test_the_end_of_a_process_is_noticed(program: "subprocess.Popen[bytes]") -> None:
    owners, gone = Owners(), asyncio.Event()
    owners.watch("t-1", await found(owners, program.pid), gone.set)

    assert not gone.is_set()
    program.kill()

    await asyncio.wait_for(gone.wait(), WITHIN_S)
    owners.close()


async def test_who_lives_is_told_with_its_ancestors(program: "subprocess.Popen[bytes]") -> None:
    peer = await found(Owners(), program.pid)

    assert peer.kin[:2] == (program.pid, os.getpid())
    assert 1 not in peer.kin


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}])
async def test_a_pid_of_another_start_or_boot_is_nobodys(program: "subprocess.Popen[bytes]", change: dict[str, str | int]) -> None:
    owners, gone = Owners(), asyncio.Event()
    peer = await found(owners, program.pid)

    owners.watch("t-1", replace(peer, **change), gone.set)

    await asyncio.wait_for(gone.wait(), WITHIN_S)
    assert program.poll() is None


async def test_one_that_is_gone_already_is_told_of_at_once(program: "subprocess.Popen[bytes]") -> None:
    owners, gone = Owners(), asyncio.Event()
    peer = await found(owners, program.pid)
    program.kill()
    program.wait()

    owners.watch("t-1", peer, gone.set)

    await asyncio.wait_for(gone.wait(), WITHIN_S)
    assert await owners.look(program.pid) is None


async def test_a_watch_that_was_given_up_says_nothing_and_leaves_no_descriptor(program: "subprocess.Popen[bytes]") -> None:
    owners, gone, other = Owners(), asyncio.Event(), asyncio.Event()
    peer = await found(owners, program.pid)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # the listing itself is in both

    owners.watch("t-1", peer, gone.set)
    owners.watch("t-1", peer, gone.set)
    owners.watch("t-2", peer, other.set)
    owners.forget("t-1")
    owners.forget("t-1")
    program.kill()

    await asyncio.wait_for(other.wait(), WITHIN_S)
    assert not gone.is_set()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above


async def test_where_no_descriptor_is_left_it_is_tried_again_and_nobody_is_taken_for_dead(
    program: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    owners, gone = Owners(), asyncio.Event()
    peer = await found(owners, program.pid)
    tries: list[int] = []

    def full(pid: int) -> int:
        tries.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    owners.watch("t-1", peer, gone.set)
    monkeypatch.undo()
    program.kill()

    await asyncio.wait_for(gone.wait(), WITHIN_S)
    assert tries == [program.pid]
