"""What people's programs can ask, by name. Reading is answered from the fleet and the store; changing goes through the inbox like everything else."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from supervisor.core.events import RecycleRequested, ShutdownRequested, WantedChanged
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import Evidence, Fleet, WorkerName
from supervisor.errors import StoreError
from supervisor.runtime import views
from supervisor.runtime.asking import Asking
from supervisor.runtime.device_views import device_view
from supervisor.runtime.ports import JobStore
from supervisor.runtime.requests import NoArgs, Operation, Rejected, StopArgs, WorkersArgs, suggestion
from supervisor.runtime.troubles import unwell
from supervisor.shapes import DumpView, Intervention, ScheduleView, StatusView, SupervisorView


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
    schedules: Callable[[], list[ScheduleView]]
    api: str
    log_trouble: Callable[[], str]  # why lines do not reach the logs; empty where they do
    store_trouble: Callable[[], str]  # why jobs cannot be written down; empty where they can


class Operations:
    """Answers requests. Each operation is one method; its argument type says what it takes."""

    def __init__(
        self, *, fleet: Callable[[], Fleet], limits: Callable[[], Limits], asking: Asking, store: JobStore, jobs: Mapping[str, Operation], about: About
    ) -> None:
        """Answer from these. jobs: the operations on jobs, by name."""
        self._fleet = fleet
        self._limits = limits
        self._ask = asking.ask
        self._store = store
        self._about = about
        self._table: Mapping[str, Operation] = {
            **jobs,
            "status": (NoArgs, self._status),
            "schedules": (NoArgs, self._schedules),
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
            raise Rejected("usage", f"operation {op!r} is unknown; {suggestion(op, self._table)}")
        shape, operation = self._table[op]
        try:
            wanted = msgspec.convert(args, shape)
        except msgspec.ValidationError as error:
            raise Rejected("usage", f"{op}: {error}") from error
        try:
            return await operation(wanted)
        except StoreError as error:
            raise Rejected("failed", f"the job store does not answer: {error}") from error

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
                health_every_s=limits.supervisor.health_every_s,
                log_level=limits.supervisor.log_level,
                vacate_timeout_s=limits.gpu.vacate_timeout_s,
                lock_timeout_s=limits.gpu.lock_timeout_s,
                api=about.api,
            ),
            workers=[views.worker_view(worker, fleet=fleet, limits=limits, now_s=now_s) for worker in fleet.workers.values()],
            devices=[device_view(device, fleet=fleet, limits=limits, now_s=now_s) for device in fleet.devices.values()],
            memory=views.memory_view(fleet, limits),
            jobs=views.counts(fleet, await self._store.counts()),
            interventions=about.interventions(),
            unwell=[*self._unwell_around(), *unwell(fleet, limits, now_s)],
            held=fleet.held,
        )

    def _unwell_around(self) -> list[str]:
        """Return what is not as it should be around the fleet."""
        about = self._about
        error = about.settings.error
        refused = f"{about.config.name} is refused, and what was in force before stands: {error}" if error else ""
        store = f"no job is taken: the job store fails: {trouble}" if (trouble := about.store_trouble()) else ""
        return [sentence for sentence in (refused, store, about.log_trouble()) if sentence]

    async def _schedules(self, _args: NoArgs) -> list[ScheduleView]:
        return self._about.schedules()

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


def _unless_wrong(changed: list[str], wrong: list[str]) -> list[str]:
    if wrong:
        raise Rejected("config", "\n".join(wrong))
    return changed
