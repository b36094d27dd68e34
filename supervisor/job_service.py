"""What jobs need beyond deciding: where they are kept, what is told of them, what is known of their parameters, and who cleans up after them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final

import zmq  # noqa: TC002  # one way to import, for people as for types

from supervisor.adapters.event_stream import PublishedEvents
from supervisor.adapters.job_files import JobFolders
from supervisor.adapters.jobs_memory import MemoryJobs
from supervisor.adapters.jobs_sqlite import SqliteJobs, open_store
from supervisor.adapters.kinds import KnownKinds
from supervisor.adapters.state_dir import StateDir
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import Fleet
from supervisor.runtime.asking import Asking
from supervisor.runtime.janitor import Janitor
from supervisor.runtime.job_operations import JobOperations
from supervisor.runtime.perform import Say
from supervisor.runtime.requests import Operation
from supervisor.runtime.schedules import Schedules

_KINDS: Final = "kinds.json"


class JobService:
    """The parts, open. Made by `open_jobs`."""

    def __init__(self, *, store: SqliteJobs | MemoryJobs, stream: PublishedEvents, files: JobFolders, kinds: KnownKinds, say: Say) -> None:
        """Keep the parts."""
        self.store = store
        self.stream = stream
        self.files = files
        self._kinds = kinds
        self._say = say
        self._saving: asyncio.Task[None] | None = None

    def open(self, *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], asking: Asking) -> Mapping[str, Operation]:
        """Return what can be asked about jobs, by name."""
        operations = JobOperations(fleet=fleet, limits=limits, asking=asking, store=self.store, files=self.files, kinds=self._kinds)
        self.janitor = Janitor(store=self.store, files=self.files, limits=limits, say=self._say)
        self.schedules = Schedules(store=self.store, submit=operations.take, fleet=fleet, limits=limits, say=self._say)
        return operations.table

    def learn(self, model: str, params: Mapping[str, JSONValue]) -> None:
        """Take what a worker says of the parameters of its jobs."""
        if self._kinds.learn(model, params) and (self._saving is None or self._saving.done()):
            self._saving = asyncio.get_running_loop().create_task(self._save_kinds())

    async def _save_kinds(self) -> None:
        try:
            await asyncio.to_thread(self._kinds.save)
        except OSError as error:  # they are learnt again from the next hello: nothing is lost but the check before it
            self._say("warning", "store_failed", {"reason": f"what workers say of their parameters could not be kept: {error}"})


async def open_jobs(stack: AsyncExitStack, *, limits: Limits, state: StateDir, context: "zmq.Context[zmq.Socket[bytes]]", say: Say) -> JobService:
    """Return the parts, open; the stack closes them. Raises StoreError or StateError."""
    store = await open_store(state.path / "jobs.sqlite") if limits.jobs.backend == "sqlite" else MemoryJobs()
    stack.push_async_callback(store.close)
    stream = PublishedEvents(context, state.sockets_dir / "events.sock", store=store, say=say)
    stack.push_async_callback(stream.close)
    return JobService(store=store, stream=stream, files=JobFolders(state.jobs_dir), kinds=KnownKinds(state.path / _KINDS), say=say)
