"""What people's programs can ask, by name. Reading is answered from the fleet and the store; changing goes through the inbox like everything else."""

import asyncio
import difflib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

import msgspec
from msgspec import Struct

from supervisor.core.actions import Reply
from supervisor.core.events import AnyEvent, CancelRequested, JobSubmitted, RecycleRequested, ShutdownRequested, WantedChanged
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import Evidence, Fleet, Job, JobId, JobStatus, WorkerName
from supervisor.errors import StoreError
from supervisor.runtime import views
from supervisor.runtime.carried import cannot_carry
from supervisor.runtime.ports import JobFiles, JobStore
from supervisor.runtime.requests import JobArgs, ListArgs, NoArgs, Rejected, StopArgs, SubmitArgs, WorkersArgs
from supervisor.shapes import DumpView, Intervention, JobView, MemoryView, StatusView, SupervisorView

ANSWER_MAX_S: Final = 8.0
"""Below the client's own deadline, so that it hears a reason and not silence."""

_VIEWS_A_TURN: Final = 200
"""Shapes made before the loop gives way: some 5 ms."""

_ID_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH: Final = 10


class Settings(Protocol):
    """The configuration as it can be read anew. Changes and problems are lines for people."""

    generation: int
    error: str

    def diff(self) -> tuple[list[str], list[str]]:
        """Return what a reload would change, and what is wrong with the file."""
        ...

    def reload(self) -> tuple[list[str], list[str]]:
        """Take the file as it is now, unless something is wrong with it. Returns what changed, and what is wrong."""
        ...


class About(Struct, frozen=True, kw_only=True):
    """What the supervisor can say of itself."""

    version: str
    config: Path
    started_at_s: float
    loop_lag_s: Callable[[], float]
    pss_bytes: Callable[[], int]
    dropped: Callable[[], int]
    interventions: Callable[[], list[Intervention]]
    settings: "Settings"
    evidence: Callable[[WorkerName, int], Awaitable[Evidence]]


class Operations:
    """Answers requests. Each operation is one method; its argument type says what it takes."""

    def __init__(
        self, *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], post: Callable[[AnyEvent], None], store: JobStore, files: JobFiles, about: About
    ) -> None:
        """Answer from these."""
        self._fleet = fleet
        self._limits = limits
        self._post = post
        self._store = store
        self._files = files
        self._about = about
        self._asked: dict[str, asyncio.Future[Reply]] = {}
        self._table: Mapping[str, tuple[type[Struct], Callable[[JSONValue], Awaitable[JSONValue]]]] = {
            "status": (NoArgs, self._status),
            "jobs.submit": (SubmitArgs, self._submit),
            "jobs.list": (ListArgs, self._list),
            "jobs.show": (JobArgs, self._show),
            "jobs.cancel": (JobArgs, self._cancel),
            "workers.start": (WorkersArgs, self._start),
            "workers.stop": (WorkersArgs, self._stop_workers),
            "workers.restart": (WorkersArgs, self._restart),
            "workers.recycle": (WorkersArgs, self._recycle),
            "workers.dump": (WorkersArgs, self._dump),
            "reload": (NoArgs, self._reload),
            "config.diff": (NoArgs, self._diff),
            "stop": (StopArgs, self._stop),
        }

    async def handle(self, op: str, args: Mapping[str, JSONValue]) -> JSONValue:
        """Return the answer. Raises Rejected."""
        if op not in self._table:
            raise Rejected("usage", f"operation {op!r} is unknown; {_suggestion(op, self._table)}")
        shape, operation = self._table[op]
        try:
            wanted = msgspec.convert(args, shape)
        except msgspec.ValidationError as error:
            raise Rejected("usage", f"{op}: {error}") from error
        try:
            return await operation(wanted)
        except StoreError as error:
            raise Rejected("failed", f"the job store does not answer: {error}") from error

    def answer(self, reply: Reply) -> None:
        """Give a decision's reply to whoever asked; one that is not waited for any more is dropped."""
        future = self._asked.pop(reply.request, None)
        if future is not None and not future.done():
            future.set_result(reply)

    async def _ask(self, event: Callable[[str], AnyEvent]) -> Reply:
        """Post an event and return the reply to it. Raises Rejected with the reply's sentence, or when none came in time."""
        request = uuid4().hex
        self._asked[request] = asyncio.get_running_loop().create_future()
        future = self._asked[request]
        self._post(event(request))
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                reply = await future
        except TimeoutError:
            self._asked.pop(request, None)
            raise Rejected("failed", f"no answer within {ANSWER_MAX_S:g} s: the job store may be stuck; see warden status") from None
        if reply.error:
            raise Rejected(reply.error, reply.message)
        return reply

    def _view(self, job: Job) -> JobView:
        now_s = time.monotonic()
        position = views.positions(self._fleet(), self._limits(), now_s).get(job.id) if job.status is JobStatus.QUEUED else None
        return views.job_view(job, position=position, now_s=now_s, folder=self._files.folder(job.id))

    async def _status(self, _args: NoArgs) -> StatusView:
        fleet, limits, now_s, about = self._fleet(), self._limits(), time.monotonic(), self._about
        return StatusView(
            supervisor=SupervisorView(
                pid=os.getpid(),
                version=about.version,
                uptime_s=now_s - about.started_at_s,
                config=str(about.config),
                state_dir=limits.supervisor.state_dir,
                log_dir=limits.supervisor.log_dir,
                loop_lag_ms=round(1000 * about.loop_lag_s(), 1),
                pss_bytes=about.pss_bytes(),
                dropped_messages=about.dropped() + fleet.dropped,
                stopping=fleet.stopping_since_s is not None,
                config_generation=about.settings.generation,
                config_error=about.settings.error,
            ),
            workers=[views.worker_view(worker, fleet=fleet, limits=limits, now_s=now_s) for worker in fleet.workers.values()],
            devices=[views.device_view(device, fleet=fleet, limits=limits, now_s=now_s) for device in fleet.devices.values()],
            memory=MemoryView(available_bytes=fleet.available_bytes),
            jobs=views.counts(fleet, await self._store.counts()),
            interventions=about.interventions(),
            unwell=views.unwell(fleet, limits, now_s),
        )

    async def _submit(self, args: SubmitArgs) -> JobView:
        model = self._limits().model_for(args.kind)
        if model is None:
            kinds = sorted(kind for spec in self._limits().workers.values() for kind in spec.serves)
            raise Rejected("usage", f"no worker serves {args.kind!r}; {_suggestion(args.kind, kinds)}")
        if args.priority is not None and args.priority < 0:
            raise Rejected("usage", f"priority {args.priority} found; expected 0 (the most urgent) or more")
        if args.max_attempts is not None and args.max_attempts < 1:
            raise Rejected("usage", f"max_attempts {args.max_attempts} found; expected 1 or more")
        if problem := cannot_carry(args.params):
            raise Rejected("usage", f"params cannot be taken: {problem}")
        spec = self._limits().workers[model]
        name = JobId("j-" + "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH)))
        job = Job(
            id=name,
            kind=args.kind,
            params=args.params,
            priority=spec.priority if args.priority is None else args.priority,
            max_attempts=args.max_attempts or 1 + self._limits().jobs.retries.total(),
        )
        await self._ask(lambda request: JobSubmitted(request=request, job=job))
        return self._view(await self._find(name))

    async def _find(self, name: str) -> Job:
        live = self._fleet().jobs
        found = [live[JobId(name)]] if name in live else [job for job in live.values() if job.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        stored = await self._store.find(name) if not found else None
        if stored is None:
            many = f"{len(found)} live jobs begin with {name!r}" if found else f"no job {name!r} is known, nor exactly one that begins so"
            raise Rejected("unknown", f"{many}; see: warden jobs list")
        return stored

    async def _list(self, args: ListArgs) -> list[JobView]:
        known = [status.value for status in JobStatus]
        for status in args.statuses:
            if status not in known:
                raise Rejected("usage", f"status {status!r} is unknown; known are {', '.join(known)}")
        live = self._fleet().jobs
        stored = await self._store.newest(statuses=args.statuses, kind=args.kind, limit=max(1, min(args.limit, 10_000)))
        now_s = time.monotonic()
        places = views.positions(self._fleet(), self._limits(), now_s)
        found = []
        for number, job in enumerate(stored, 1):
            found.append(views.job_view(live.get(job.id, job), position=places.get(job.id), now_s=now_s, folder=self._files.folder(job.id)))
            if number % _VIEWS_A_TURN == 0:
                await asyncio.sleep(0)
        return found

    async def _show(self, args: JobArgs) -> JobView:
        return self._view(await self._find(args.job))

    async def _cancel(self, args: JobArgs) -> JobView:
        job = await self._find(args.job)
        if not job.live:
            raise Rejected("failed", f"job {job.id} is {job.status} already: it can no longer be cancelled")
        await self._ask(lambda request: CancelRequested(request=request, job=job.id))
        return self._view(await self._find(job.id))

    def _named(self, name: str) -> tuple[WorkerName, ...]:
        workers = self._fleet().workers
        found = tuple(worker.name for worker in workers.values() if name in (worker.name, worker.model))
        if not found:
            raise Rejected("unknown", f"no worker {name!r}; there are {', '.join(workers) or 'none'}")
        return found

    async def _want(self, name: str, wanted: str, *, restart: bool = False) -> list[str]:
        workers = self._named(name)
        await self._ask(lambda request: WantedChanged(request=request, workers=workers, wanted=wanted, restart=restart))
        return list(workers)

    async def _start(self, args: WorkersArgs) -> list[str]:
        return await self._want(args.name, "up")

    async def _stop_workers(self, args: WorkersArgs) -> list[str]:
        return await self._want(args.name, "down")

    async def _restart(self, args: WorkersArgs) -> list[str]:
        return await self._want(args.name, "up", restart=True)

    async def _recycle(self, args: WorkersArgs) -> list[str]:
        workers = self._named(args.name)
        await self._ask(lambda request: RecycleRequested(request=request, workers=workers))
        return list(workers)

    async def _dump(self, args: WorkersArgs) -> list[DumpView]:
        """Look at every live process of the name at once; one whose end comes before that is left out."""
        fleet = self._fleet()
        named = [fleet.workers[name] for name in self._named(args.name)]
        there = [worker for worker in named if worker.process is not None and worker.process.pid is not None]
        seen = await asyncio.gather(*(self._about.evidence(worker.name, worker.generation) for worker in there))
        logs = Path(self._limits().supervisor.log_dir) / "workers"
        found = [views.dump_view(worker, evidence, logs / f"{worker.name}.log") for worker, evidence in zip(there, seen, strict=True) if evidence.process]
        if not found:
            gone = ", ".join(f"{worker.name} is {worker.state}" for worker in named)
            raise Rejected("failed", f"there is no process to look at: {gone}; see warden status, or start it with: warden workers start {args.name}")
        return found

    async def _reload(self, _args: NoArgs) -> list[str]:
        return _unless_wrong(*self._about.settings.reload())

    async def _diff(self, _args: NoArgs) -> list[str]:
        return _unless_wrong(*self._about.settings.diff())

    async def _stop(self, args: StopArgs) -> dict[str, int]:
        await self._ask(lambda request: ShutdownRequested(request=request, at_once=args.now))
        return {"pid": os.getpid()}


def _suggestion(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word as a question, or all of them."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(words) or 'none'}"


def _unless_wrong(changed: list[str], wrong: list[str]) -> list[str]:
    if wrong:
        raise Rejected("config", "\n".join(wrong))
    return changed
