"""What can be asked about jobs: submitted once and only once, found while they live and after, ended, paused, explained."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec

from supervisor.core.admission import Estimate, never
from supervisor.core.events import AnyEvent, CancelRequested, HoldChanged, JobSubmitted, PauseRequested, ResumeRequested, StartRequested
from supervisor.core.gpu import wrong_device
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import DeviceId, Fleet, Job, JobId, JobStatus, Source
from supervisor.runtime import views
from supervisor.runtime.asking import Asking
from supervisor.runtime.carried import cannot_carry
from supervisor.runtime.event_views import event_view
from supervisor.runtime.instants import instant, wall_of
from supervisor.runtime.job_ids import new_id
from supervisor.runtime.ports import JobFiles, JobStore
from supervisor.runtime.requests import (
    EventsArgs,
    JobArgs,
    ListArgs,
    NoArgs,
    Operation,
    PageArgs,
    Rejected,
    RetryArgs,
    SubmitArgs,
    check_priority,
    size_of,
    suggestion,
)
from supervisor.runtime.why import why_view
from supervisor.shapes import EventsPage, HoldView, JobsPage, JobView, KindView, LiveView, WhyView
from supervisor.units import say_duration, spell_size

_VIEWS_A_TURN: Final = 200
"""Shapes made before the loop gives way: some 5 ms."""

_LIST_MAX: Final = 10_000
_PAGE_MAX: Final = 500
_EVENTS_MAX: Final = 1000
_KEY_MAX: Final = 255
_MAX_ATTEMPTS: Final = 1000  # nobody tries oftener, and every number of it fits into the file


class Kinds(Protocol):
    """What the workers say of the parameters of their jobs."""

    def wrong(self, kind: str, params: JSONValue) -> str:
        """Return what can never work about these parameters, in a sentence; empty where nothing is known to be wrong."""
        ...

    def schema(self, kind: str) -> JSONValue:
        """Return the JSON Schema of the parameters as its worker gave it, None while it is not known."""
        ...


class JobOperations:
    """Answers requests about jobs from the fleet and the store."""

    def __init__(self, *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], asking: Asking, store: JobStore, files: JobFiles, kinds: Kinds) -> None:
        """Answer from these."""
        self._fleet = fleet
        self._limits = limits
        self._ask = asking.ask
        self._store = store
        self._files = files
        self._kinds = kinds
        self._keys_under_way: set[str] = set()
        self.table: Mapping[str, Operation] = {
            "jobs.submit": (SubmitArgs, self._submit),
            "jobs.list": (ListArgs, self._list),
            "jobs.page": (PageArgs, self._page),
            "jobs.show": (JobArgs, self._show),
            "jobs.why": (JobArgs, self._why),
            "jobs.cancel": (JobArgs, self._cancel),
            "jobs.pause": (JobArgs, self._pause),
            "jobs.resume": (JobArgs, self._resume),
            "jobs.start": (JobArgs, self._start),
            "jobs.retry": (RetryArgs, self._retry),
            "jobs.hold": (NoArgs, self._hold),
            "jobs.release": (NoArgs, self._release),
            "events.since": (EventsArgs, self._events),
            "jobs.live": (NoArgs, self._live),
            "kinds": (NoArgs, self._known_kinds),
        }

    # --- a new job ---

    async def _submit(self, args: SubmitArgs) -> JobView:
        asked = (
            args.kind,
            args.params,
            args.priority,
            args.max_attempts,
            args.run_at,
            args.hold,
            *([args.device] if args.device else []),
            *(["memory", args.memory] if args.memory else []),
        )
        return await self._once(args.idempotency_key, asked, lambda: self._new(args))

    async def _once(self, key: str, asked: JSONValue, new: Callable[[], Job]) -> JobView:
        """Return the job that was made under this key for what is asked, or make it; without a key a new one each time."""
        if not key:
            return await self._take(new())
        if len(key) > _KEY_MAX:
            raise Rejected("usage", f"the idempotency key has {len(key)} characters; expected at most {_KEY_MAX}")
        print_of_it = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
        with self._alone(key):
            earlier = await self._store.by_key(key)
            if earlier is None:
                return await self._take(msgspec.structs.replace(new(), idempotency_key=key, fingerprint=print_of_it))
        name, fingerprint = earlier
        if fingerprint != print_of_it:
            raise Rejected("invalid", f"the idempotency key {key!r} was used for another request, which made {name}: take a new key")
        return self._view(await self._find(name))

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Let nobody else ask with the same key meanwhile: it would find no job yet, and make a second one."""
        if key in self._keys_under_way:
            raise Rejected("conflict", f"a request with the idempotency key {key!r} is being taken just now: ask again in a moment")
        self._keys_under_way.add(key)
        try:
            yield
        finally:
            self._keys_under_way.discard(key)

    def _new(self, args: SubmitArgs) -> Job:
        """Return the job that was asked for. Raises Rejected for what can never work."""
        model = self._limits().model_for(args.kind)
        if model is None:
            kinds = sorted(kind for spec in self._limits().workers.values() for kind in spec.serves)
            raise Rejected("usage", f"no worker serves {args.kind!r}; {suggestion(args.kind, kinds)}")
        if args.priority is not None:
            check_priority(args.priority)
        if args.max_attempts is not None and not 1 <= args.max_attempts <= _MAX_ATTEMPTS:
            raise Rejected("usage", f"max_attempts {args.max_attempts} found; expected 1 to {_MAX_ATTEMPTS}")
        if problem := cannot_carry(args.params):
            raise Rejected("usage", f"params cannot be taken: {problem}")
        try:
            run_at = wall_of(args.run_at) if args.run_at else None
        except ValueError as error:
            raise Rejected("usage", f"run_at: {error}") from error
        spec = self._limits().workers[model]
        if args.device and (problem := wrong_device(self._fleet(), args.device, spec.gpu_bytes, self._limits().gpu.margin_bytes)):
            raise Rejected("invalid", problem)
        memory = Estimate(size_of("memory", args.memory), Source.DECLARED) if args.memory else Estimate()
        if problem := never(self._limits(), self._fleet().memory_bytes, memory):
            raise Rejected("invalid", problem)
        return Job(
            id=new_id(),
            kind=args.kind,
            params=args.params,
            priority=spec.priority if args.priority is None else args.priority,
            max_attempts=args.max_attempts or 1 + self._limits().jobs.retries.total(),
            run_at_wall=run_at,
            held=args.hold,
            only_on=DeviceId(args.device) if args.device else None,
            memory_bytes=memory.used_bytes,
            memory_from=memory.source if memory.used_bytes else Source.NONE,
        )

    async def take(self, job: Job) -> None:
        """Return once the job is on disk. Raises Rejected."""
        if problem := self._kinds.wrong(job.kind, job.params):
            raise Rejected("invalid", problem)
        await self._ask(lambda request: JobSubmitted(request=request, job=job))

    async def _take(self, job: Job) -> JobView:
        await self.take(job)
        fleet = self._fleet()
        known = fleet.jobs.get(job.id) or fleet.arriving.get(job.id)  # the answer may come before the queue knows it; the store need not be asked
        return self._view(known or await self._find(job.id))

    async def _retry(self, args: RetryArgs) -> JobView:
        job = await self._find(args.job)
        if job.live:
            raise Rejected("conflict", f"job {job.id} is {job.status}: only what has ended can be tried again as a new job")
        again = SubmitArgs(
            kind=job.kind,
            params=job.params or {},
            priority=job.priority,
            max_attempts=job.max_attempts,
            device=job.only_on or "",
            memory=spell_size(job.memory_bytes) if job.memory_from is Source.DECLARED else "",
        )
        return await self._once(args.idempotency_key, ("retry", job.id), lambda: msgspec.structs.replace(self._new(again), retry_of=job.id))

    # --- found again ---

    async def _find(self, name: str) -> Job:
        """Return the job with this id, or the only one whose id begins so. Raises Rejected: gone for one that was cleaned up, else unknown."""
        live = self._fleet().jobs
        found = [live[JobId(name)]] if name in live else [job for job in live.values() if name and job.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        stored = await self._store.find(name) if name and not found else None
        if stored is not None:
            return stored
        if found:
            raise Rejected("unknown", f"{len(found)} live jobs begin with {name!r}; see: warden jobs list")
        if (was := await self._store.gone(name)) is not None:
            kept = say_duration(self._limits().jobs.keep_finished_s)
            raise Rejected("gone", f"job {was.job} ({was.kind}) {was.status} at {instant(was.completed_wall)} and was cleaned up; jobs.keep_finished is {kept}")
        raise Rejected("unknown", f"no job {name!r} is known; a beginning must be that of one job alone. See: warden jobs list")

    def _view(self, job: Job) -> JobView:
        now_s = time.monotonic()
        place = views.position(job, self._fleet(), self._limits(), now_s)
        return views.job_view(job, position=place, now_s=now_s, folder=self._files.folder(job.id))

    async def _show(self, args: JobArgs) -> JobView:
        return self._view(await self._find(args.job))

    async def _why(self, args: JobArgs) -> WhyView:
        return why_view(await self._find(args.job), fleet=self._fleet(), limits=self._limits(), now_s=time.monotonic(), wall_s=time.time())

    async def _list(self, args: ListArgs) -> list[JobView]:
        _known_statuses(args.statuses)
        stored = await self._store.newest(statuses=args.statuses, kind=args.kind, limit=max(1, min(args.limit, _LIST_MAX)))
        return await self._many(stored)

    async def _page(self, args: PageArgs) -> JobsPage:
        _known_statuses(args.statuses)
        limit = max(1, min(args.limit, _PAGE_MAX))
        try:
            stored, following = await self._store.page(statuses=args.statuses, kind=args.kind, limit=limit, cursor=args.cursor)
        except ValueError as error:
            raise Rejected("usage", f"cursor: {error}") from error
        return JobsPage(jobs=await self._many(stored), next=following)

    async def _many(self, stored: Sequence[Job]) -> list[JobView]:
        """Return the views of many jobs, as the fleet has them where they live, giving way to others in between."""
        live, now_s = self._fleet().jobs, time.monotonic()
        places = views.positions(self._fleet(), self._limits(), now_s)
        found = []
        for number, job in enumerate(stored, 1):
            found.append(views.job_view(live.get(job.id, job), position=places.get(job.id), now_s=now_s, folder=self._files.folder(job.id)))
            if number % _VIEWS_A_TURN == 0:
                await asyncio.sleep(0)
        return found

    async def _events(self, args: EventsArgs) -> EventsPage:
        found = await self._store.events_since(args.after, job=args.job, limit=max(1, min(args.limit, _EVENTS_MAX)))
        first, last = await self._store.event_bounds()
        return EventsPage(events=[event_view(seq, event) for seq, event in found], first=first, last=last)

    async def _live(self, _args: NoArgs) -> list[LiveView]:
        counted = Counter((job.kind, job.status.value) for job in self._fleet().jobs.values() if job.live)
        return [LiveView(kind=kind, status=status, count=count) for (kind, status), count in sorted(counted.items())]

    async def _known_kinds(self, _args: NoArgs) -> list[KindView]:
        limits = self._limits()
        return [KindView(kind=kind, worker=model, params=self._kinds.schema(kind)) for model, spec in limits.workers.items() for kind in spec.serves]

    # --- told to do something ---

    async def _order(self, name: str, event: Callable[[str, JobId], AnyEvent], *, what: str) -> JobView:
        job = await self._find(name)
        if not job.live:
            raise Rejected("conflict", f"job {job.id} is {job.status} already: it can no longer be {what}")
        await self._ask(lambda request: event(request, job.id))
        return self._view(await self._find(job.id))

    async def _cancel(self, args: JobArgs) -> JobView:
        return await self._order(args.job, lambda request, job: CancelRequested(request=request, job=job), what="cancelled")

    async def _pause(self, args: JobArgs) -> JobView:
        return await self._order(args.job, lambda request, job: PauseRequested(request=request, job=job), what="paused")

    async def _resume(self, args: JobArgs) -> JobView:
        return await self._order(args.job, lambda request, job: ResumeRequested(request=request, job=job), what="resumed")

    async def _start(self, args: JobArgs) -> JobView:
        return await self._order(args.job, lambda request, job: StartRequested(request=request, job=job), what="started")

    async def _hold(self, _args: NoArgs) -> HoldView:
        await self._ask(lambda request: HoldChanged(request=request, held=True))
        return HoldView(held=True)

    async def _release(self, _args: NoArgs) -> HoldView:
        await self._ask(lambda request: HoldChanged(request=request, held=False))
        return HoldView(held=False)


def _known_statuses(statuses: list[str]) -> None:
    known = [status.value for status in JobStatus]
    for status in statuses:
        if status not in known:
            raise Rejected("usage", f"status {status!r} is unknown; known are {', '.join(known)}")
