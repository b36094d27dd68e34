"""The front's connection: one status for all who ask for it at the same time, and never one that is older than the question."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from supervisor.control import Unreachable
from supervisor.front.client import Supervisor
from supervisor.shapes import StatusView
from tests.support.fake_supervisor import FakeSupervisor

WITHIN_S = 30


@pytest.fixture
def warden(tmp_path: Path) -> Iterator[FakeSupervisor]:
    one = FakeSupervisor(tmp_path / "var").start()
    yield one
    one.stop()


async def reach(front: Supervisor) -> None:
    """Return once the supervisor, which is there, has answered something else than a status: a slow machine may take its time to connect."""
    while True:
        with suppress(Unreachable):
            await front.ask("schedules")
            return


@asynccontextmanager
async def connected(warden: FakeSupervisor, *, there: bool = True) -> AsyncIterator[Supervisor]:
    front = Supervisor(warden.state_dir)
    try:
        if there:
            await reach(front)
        yield front
    finally:
        front.close()
        front.context.term()


async def a_turn() -> None:
    """Return once every task that is ready had its turn."""
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn


def statuses(warden: FakeSupervisor) -> int:
    return sum(op == "status" for op, _args, _by in warden.asked)


def test_those_who_ask_at_once_share_one_status(warden: FakeSupervisor) -> None:
    async def ask() -> list[StatusView]:
        async with connected(warden) as front:
            return await asyncio.gather(*(front.status() for _ in range(50)))

    found = asyncio.run(ask())

    assert len(found) == 50
    assert statuses(warden) == 1


def test_who_asks_while_a_status_is_under_way_gets_a_newer_one(warden: FakeSupervisor) -> None:
    made, go = threading.Event(), threading.Event()

    def wait() -> None:
        made.set()
        assert go.wait(WITHIN_S)

    warden.on_status = wait

    async def ask() -> list[bool]:
        async with connected(warden) as front:
            first = asyncio.create_task(front.status())
            assert await asyncio.to_thread(made.wait, WITHIN_S)
            warden.held = True
            later = [asyncio.create_task(front.status()) for _ in range(20)]
            await a_turn()
            go.set()
            return [one.held for one in await asyncio.gather(first, *later)]

    found = asyncio.run(ask())

    assert found == [False, *20 * [True]]
    assert statuses(warden) == 2


def test_who_leaves_early_takes_nobody_with_him(warden: FakeSupervisor) -> None:
    async def ask() -> StatusView:
        async with connected(warden) as front:
            leaves, stays = asyncio.create_task(front.status()), asyncio.create_task(front.status())
            await a_turn()
            leaves.cancel()
            return await stays

    found = asyncio.run(ask())

    assert not found.held
    assert statuses(warden) == 1


@pytest.mark.slow
def test_a_status_that_fails_fails_for_all_and_the_next_one_is_asked_anew(tmp_path: Path) -> None:
    warden = FakeSupervisor(tmp_path / "var")

    async def ask() -> tuple[list[StatusView | BaseException], StatusView]:
        async with connected(warden, there=False) as front:
            failed = await asyncio.gather(*(front.status() for _ in range(3)), return_exceptions=True)
            await asyncio.to_thread(warden.start)
            await reach(front)
            return failed, await front.status()

    failed, found = asyncio.run(ask())
    warden.stop()

    assert [type(one) for one in failed] == 3 * [Unreachable]
    assert not found.held
