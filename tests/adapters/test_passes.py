"""Many proofs at once cost one pass, and none is given by a pass that began before it was asked for."""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from supervisor.adapters.passes import Passes
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

pytestmark = pytest.mark.asyncio


def record(number: int) -> Record:
    return Record(worker=WorkerName(f"w-{number}"), generation=number, token="", tag="", log="", boot_id="")


class Slow:
    """Each pass waits until it is let go, and answers with the generation of each record."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self, records: Sequence[Record]) -> list[list[int]]:
        self.made.append([one.generation for one in records])
        self.begun.release()
        assert self.let_go.acquire(timeout=20)
        if any(one.generation == 13 for one in records):
            raise RuntimeError("a bug")
        return [[one.generation] for one in records]


async def test_who_asks_during_a_pass_shares_the_next_one() -> None:
    slow = Slow()
    with ThreadPoolExecutor(4) as executor:
        passes = Passes(executor, slow)
        first = [asyncio.ensure_future(passes.over(record(number))) for number in (1, 2)]
        await asyncio.to_thread(slow.begun.acquire)
        second = [asyncio.ensure_future(passes.over(record(number))) for number in (3, 4, 5)]
        await asyncio.to_thread(os.sched_yield)  # they have asked
        second[1].cancel()

        slow.let_go.release(2)

        assert list(await asyncio.gather(*first)) == [[1], [2]]
        assert list(await asyncio.gather(second[0], second[2])) == [[3], [5]]
    assert slow.made == [[1, 2], [3, 4, 5]]


async def test_a_bug_in_a_pass_is_told_to_everybody_and_the_next_one_comes_all_the_same() -> None:
    slow = Slow()
    slow.let_go.release(2)
    with ThreadPoolExecutor(4) as executor:
        passes = Passes(executor, slow)

        with pytest.raises(RuntimeError, match="a bug"):
            await passes.over(record(13))

        assert await passes.over(record(1)) == [1]
