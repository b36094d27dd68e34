"""Passes through /proc, put together: whoever asks while one is under way shares the next one."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from supervisor.adapters.trees import Record

Pass = Callable[[Sequence[Record]], list[list[int]]]
_Asked = tuple[Record, "asyncio.Future[list[int]]"]


class Passes:
    """Passes over trees in an executor, one at a time. What began before somebody asked proves nothing to him, so he gets the next."""

    def __init__(self, executor: Executor, one: Pass) -> None:
        """Run it in threads of this executor. one: takes the records and returns pids for each."""
        self._executor = executor
        self._one = one
        self._asked: list[_Asked] = []
        self._busy = False

    async def over(self, record: Record) -> list[int]:
        """Return what the next pass answers for this tree."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()
        self._asked.append((record, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._begin)  # those who ask in the same turn come along
        return await future

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        done = asyncio.get_running_loop().run_in_executor(self._executor, self._one, [record for record, _ in asked])
        done.add_done_callback(lambda done: self._done(asked, done))

    def _done(self, asked: list[_Asked], done: "asyncio.Future[list[list[int]]]") -> None:
        error = done.exception()
        for (_, future), left in zip(asked, [[]] * len(asked) if error else done.result(), strict=True):
            if future.done():  # nobody waits for it any more
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(left)
        if self._asked:
            self._begin()
        else:
            self._busy = False
