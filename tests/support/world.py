"""A world in virtual time: it performs the core's actions on simulated processes, a device and a store, and posts what comes of them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from supervisor.core import actions as act
from supervisor.core import events as ev
from supervisor.core.decide import decide, first_fleet
from supervisor.core.limits import GIB, Limits, WorkerSpec
from supervisor.core.memory import look_every_s
from supervisor.core.model import Device, Evidence, Fleet, Job, JobId, Lease, LeaseId, Outside, Source, Ticket, WorkerName, Zone
from supervisor.core.readings import look
from supervisor.core.reload import effective, places
from supervisor.core.rests import HELD
from supervisor.core.sharing import shared
from supervisor.core.tickets import stored
from supervisor.units import parse_size
from tests.support.simulated import SOON_S, Faults, SimulatedProcess
from tests.support.simulated_device import HOST, SimulatedDevice
from tests.support.simulated_disk import SimulatedDisk
from tests.support.timeline import LAST, Timeline

WALL_S = 1_700_000_000.0
TICK_S = 1.0


def usual_limits() -> Limits:
    """Return the limits of the usual fleet: SAM is resident and takes most of the device, YOLO comes and goes."""
    sam = WorkerSpec(command=("sam",), serves=("sam.propagate", "sam.segment"), gpu_bytes=14 * GIB, priority=10)
    yolo = WorkerSpec(command=("yolo",), serves=("yolo.train", "yolo.predict"), gpu_bytes=8 * GIB, priority=15, resident=False)
    return Limits(workers={"sam": sam, "yolo": yolo})


@dataclass
class World:
    """The supervisor's surroundings. Deterministic: the same calls give the same journal."""

    limits: Limits = field(default_factory=usual_limits)
    journal: list[tuple[ev.AnyEvent, float, Limits]] = field(default_factory=list)
    performed: list[tuple[float, act.AnyAction]] = field(default_factory=list)
    processes: dict[tuple[WorkerName, int], SimulatedProcess] = field(default_factory=dict)
    device: SimulatedDevice = field(default_factory=SimulatedDevice)
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    checkpoints: dict[JobId, int] = field(default_factory=dict)
    replies: dict[str, act.Reply] = field(default_factory=dict)
    faults: dict[WorkerName, Faults] = field(default_factory=dict)
    outsiders: dict[Ticket, Outside] = field(default_factory=dict)  # the programs outside Warden whose process lives
    available_bytes: int = 30 * GIB
    total_bytes: int = 32 * GIB
    left: bool = False
    watch: Callable[[Fleet, ev.AnyEvent, Fleet], None] | None = None  # sees each decision: the fleet before, the event, the fleet after
    wrongs: list[str] = field(default_factory=list)  # what must never happen to real processes, and did

    def __post_init__(self) -> None:
        self._time = Timeline()
        self._pids = 100
        self._life = 1  # which supervisor this is: what an earlier one had under way never comes back
        self._down = False
        self._watched: act.MeasureDevice | None = None
        self._born_s: dict[tuple[WorkerName, int], float] = {}
        self._spawned: dict[str, int] = {}  # the last generation of each, as run/ has it
        self._edits = 0
        self.in_file = self.limits
        self._start(())

    def _start(self, adopted: tuple[ev.Adopted, ...]) -> None:
        self.limits, self._down, self.left = self.in_file, False, False
        self.devices = (Device(id=HOST, name="host", backend="host", total_bytes=self.limits.gpu.host_budget_bytes),)
        self.first: Fleet = first_fleet(
            self.limits, self.devices, fence=self.disk.fence, generations=self._spawned, wanted=dict(self.disk.wanted), peaks=self.disk.peaks
        )
        self.fleet = self.first
        self.journal.clear()
        jobs = tuple(job for job in self.disk.jobs.values() if job.live)
        self.post(
            0,
            ev.SupervisorStarted(
                wall_s=WALL_S + self.now_s,
                jobs=jobs,
                leases=self.disk.leases,
                adopted=adopted,
                held=bool(self.disk.marks.get(HELD)),
                wanted=dict(self.disk.wanted),
                tickets=stored(self.disk.marks),
            ),
        )
        self._own(TICK_S, self._tick)

    # ---- time

    @property
    def now_s(self) -> float:
        """The instant that it is now."""
        return self._time.now_s

    def post(self, after_s: float, event: ev.AnyEvent) -> None:
        """Put an event into the inbox later; while no supervisor runs it is lost."""
        if not self._down:
            self._time.at(self.now_s + after_s, event)

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something later, whoever is the supervisor then."""
        self._time.at(self.now_s + after_s, do)

    def _own(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something later that ends with this supervisor."""
        life = self._life
        self._time.at(self.now_s + after_s, lambda: do() if life == self._life else None)

    def run(self, until_s: float) -> None:
        """Let time pass."""
        self._time.run(until_s, self._decide)

    def _tick(self) -> None:
        self._own(TICK_S, self._tick)
        if self.now_s >= self._time.frozen_until_s:
            self.post(0, ev.Tick(wall_s=WALL_S + self.now_s))
            low = self.fleet.zone is not Zone.OK  # what is seen then a script says itself
            if round(self.now_s) % round(self.limits.memory.look_every_s if low else look_every_s(self.fleet, self.limits)) == 0:
                for action in look(self.fleet):
                    self._perform(action)

    def freeze(self, lag_s: float) -> None:
        """Hold the supervisor up; everything else goes on."""
        self._time.frozen_until_s = self.now_s + lag_s
        self._time.at(self._time.frozen_until_s, ev.Tick(wall_s=WALL_S + self._time.frozen_until_s, lag_s=lag_s), LAST)

    def die(self) -> None:
        """End the supervisor as kill -9 does: its inbox, its timers and its unfinished writes are gone; the workers go on."""
        self._time.drop_events()
        self.disk.waiting.clear()
        self._watched = None
        self._life += 1
        self._down = True

    def _leave(self) -> None:
        """End the supervisor in order: what it has decided is written first."""
        self.left = True
        while self.disk.waiting and not self.disk.fails:
            self._save()
        self.die()

    def start_again(self, keep: Collection[str] | None = None) -> None:
        """Start a supervisor where another died. keep: the workers that it can prove to be its own, None for all; what else still runs is ended first."""
        adopted = []
        for (name, generation), process in sorted(self.processes.items()):
            spare = process.alive and name in places(self.in_file) and (process.faults.unkillable or keep is None or name in keep)
            if spare:
                process.adopted = True
                age_s = self.now_s - self._born_s[name, generation]
                adopted.append(ev.Adopted(worker=name, generation=generation, pid=process.pid, age_s=age_s))
            else:
                process.alive = False
                self._gone((name, generation))
        self._start(tuple(adopted))

    def restart_supervisor(self, keep: Collection[str] | None = ()) -> None:
        """End the supervisor without a word, and start it again from the store; by default every worker ended with it."""
        self.die()
        self.start_again(keep)

    def edit(self, limits: Limits) -> None:
        """Take an edited file, as the runtime does: the new limits act from the event on that says so, not before."""
        self.in_file = limits
        self._edits += 1
        self.post(0, ev.ConfigChanged(previous=self.limits, generation=self._edits))

    # ---- what people do

    def submit(
        self,
        job: str,
        kind: str,
        *,
        priority: int | None = None,
        max_attempts: int = 6,
        held: int = 0,
        run_at: int | None = None,
        batch: int | None = None,
        memory: int = 0,
    ) -> None:
        """Hand in a job. run_at: an instant of this world; memory: bytes that it declares."""
        model = self.limits.model_for(kind)
        usual = self.limits.workers[model].priority if model else 10
        new = Job(
            id=JobId(job),
            kind=kind,
            params=None if batch is None else {"batch": batch},
            priority=usual if priority is None else priority,
            max_attempts=max_attempts,
            held=bool(held),
            memory_bytes=memory,
            memory_from=Source.DECLARED if memory else Source.NONE,
            run_at_wall=None if run_at is None else WALL_S + run_at,
        )
        self.post(0, ev.JobSubmitted(request=f"submit {job}", job=new))

    def sample(self, available_bytes: int, numbers: dict[str, str]) -> None:
        """Read memory near the line. numbers: of each worker what it has and, after a plus, gained in the last second; of "fell" the machine."""
        self.available_bytes = available_bytes
        fell = parse_size(numbers.pop("fell", "0"))
        sizes = {WorkerName(name): [parse_size(part) for part in text.split("+")] for name, text in numbers.items()}
        has = {name: size[0] for name, size in sizes.items()}
        grown = {name: size[1] for name, size in sizes.items() if len(size) > 1}
        self.post(0, ev.MemorySampled(available_bytes=available_bytes, total_bytes=self.total_bytes, workers=has, grown=grown, fell_bytes=fell))

    def lock(
        self, ticket: str, need_bytes: int, *, priority: int = 15, timeout_s: float = 60.0, ttl_s: float = 0.0, pid: int = 0, kin: int = 0, **more: Any
    ) -> None:
        """A program outside Warden asks for the device. pid: 0 for one on another machine; kin: a process that it descends from; more: of LockRequested."""
        who = Outside(ticket=Ticket(ticket), name=ticket.removeprefix("t-"), pid=pid, start_ticks=pid, boot_id="b", ttl_s=ttl_s)
        if pid:
            self.outsiders[who.ticket] = who
        pids = tuple(number for number in (pid, kin) if number)
        request = f"lock {ticket}"
        self.replies.pop(request, None)
        self.post(0, ev.LockRequested(request=request, outside=who, priority=priority, need_bytes=need_bytes, timeout_s=timeout_s, kin=pids, **more))

    def lease_of(self, ticket: str) -> tuple[LeaseId, int]:
        """Return the lease and the fence that a program outside Warden was told of; of none, where it was told of none."""
        reply = self.replies.get(f"lock {ticket}")
        lease = self.fleet.leases.get(reply.lease) if reply is not None and reply.lease is not None else None
        return (lease.id, lease.fence) if lease is not None else (LeaseId("l-none"), 0)

    def end_outsider(self, ticket: str) -> None:
        """End the process of a program outside Warden; its memory goes with it."""
        who = self.outsiders.pop(Ticket(ticket), None)
        if who is not None:
            self.device.outside.pop(who.pid, None)
            self._came_back()
            self.post(0.001, ev.OwnerGone(ticket=who.ticket))

    def process(self, worker: str) -> SimulatedProcess:
        """Return the process that is now in a worker's place."""
        name = WorkerName(worker)
        return self.processes[name, self.fleet.workers[name].generation]

    def fault(self, worker: str) -> Faults:
        """Return the switches of one worker."""
        return self.faults.setdefault(WorkerName(worker), Faults())

    # ---- the supervisor

    def _decide(self, event: ev.AnyEvent) -> None:
        if isinstance(event, ev.ConfigChanged):
            event = replace(event, previous=self.limits)
            self.limits = effective(self.in_file, self.limits, self.fleet)
        self.journal.append((event, self.now_s, self.limits))
        before, decision = self.fleet, decide(self.fleet, event, self.limits, self.now_s)
        self.fleet = decision.fleet
        if self.fleet.leases is not before.leases:
            self._own(0.002, lambda: self.disk.write_leases(self.fleet))
        if self.fleet.peaks is not before.peaks:
            self._own(0.002, lambda: self.disk.write_peaks(self.fleet))
        if self.watch is not None:
            self.watch(before, event, self.fleet)
        for action in decision.actions:
            self._perform(action)

    def _perform(self, action: act.AnyAction) -> None:  # noqa: C901, PLR0912  # one row per action
        if isinstance(action, act.SendStored) and self.disk.holds_back(action.job):
            return  # what is not on disk is not stored: the worker reports it again
        self.performed.append((self.now_s, action))
        if isinstance(action, act.ForWorker):
            self._perform_on(action, self.processes.get((action.worker, action.generation)))
            return
        match action:
            case act.SaveJob():
                self.disk.waiting.append(action)
                if len(self.disk.waiting) == 1:
                    self._own(0.002, self._save)
            case act.MeasureDevice():
                self._watched = action if action.watch is not None else self._watched
                self._own(action.after_s + 0.005, lambda: self._read_device(action))
            case act.MeasureMemory():
                memory = {name: process.faults.memory_bytes for (name, _), process in self.processes.items()}
                self.post(0.005, ev.MemoryMeasured(workers=memory, available_bytes=self.available_bytes, total_bytes=self.total_bytes))
            case act.NameOutsiders():
                self.post(0.005, ev.OutsidersNamed(names=("browser (pid 7) 20GiB",)))
            case act.Admit():
                self.post(0, ev.JobStored(job=action.job))
            case act.SaveMark():
                self._own(0.002, lambda: self._save_mark(action))
            case act.SaveWanted():
                self._own(0.002, lambda: self._save_wanted(action))
            case act.SaveLeases():
                self._own(0.003, lambda: self._leases_saved(action))
            case act.WatchOwner():
                if action.outside.ticket not in self.outsiders:
                    self.post(0.001, ev.OwnerGone(ticket=action.outside.ticket))
            case act.ForgetOwner():
                pass
            case act.Reply():
                lease = self.fleet.leases.get(action.lease) if action.lease is not None else None  # it may be over by now
                if lease is not None and action.request.startswith("lock ") and not self._has_room(lease):
                    self.wrongs.append(f"{action.request} was granted while the device showed {sorted(self.device.shown)}")
                self.replies[action.request] = action
            case act.WakeAt():
                self._time.at(action.at_s, ev.Tick(wall_s=WALL_S + action.at_s))
            case act.Leave():
                self._leave()
            case act.Announce() | act.Publish():
                pass

    def _leases_saved(self, action: act.SaveLeases) -> None:
        if self.disk.fails:
            self._own(1.0, lambda: self._leases_saved(action))
            return
        self.disk.write_leases(self.fleet)
        for following in action.then:
            self._perform(following)

    def _save_mark(self, action: act.SaveMark) -> None:
        if self.disk.fails:
            self.replies[action.request] = act.Reply(request=action.request, error="failed", message="disk full")
            return
        self.disk.marks = {name: value for name, value in {**self.disk.marks, action.name: action.value}.items() if value}
        for following in action.then:
            self._perform(following)

    def _save_wanted(self, action: act.SaveWanted) -> None:
        self.disk.write_wanted(action.words)
        if action.request:
            self.replies[action.request] = act.Reply(request=action.request)

    def _perform_on(self, action: act.ForWorker, process: SimulatedProcess | None) -> None:
        """Do something to a process; most of it means nothing once the process is gone."""
        match action:
            case act.Spawn():
                self._spawn(action)
            case act.ProveGone():
                self._prove_gone(action)
            case act.GatherEvidence() if not self.fault(action.worker).no_evidence:
                evidence = Evidence(stack="File train.py, line 7", process="S hrtimer_nanosleep", log_tail=("epoch 1",))
                self.post(0.5, ev.EvidenceGathered(worker=action.worker, generation=action.generation, evidence=evidence))
            case act.MeasureRelease():
                kept = self.fault(action.worker).keeps_memory
                used = action.at_most_bytes + (GIB if kept else 0)
                self.post(
                    self.fault(action.worker).release_s,
                    ev.ReleaseMeasured(worker=action.worker, generation=action.generation, job=action.job, used_bytes=used, proved=not kept),
                )
            case _:
                pass
        if process is not None and process.alive:
            self._speak(action, process)

    def _speak(self, action: act.ForWorker, process: SimulatedProcess) -> None:
        match action:
            case act.Terminate():
                process.terminate()
            case act.Kill():
                process.kill()
            case act.SendDrain():
                process.drain(boundary=action.boundary)
            case act.SendResync():
                process.resync()
            case act.SendStored():
                self._stored(action, process)
            case act.SendJob():
                self._level(action, action.job, "before", GIB)
                self._own(0.003, lambda: process.take(action.job, action.attempt, action.memory_room_bytes))
            case act.SendCancel():
                self._level(action, action.job, "cancel", 3 * GIB)
                process.cancel(action.job, action.attempt)
            case act.SendBrake():
                process.brake(action.job, action.attempt, action.why)
            case act.SendPause() | act.SendResume():
                process.pause(action.job, action.attempt, on=isinstance(action, act.SendPause))
            case _:
                pass

    def _stored(self, action: act.SendStored, process: SimulatedProcess) -> None:
        job = self.disk.jobs.get(action.job)
        reported = (action.job, action.attempt, action.what) in process.unstored
        process.stored(action.job, action.attempt, action.what)
        if reported and action.what == "result" and job is not None and job.live and job.attempt == action.attempt:
            self.wrongs.append(f"{action.job} is said to be stored, and its result is not")

    def at_work(self, process: SimulatedProcess, job: JobId) -> None:
        """See that nobody else works on the same job."""
        for other in self.processes.values():
            task = other.tasks.get(job)
            if other is not process and other.alive and not other.killed and task is not None and not task.ended:
                self.wrongs.append(f"{job} is worked on by {process.worker} generation {process.generation} and {other.worker} generation {other.generation}")

    def _level(self, action: act.ForWorker, job: JobId, moment: str, used_bytes: int) -> None:
        self.post(0.001, ev.LevelMeasured(worker=action.worker, generation=action.generation, job=job, moment=moment, used_bytes=used_bytes))

    def _spawn(self, action: act.Spawn) -> None:
        faults = self.fault(action.worker)
        self._spawned[action.worker] = action.generation
        if faults.spawn_fails:
            self.post(SOON_S, ev.SpawnFailed(worker=action.worker, generation=action.generation, detail=f"there is no program {action.worker}"))
            return
        spec = self.limits.workers[self.fleet.workers[action.worker].model]
        if spec.gpu_bytes and self.device.shown and not shared(self.limits):
            self.wrongs.append(f"{action.worker} was spawned while the device showed {sorted(self.device.shown)}")
        for process in self.processes.values():
            if process.worker == action.worker and process.alive:
                self.wrongs.append(f"{action.worker} generation {action.generation} was spawned while generation {process.generation} was alive")
        self._pids += 1
        self._born_s[action.worker, action.generation] = self.now_s
        process = SimulatedProcess(self, action.worker, action.generation, self._pids, spec, faults)
        self.processes[action.worker, action.generation] = process
        if spec.gpu_bytes:
            self.device.shown[action.worker, action.generation] = spec.gpu_bytes
        self.post(SOON_S, ev.WorkerSpawned(worker=action.worker, generation=action.generation, pid=process.pid))
        process.run()

    def _prove_gone(self, action: act.ProveGone) -> None:
        faults, key = self.fault(action.worker), (action.worker, action.generation)
        if faults.tree_stuck:
            self.post(action.within_s, ev.TreeStuck(worker=action.worker, generation=action.generation, pids=(self.processes[key].pid + 1,)))
            return
        self._gone(key)
        self.post(0.02, ev.TreeGone(worker=action.worker, generation=action.generation, swept=faults.leftovers, log_tail=("last line",)))

    def _gone(self, key: tuple[WorkerName, int]) -> None:
        self.processes.pop(key)
        self.later(self.fault(key[0]).memory_back_s, lambda: self._give_back(key))

    def _give_back(self, key: tuple[WorkerName, int]) -> None:
        self.device.shown.pop(key, None)
        self._came_back()

    def _has_room(self, lease: Lease) -> bool:
        """Return whether a program finds what it was granted: beside others only so much as it said; to load is a right to no memory."""
        shown_bytes = sum(self.device.shown.values())
        if shared(self.limits) and lease.need_bytes:
            return shown_bytes + lease.need_bytes <= self.limits.gpu.host_budget_bytes
        return lease.purpose == "load" or not self.device.shown

    def _came_back(self) -> None:
        """What was ordered to watch the device sees that memory came back."""
        watched = self._watched
        if watched is not None and not self.device.unreadable:
            self._own(0.02, lambda: self._read_device(watched))

    def _read_device(self, action: act.MeasureDevice) -> None:
        if action.watch is not None and action is not self._watched:  # it came sooner, or a later order took its place
            return
        self._watched = None if action.watch is not None else self._watched
        for key in self.device.shown:
            uses_gib, process = self.fault(key[0]).uses_gib, self.processes.get(key)
            if process is not None:
                self.device.shown[key] = process.spec.gpu_bytes if uses_gib is None else int(uses_gib * GIB)
        self.post(0, self.device.measure(self.limits.gpu.host_budget_bytes, watch=action.watch))

    def _save(self) -> None:
        failed, then = self.disk.write()
        if failed is not None:
            self.post(0, failed)
        for action in then:
            self._perform(action)
        if self.disk.waiting:
            self._own(1.0 if self.disk.fails else 0.002, self._save)
