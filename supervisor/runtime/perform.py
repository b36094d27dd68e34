"""Performs actions through the ports. What takes time runs in a task of its own, and its outcome comes back as an event."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol, assert_never

from msgspec import Struct
from msgspec.structs import replace

from supervisor.core import actions as act
from supervisor.core.announcements import LEVELS
from supervisor.core.events import (
    AnyEvent,
    EvidenceGathered,
    JobStored,
    NoteHeard,
    OwnerGone,
    SpawnFailed,
    TreeStuck,
    WorkerSpawned,
)
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import DeviceId, Evidence, Fleet, FlightSample, Job, Worker, WorkerName
from supervisor.core.peaks import given_bytes
from supervisor.runtime import views
from supervisor.runtime.device_views import holdings
from supervisor.runtime.launch import Launcher
from supervisor.runtime.measuring import Measures
from supervisor.runtime.peers import Owners
from supervisor.runtime.ports import Device, EventStream, JobFiles, JobStore, Room, StreamEvent, WantedStore
from supervisor.runtime.process_ports import Channel, Processes, Programs, SpawnError
from supervisor.runtime.saving import Saves
from supervisor.runtime.words import keep_word
from supervisor.shapes import Intervention
from supervisor.units import spelled

_INTERVENTIONS_KEPT: Final = 20
_LEVEL_MAX_S: Final = 1.0


class Say(Protocol):
    """Writes one event to the logs."""

    def __call__(self, level: str, event: str, fields: Mapping[str, JSONValue], /) -> None:
        """Write it."""
        ...


class Ports(Struct, frozen=True, kw_only=True):
    """The outside, as `app` chose it. answer gives a Reply to whoever asked; then: the machine's memory, the room for state_dir, the record of a worker."""

    processes: Processes
    programs: Programs
    channel: Channel
    device: Device
    store: JobStore
    stream: EventStream
    wanted: WantedStore
    files: JobFiles
    owners: Owners
    launcher: Launcher
    say: Say
    answer: Callable[[act.Reply], None]
    room: Callable[[], Room]
    disk_free_bytes: Callable[[], int | None]
    flight: Callable[[WorkerName, int], tuple[FlightSample, ...]]


class Performer:
    """Starts what a decision orders, in its order. `fleet` and `leave` reach the loop, `tick` the ticker."""

    def __init__(
        self,
        ports: Ports,
        *,
        limits: Callable[[], Limits],
        fleet: Callable[[], Fleet],
        post: Callable[[AnyEvent], None],
        tick: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """Perform through these ports."""
        self.interventions: deque[Intervention] = deque(maxlen=_INTERVENTIONS_KEPT)
        self._ports = ports
        self._limits = limits
        self._fleet = fleet
        self._post = post
        self._tick = tick
        self._leave = leave
        self._tasks: set[asyncio.Task[None]] = set()
        self._saves = Saves(ports.store, ports.stream, start=self._start, post=post, follow=self._one, told=_told)
        self._measures = Measures(ports.processes, ports.device, room=ports.room, disk_free_bytes=ports.disk_free_bytes, post=post)

    @property
    def store_trouble(self) -> str:
        """Return why the last write of a job failed; empty while writes succeed."""
        return self._saves.trouble

    def perform(self, decision: act.Decision) -> None:
        """Start every action. Never waits."""
        self._saves.leases(decision.fleet.leases, decision.fleet.last_number)
        self._saves.peaks(decision.fleet.peaks)
        for action in decision.actions:
            self._one(action)

    def watch_adopted(self, name: WorkerName, generation: int) -> None:
        """Watch a program again that an earlier supervisor started."""
        worker = self._fleet().workers.get(name)
        try:
            if worker is not None:
                self._watch(worker, generation, adopted=True)
        except SpawnError as error:
            self._post(NoteHeard(worker=name, generation=generation, level="error", text=f"what it shows cannot be seen: {error}"))

    async def finish(self) -> None:
        """Wait for what is under way, but not for ever: at the end of the supervisor."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)
        for task in self._tasks:
            task.cancel()

    def _one(self, action: act.AnyAction, about: Job | None = None) -> None:  # noqa: C901, PLR0912, PLR0915  # one row per action
        """Start one action. about: the job that was written before it, which may have left the fleet."""
        ports = self._ports
        match action:
            case act.Announce():
                self._announce(action, about)
            case act.Publish():
                ports.stream.post(_event("job_moved", action.job, worker=action.job.worker))
            case act.SaveJob():
                self._saves.save(action)
            case act.Admit():
                self._post(JobStored(job=action.job))
            case act.SaveMark():
                self._start(self._saves.mark(action))
            case act.SaveWanted():
                self._start(keep_word(action, ports.wanted, announce=partial(self._announce, about=None), answer=ports.answer))
            case act.SaveLeases():
                self._start(self._saves.after_leases(action))
            case act.WatchOwner():
                ports.owners.watch(action.outside.ticket, action.outside, partial(self._post, OwnerGone(ticket=action.outside.ticket)))
            case act.ForgetOwner():
                ports.owners.forget(action.ticket)
            case act.Reply():
                ports.answer(action)
            case act.SendStored():
                if about is not None or not self._saves.writes(action.job):  # what was reported twice is not stored before its write is: it is reported again
                    ports.channel.send(action)
            case act.SendDrain() | act.SendWelcome() | act.SendResync() | act.SendBrake() | act.SendPause() | act.SendResume():
                ports.channel.send(action)
            case act.SendJob():
                self._start(self._send_job(action))
            case act.SendCancel():
                self._start(self._send_cancel(action))
            case act.Spawn():
                ports.processes.expect(action.worker, action.generation)
                self._start(self._spawn(action))
            case act.Terminate():
                self._start(ports.processes.terminate(action.worker, action.generation, action.signal))
            case act.Kill():
                self._start(ports.processes.kill(action.worker, action.generation))
            case act.ProveGone():
                self._start(self._prove_gone(action))
            case act.GatherEvidence():
                self._start(self._gather(action))
            case act.MeasureRelease():
                self._start(self._measures.release(action, self._device_of(action.worker)))
            case act.MeasureDevice():
                self._start(self._measures.device(action))
            case act.MeasureMemory():
                self._start(self._measures.memory())
            case act.NameOutsiders():
                self._start(self._measures.outsiders())
            case act.WakeAt():
                asyncio.get_running_loop().call_later(max(0.0, action.at_s - time.monotonic()) + 0.001, self._tick)
            case act.Leave():
                self._leave()
            case _:
                assert_never(action)

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # every failure of the world is an event by now: this one is a bug of ours, and must not go on in silence
            asyncio.get_running_loop().call_exception_handler({"message": "an action failed", "exception": error, "task": task})

    def _announce(self, action: act.Announce, about: Job | None) -> None:
        """Say it in the logs, and tell it to whoever watches; what was written down with its job was told there."""
        level = LEVELS[action.event]
        named = {"worker": action.worker, "job": action.job}
        fields = {name: value for name, value in named.items() if value} | dict(action.fields) | ({"reason": action.reason} if action.reason else {})
        self._ports.say(level, action.event, fields)
        if about is None:
            self._ports.stream.post(_told(action, self._fleet().jobs.get(action.job) if action.job else None))
        if level != "info":
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            evidence = spelled(action.fields)
            self.interventions.append(Intervention(at=at, event=action.event, worker=action.worker, job=action.job, reason=action.reason, evidence=evidence))

    async def _spawn(self, action: act.Spawn) -> None:
        worker = self._fleet().workers[action.worker]
        spec = self._limits().workers[worker.model]
        device = self._fleet().devices.get(action.device) if action.device else None
        shared = self._limits().gpu.sharing == "budget"
        budget_bytes = given_bytes(self._fleet(), action.worker) if shared else 0
        launch = self._ports.launcher.launch(worker, action.generation, spec, device, budget_bytes=budget_bytes)
        self._ports.channel.expect(action.worker, action.generation, launch.token)
        try:
            launch = replace(launch, env={**launch.env, **self._watch(worker, action.generation)})
            pid = await self._ports.processes.spawn(launch)
        except SpawnError as error:
            self._ports.programs.end(action.worker, action.generation)
            self._post(SpawnFailed(worker=action.worker, generation=action.generation, detail=str(error)))
        else:
            self._post(WorkerSpawned(worker=action.worker, generation=action.generation, pid=pid))

    def _watch(self, worker: Worker, generation: int, *, adopted: bool = False) -> Mapping[str, str]:
        """Watch what a program shows. Returns what it needs for that in its environment. Raises SpawnError."""
        launcher, spec = self._ports.launcher, self._limits().workers[worker.model]
        log = launcher.log_dir / "workers" / f"{worker.name}.log"
        _, is_file, path = spec.progress.partition("file:")
        file = launcher.config_dir / launcher.fill(path, worker.name) if is_file else None
        return self._ports.programs.begin(worker.name, generation, spec, log=log, file=file, adopted=adopted)

    async def _prove_gone(self, action: act.ProveGone) -> None:
        proof = await self._ports.processes.prove_gone(action.worker, action.generation, action.within_s)
        self._post(proof if isinstance(proof, TreeStuck) else replace(proof, flight=self._ports.flight(action.worker, action.generation)))
        if not isinstance(proof, TreeStuck):  # one that is stuck is looked for again: the core orders it
            self._ports.programs.end(action.worker, action.generation)

    async def _gather(self, action: act.GatherEvidence) -> None:
        evidence = await self.evidence(action.worker, action.generation)
        self._post(EvidenceGathered(worker=action.worker, generation=action.generation, evidence=evidence))

    async def evidence(self, worker: WorkerName, generation: int) -> Evidence:
        """Return what can be seen of a process, and what its worker holds, within three seconds; empty where there is no process."""
        seen = await self._ports.processes.evidence(worker, generation)
        held = holdings(self._fleet(), worker)
        return replace(seen, process="; ".join((seen.process, *held))) if seen.process else seen

    async def _send_job(self, action: act.SendJob) -> None:
        if (device := self._device_of(action.worker)) is not None:
            with suppress(TimeoutError):  # the job's clocks run: a driver that hangs must not hold it up, and its cancel then says less
                async with asyncio.timeout(_LEVEL_MAX_S):
                    await self._measures.level(action, "before", device)
        self._ports.channel.send(action, folder=self._ports.files.folder(action.job), checkpoint=self._ports.files.checkpoint(action.job))

    async def _send_cancel(self, action: act.SendCancel) -> None:
        self._ports.channel.send(action)
        if (device := self._device_of(action.worker)) is not None:
            await self._measures.level(action, "cancel", device)

    def _device_of(self, worker: WorkerName) -> DeviceId | None:
        lease = self._fleet().lease_of(worker)
        return lease.device if lease is not None else None


def _told(action: act.Announce, job: Job | None) -> StreamEvent:
    """Return what whoever watches hears of an announcement; about a job, with where the job is."""
    return replace(_event(action.event, job, worker=action.worker, data=action.fields), job=action.job, reason=action.reason)


def _event(event: str, job: Job | None, *, worker: WorkerName | None, data: Mapping[str, JSONValue] = MappingProxyType({})) -> StreamEvent:
    moment = views.job_moment(job, time.monotonic()) if job is not None else {}
    return StreamEvent(at_wall=time.time(), event=event, worker=worker, job=job.id if job is not None else None, data={**data, **moment})
