"""The supervisor process: the one file that knows all rooms, and chooses between real parts."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import zmq

from supervisor import __version__, control, early, wire
from supervisor.adapters import meters, proc
from supervisor.adapters.cgroups import find_parent
from supervisor.adapters.channel import WorkerChannel
from supervisor.adapters.control_server import ControlServer
from supervisor.adapters.journal import Ring
from supervisor.adapters.listening import Listening
from supervisor.adapters.owners import Owners
from supervisor.adapters.processes import LocalProcesses
from supervisor.adapters.program_progress import ProgramWatch
from supervisor.adapters.sockets import Router, keep
from supervisor.adapters.state_dir import StateDir
from supervisor.adapters.wanted_file import WantedFile
from supervisor.config import Loaded, fill
from supervisor.core.actions import Decision
from supervisor.core.announcements import LEVELS
from supervisor.core.decide import first_fleet
from supervisor.core.events import ShutdownRequested, SupervisorStarted
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import WorkerName
from supervisor.core.rests import HELD
from supervisor.core.tickets import stored
from supervisor.device_service import open_devices
from supervisor.job_service import open_jobs
from supervisor.memory_service import MemoryService
from supervisor.runtime.api_child import with_api
from supervisor.runtime.asking import Asking
from supervisor.runtime.flight import FlightRecorder
from supervisor.runtime.inbox import Inbox
from supervisor.runtime.launch import Launcher
from supervisor.runtime.lock_operations import LockOperations
from supervisor.runtime.loop import Loop
from supervisor.runtime.operations import About, Operations
from supervisor.runtime.order_operations import OrderOperations
from supervisor.runtime.perform import Performer, Ports
from supervisor.runtime.saving import FENCES_AHEAD
from supervisor.runtime.sources import Ticker
from supervisor.service import Service
from supervisor.settings import Settings


def serve(loaded: Loaded, environ: Mapping[str, str]) -> int:
    """Run the supervisor in the foreground until it is stopped. Returns the exit code. Raises StateError, Taken or StoreError before anything is started."""
    limits = loaded.limits
    state = StateDir(Path(limits.supervisor.state_dir), Path(limits.supervisor.log_dir), environ, config=loaded.path)
    try:
        return asyncio.run(_Service(loaded, state, environ).run())
    finally:
        early.listen()  # the loop took its handlers with it: a signal in the last moments must not make another end of this one
        state.close()


class _Service:
    """One run of the supervisor: opens what is outside, runs the loop, closes in reverse."""

    def __init__(self, loaded: Loaded, state: StateDir, environ: Mapping[str, str]) -> None:
        self._loaded = loaded
        self._limits: Limits = with_api(loaded.limits)
        self._state = state
        self._environ = environ
        self._ring = Ring()
        self._crash: BaseException | None = None
        self._signalled = False
        self._inbox = Inbox()

    async def run(self) -> int:
        """Return the exit code."""
        async with AsyncExitStack() as stack:
            await self._open(stack)
            return await self._run(stack)

    async def _open(self, stack: AsyncExitStack) -> None:
        limits, state = self._limits, self._state
        settings = limits.supervisor
        self._service = Service(limits, self._environ)
        stack.callback(self._service.close)
        context = self._context = zmq.Context()
        stack.callback(context.term)
        self._jobs = await open_jobs(stack, limits=limits, state=state, context=context, say=self._service.say)
        self._wanted = WantedFile(state.path / "wanted.json")
        self._processes = LocalProcesses(run_dir=state.run_dir, post=self._inbox.post, leaves_in=find_parent())
        self._memory = MemoryService(self._environ, self._processes.meter, limits)
        generations = self._processes.last_generations()
        # The HTTP front is not taken back: it holds the sockets that are bound next, and has nothing to lose.
        names = {f"{model}-{i}" for model, spec in self._loaded.limits.workers.items() for i in range(spec.replicas)}
        self._adopted = tuple(await self._processes.adopt(names)) if settings.on_crash == "adopt" else ()
        self._survivors = await self._processes.end_survivors()
        self._listening = Listening(limits.api.bind, limits.api.socket)
        stack.callback(self._listening.close)
        self._channel = WorkerChannel(
            partial(Router, context, state.sockets_dir / "workers.sock", max_message_bytes=wire.MAX_MESSAGE_BYTES),
            post=lambda event: self._inbox.post(self._flight.with_record(event)),
            limits={"orphan_after_s": settings.orphan_after_s},
            learn=self._learn,
        )
        stack.callback(self._channel.close)
        self._programs = ProgramWatch(
            state.sockets_dir,
            post=self._inbox.post,
            leader_of=self._processes.pid_of,
            watchdog_of=lambda name: self._loop.limits.workers[self._loop.fleet.workers[name].model].watchdog,
        )
        stack.callback(self._programs.close)
        fence, leases = await self._jobs.store.last_fence(), await self._jobs.store.leases()
        await self._jobs.store.save_leases(leases, fence + FENCES_AHEAD)
        workers = {found.worker for found in self._adopted}
        held = {lease.device for lease in leases if lease.outside is not None or lease.worker in workers}
        held |= {found.device for found in self._adopted if found.device is not None}
        self._devices = await open_devices(
            stack, limits.gpu, loop=lambda: self._loop, environ=self._environ, held=held, processes=self._processes, post=self._inbox.post
        )
        peaks = await self._jobs.store.peaks()
        fleet = first_fleet(limits, self._devices.first, fence=fence, generations=generations, wanted=self._wanted.words(), peaks=peaks)
        self._loop = Loop(fleet, limits, self._inbox, perform=self._perform, journal=self._ring)
        self._flight = FlightRecorder(fleet=lambda: self._loop.fleet, rss_bytes=proc.rss_bytes)
        the_fleet, the_limits, post = (lambda: self._loop.fleet), (lambda: self._loop.limits), self._inbox.post
        self._ticker = Ticker(post=post, fleet=the_fleet, limits=the_limits, perform=self._perform, ping=self._channel.ping)
        self._settings = Settings(self._loaded, self._environ, loop=self._loop, say=self._service.say, take=self._take_settings)
        self._asking = Asking(post)
        self._owners = Owners()
        stack.callback(self._owners.close)
        locks = LockOperations(fleet=the_fleet, limits=the_limits, asking=self._asking, owners=self._owners, post=post)
        orders = OrderOperations(fleet=the_fleet, limits=the_limits, asking=self._asking, owners=self._owners, post=post, device=self._devices.port)
        jobs = self._jobs.open(fleet=the_fleet, limits=the_limits, asking=self._asking)
        self._operations = Operations(
            fleet=the_fleet, limits=the_limits, asking=self._asking, store=self._jobs.store, jobs={**jobs, **locks.table, **orders.table}, about=self._about()
        )
        self._performer = Performer(self._ports(), limits=the_limits, fleet=the_fleet, post=post, tick=self._ticker.tick, leave=self._loop.leave)
        await self._service.prove(state.path)

    def _open_doors(self, stack: AsyncExitStack) -> None:
        """Answer people, and say that we are there. Only now: whoever asks must not meet a fleet that does not know yet what it took over."""
        self._control = ControlServer(
            partial(Router, self._context, self._state.sockets_dir / "control.sock", max_message_bytes=control.MAX_MESSAGE_BYTES), self._operations.handle
        )
        stack.callback(self._control.close)
        where = {"api": self._listening.url} if self._listening.url else {}
        self._say("supervisor_started", pid=os.getpid(), version=__version__, config=str(self._loaded.path), state_dir=str(self._state.path), **where)
        if state_closed := self._state.closed:
            self._say("state_dir_closed", reason=state_closed)
        for event, reason in (*self._devices.notes, *self._memory.notes):
            self._say(event, reason=reason)
        for worker, count in self._survivors.items():
            self._say("worker_swept", worker=worker, reason=f"{count} processes that an earlier supervisor had left were ended")
        for worker, sentence in self._processes.strangers:
            self._service.say("warning", "worker_note", {"worker": worker, "reason": sentence})

    def _ports(self) -> Ports:
        limits, loaded = self._limits, self._loaded
        config_dir = loaded.path.parent

        def filled(text: str, name: str) -> str:
            return fill(text, python=sys.executable, config_dir=str(config_dir), state_dir=limits.supervisor.state_dir, name=name)

        return Ports(
            processes=self._processes,
            programs=self._programs,
            channel=self._channel,
            device=self._devices.port,
            store=self._jobs.store,
            stream=self._jobs.stream,
            wanted=self._wanted,
            files=self._jobs.files,
            owners=self._owners,
            launcher=Launcher(
                fill=filled,
                endpoint=control.endpoint_of(self._state.path, "workers"),
                state_dir=self._state.path,
                config_dir=config_dir,
                log_dir=Path(limits.supervisor.log_dir),
                environ=self._environ,
                listening=self._listening.descriptors,
            ),
            say=self._service.say,
            answer=self._asking.answer,
            room=self._memory.room,
            disk_free_bytes=meters.DiskMeter(self._state.path).free_bytes,
            flight=self._flight.of,
        )

    def _about(self) -> About:
        return About(
            version=__version__,
            config=self._loaded.path,
            started_at_s=time.monotonic(),
            loop_lag_s=lambda: self._ticker.lag_s,
            pss_bytes=meters.own_pss_bytes,
            dropped=lambda: sum(self._dropped().values()),
            interventions=lambda: list(self._performer.interventions),
            settings=self._settings,
            evidence=lambda worker, generation: self._performer.evidence(worker, generation),  # noqa: PLW0108  # the performer is made later
            schedules=lambda: self._jobs.schedules.views(time.time()),
            api=self._listening.url,
            log_trouble=self._service.log_trouble,
            store_trouble=lambda: self._performer.store_trouble,
        )

    async def _run(self, stack: AsyncExitStack) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._bug)
        for number in early.STOPS:
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._settings.reload)
        jobs, leases = tuple(await self._jobs.store.live()), tuple(await self._jobs.store.leases())
        marks, words = await self._jobs.store.marks(), self._wanted.words()
        self._loop.begin(
            SupervisorStarted(wall_s=time.time(), jobs=jobs, leases=leases, adopted=self._adopted, wanted=words, held=HELD in marks, tickets=stored(marks))
        )
        while early.asked:  # during the start
            early.asked.pop()
            self._asked_to_stop()
        for found in self._adopted:  # only now: what they have to say must come after their jobs are known
            self._channel.expect(found.worker, found.generation, self._processes.token_of(found.worker, found.generation))
            self._performer.watch_adopted(found.worker, found.generation)
        for helper in (
            self._memory.sample(stack, self._loop, post=self._inbox.post, say=self._note),
            self._ticker.run(lambda: self._memory.look_every_s(self._loop)),
            self._flight.run(),
            self._service.say_drops(self._dropped),
            self._settings.watch(),
            self._jobs.janitor.run(),
            self._jobs.schedules.run(),
            self._programs.run(),
            self._service.attend(lambda: self._loop.fleet),
        ):
            self._help(stack, helper)
        self._open_doors(stack)
        self._help(stack, keep((self._control.file, self._channel.file, self._jobs.stream.file), self._note))
        try:
            await self._loop.run()
        except Exception as error:  # noqa: BLE001  # a bug of ours: the journal of what led to it is kept
            self._crash = error
        if self._crash is not None:
            path = Path(self._limits.supervisor.log_dir) / "journal.jsonl"
            self._ring.dump(path)
            self._say("supervisor_stopped", reason=f"a bug: {self._crash!r}; the journal is in {path}")
            raise self._crash
        await self._performer.finish()
        self._say("supervisor_stopped", reason="as asked")
        return 0

    def _help(self, stack: AsyncExitStack, helper: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(helper)
        task.add_done_callback(self._helper_ended)
        stack.callback(task.cancel)

    def _learn(self, worker: WorkerName, params: Mapping[str, JSONValue]) -> None:
        """Take what a worker says of the parameters of its jobs, in the name of its model."""
        found = self._loop.fleet.workers.get(worker)
        if found is not None:
            self._jobs.learn(found.model, params)

    def _take_settings(self, limits: Limits) -> None:
        """Hand new limits to whoever keeps some outside the loop."""
        self._service.take(limits)
        self._memory.take(limits)
        self._channel.set_limits({"orphan_after_s": limits.supervisor.orphan_after_s})

    def _perform(self, decision: Decision) -> None:
        self._performer.perform(decision)

    def _say(self, event: str, **fields: JSONValue) -> None:
        self._service.say(LEVELS[event], event, fields)

    def _note(self, event: str, fields: Mapping[str, JSONValue]) -> None:
        self._say(event, **fields)

    def _dropped(self) -> Mapping[str, int]:
        """Return how many messages could not be believed, by why."""
        return self._channel.dropped + self._control.dropped + self._programs.dropped

    def _asked_to_stop(self) -> None:
        """SIGTERM or Ctrl-C: stop in order; a second one stops at once."""
        self._inbox.post(ShutdownRequested(request="", at_once=self._signalled))
        self._signalled = True

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, JSONValue]) -> None:
        error = context.get("exception")
        self._crash = error if isinstance(error, BaseException) else RuntimeError(context.get("message"))
        self._loop.leave()

    def _helper_ended(self, task: "asyncio.Task[None]") -> None:
        """A helper runs as long as we do: without the ticker no clock would ever expire, and nobody would notice."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error
            self._loop.leave()
