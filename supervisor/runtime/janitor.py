"""Takes finished jobs away once they were kept long enough: their rows, then their folders. Live ones it never touches, because the store gives it none."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.core.limits import Limits
from supervisor.core.model import JobId
from supervisor.errors import StoreError
from supervisor.runtime.perform import Say
from supervisor.runtime.ports import JobFiles, JobStore

EVERY_S: Final = 30.0
TOMBSTONES_S: Final = 30 * 86_400.0
"""How long an id answers "gone" instead of "unknown": the month that AIP-151 suggests for operations."""
KEYS_S: Final = 86_400.0
"""How long the same idempotency key gives the same job: what the IETF draft's implementers keep."""
_ROUNDS_MAX: Final = 20
"""So many times 500 jobs in one sweep; the rest waits for the next, so that the disk has other things to do as well."""


class Janitor:
    """Sweeps until cancelled. A folder that cannot be removed is tried again in each sweep, and spoken of once."""

    def __init__(self, *, store: JobStore, files: JobFiles, limits: Callable[[], Limits], say: Say) -> None:
        """Sweep this store and these folders."""
        self._store = store
        self._files = files
        self._limits = limits
        self._say = say
        self._left: set[JobId] | None = None  # folders without a job; None until those of an earlier supervisor were looked for
        self._said = False

    async def run(self) -> None:
        """Sweep now, and then every 30 s."""
        while True:
            await self.sweep(time.time())
            await asyncio.sleep(EVERY_S)

    async def sweep(self, now_wall: float) -> None:
        """Take away what was kept long enough."""
        problems: list[str] = []
        expired: list[JobId] = []
        try:
            if self._left is None:
                self._left = await self._left_behind()
            await self._expire(now_wall, expired)
        except StoreError as error:
            problems.append(str(error))
        if expired:
            self._say("info", "jobs_expired", {"count": len(expired), "reason": f"kept for {self._limits().jobs.keep_finished_s:g} s after their end"})
        problems += await self._remove([*(self._left or ()), *expired])
        if problems and not self._said:
            self._say("warning", "cleanup_failed", {"count": len(problems), "reason": problems[0]})
        self._said = bool(problems)

    async def _expire(self, now_wall: float, expired: list[JobId]) -> None:
        """Take rows away, and add the ids to what expired: also to what did so before the store failed."""
        ended_before = now_wall - self._limits().jobs.keep_finished_s
        for _ in range(_ROUNDS_MAX):
            found = await self._store.expire(ended_before=ended_before, gone_before=now_wall - TOMBSTONES_S, keys_before=now_wall - KEYS_S)
            expired += found
            if not found:
                break

    async def _left_behind(self) -> set[JobId]:
        """Return the folders of jobs that an earlier supervisor took away and could not finish with. One that no job ever had is somebody else's."""
        return {job for job in await self._files.kept() if await self._store.gone(job) is not None}

    async def _remove(self, jobs: Iterable[JobId]) -> list[str]:
        """Remove folders, and remember those that stay. Returns a sentence for each."""
        problems = []
        for job in jobs:
            try:
                await self._files.remove(job)
            except StoreError as error:
                problems.append(str(error))
                self._left = (self._left or set()) | {job}
            else:
                self._left = (self._left or set()) - {job}
        return problems
