"""Writes, each job's in order, and what waits for them: nobody hears of anything before it is on disk."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final

from supervisor.core import actions as act
from supervisor.core.events import AnyEvent, SaveFailed
from supervisor.core.model import Job, JobId, Lease, LeaseId, Peak, Work
from supervisor.errors import StoreError
from supervisor.runtime.ports import EventStream, JobStore, StreamEvent

FENCES_AHEAD: Final = 100
"""So far the written fence is ahead of the last one given out: a grant acts before its lease is on disk, and no number may be given out again after a kill."""

_SAVE_AGAIN_S: Final = 1.0

Start = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]
Follow = Callable[[act.AnyAction, Job | None], None]


class Saves:
    """What is being written. follow starts what waited for a write; about is the job that was written.

    What is announced of a job's change is written down with it: whoever watches its events misses none that happened, and hears of none that did not.
    """

    def __init__(
        self,
        store: JobStore,
        stream: EventStream,
        *,
        start: Start,
        post: Callable[[AnyEvent], None],
        follow: Follow,
        told: Callable[[act.Announce, Job], StreamEvent],
    ) -> None:
        """Write into this store, and tell the stream. told: what whoever watches hears of an announcement about a job."""
        self._store = store
        self._stream = stream
        self._told = told
        self._start = start
        self._post = post
        self._follow = follow
        self.trouble = ""  # what the last write failed of; empty while writes succeed
        self._under_way: dict[JobId, asyncio.Task[None]] = {}
        self._leases: Mapping[LeaseId, Lease] = {}
        self._leases_write: asyncio.Task[None] | None = None
        self._peaks: Mapping[Work, Peak] | None = None
        self._peaks_write: asyncio.Task[None] | None = None

    def writes(self, job: JobId) -> bool:
        """Return whether a write of this job is under way."""
        return job in self._under_way

    def save(self, action: act.SaveJob) -> None:
        """Write a job after its earlier writes, also those that are being tried again: an older state must not come to lie over a newer one."""
        task = self._start(self._save(action, self._stream.take(action.job.id), after=self._under_way.get(action.job.id)))
        self._under_way[action.job.id] = task
        task.add_done_callback(lambda done: self._under_way.pop(action.job.id) if self._under_way.get(action.job.id) is done else None)

    async def _save(self, action: act.SaveJob, waiting: Sequence[StreamEvent], *, after: "asyncio.Task[None] | None") -> None:
        """Write the job with what was told of it before, and go on to what waited for it. A write that nobody can be refused for is tried until it succeeds."""
        if after is not None:
            await asyncio.wait({after})
        said = False
        numbers: Sequence[int] = ()
        events = [*waiting, *(self._told(following, action.job) for following in action.then if isinstance(following, act.Announce))]
        while True:
            try:
                numbers = await self._store.save(action.job, events)
            except StoreError as error:
                self.trouble = str(error)
                if not said or action.refuse_to:
                    self._post(SaveFailed(job=action.job.id, error=str(error), refuse_to=action.refuse_to))
                    said = True
                if action.refuse_to:
                    self._give_back(waiting)
                    return
                await asyncio.sleep(_SAVE_AGAIN_S)
            else:
                self.trouble = ""
                break
        if numbers:
            self._stream.publish(numbers, events)
        else:  # a write that came too late changes nothing, and nothing is told of it
            self._give_back(waiting)
        for following in action.then:
            self._follow(following, action.job)

    def _give_back(self, waiting: Sequence[StreamEvent]) -> None:
        for event in waiting:
            self._stream.post(event)

    async def mark(self, action: act.SaveMark) -> None:
        """Remember a small thing, and go on to what waited for that. What cannot be written is done all the same, and said not to last."""
        try:
            await self._store.save_marks({action.name: action.value})
        except StoreError as error:
            words = f"it is done, but could not be written down, and is forgotten when this supervisor ends: {error}"
            self._follow(act.Reply(request=action.request, error="failed", message=words), None)
        else:
            for following in action.then:
                self._follow(following, None)

    def leases(self, leases: Mapping[LeaseId, Lease], fence: int) -> None:
        """Write the leases where they changed: a supervisor that comes after us gives each holder that still runs its lease back."""
        if leases is not self._leases:
            self._leases = leases
            self._leases_write = self._start(self._save_leases(fence + FENCES_AHEAD))

    def peaks(self, peaks: Mapping[Work, Peak]) -> None:
        """Write what was learned of work where it changed. While a write runs, what changes waits for the next: only the last of them counts."""
        if self._peaks is None:  # as they were at the start: the store has them
            self._peaks = peaks
        elif peaks is not self._peaks:
            self._peaks = peaks
            if self._peaks_write is None:
                self._peaks_write = self._start(self._save_peaks())

    async def _save_peaks(self) -> None:
        written: Mapping[Work, Peak] | None = None
        while written is not self._peaks:
            written = self._peaks or {}
            try:
                await self._store.save_peaks(written)
            except StoreError:  # said by the job writes, which fail at the same time
                written = None
                await asyncio.sleep(_SAVE_AGAIN_S)
        self._peaks_write = None

    async def after_leases(self, action: act.SaveLeases) -> None:
        """Go on to what waits for the leases of this decision, which `leases` began to write."""
        if self._leases_write is not None:
            await asyncio.wait({self._leases_write})
        for following in action.then:
            self._follow(following, None)

    async def _save_leases(self, fence: int) -> None:
        while True:
            try:
                return await self._store.save_leases(tuple(self._leases.values()), fence)
            except StoreError:  # said by the job writes, which fail at the same time
                await asyncio.sleep(_SAVE_AGAIN_S)
