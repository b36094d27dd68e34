"""A world in virtual time: it performs the core's actions on simulated processes, a device and a store, and posts what comes of them."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.core import actions as act
from supervisor.core import events as ev
from supervisor.core.decide import decide, first_fleet, look
from supervisor.core.limits import GIB, Limits, WorkerSpec
from supervisor.core.model import Device, DeviceId, DeviceSample, Evidence, Fleet, Holding, Job, JobId, WorkerName
from tests.support.simulated import SOON_S, Faults, SimulatedProcess

WALL_S = 1_700_000_000.0
TICK_S = 1.0
HOST = DeviceId("host")
LAST = 1
"""The rank of the tick that ends a freeze: what waited in the inbox is read before anyone is judged."""


def usual_limits() -> Limits:
    """Return the limits of the usual fleet: SAM is resident and takes most of the device, YOLO comes and goes."""
    sam = WorkerSpec(command=("sam",), serves=("sam.propagate", "sam.segment"), gpu_bytes=14 * GIB, priority=10)
    yolo = WorkerSpec(command=("yolo",), serves=("yolo.train", "yolo.predict"), gpu_bytes=8 * GIB, priority=15, resident=False)
    return Limits(workers={"sam": sam, "yolo": yolo})


@dataclass
class World:
    """The supervisor's surroundings. Deterministic: the same calls give the same journal."""

    limits: Limits = field(default_factory=usual_limits)
    now_s: float = 0.0
    journal: list[tuple[ev.AnyEvent, float]] = field(default_factory=list)
    performed: list[tuple[float, act.AnyAction]] = field(default_factory=list)
    processes: dict[tuple[WorkerName, int], SimulatedProcess] = field(default_factory=dict)
    shown: dict[tuple[WorkerName, int], int] = field(default_factory=dict)  # what the device shows for each tree, in bytes
    store: dict[JobId, Job] = field(default_factory=dict)
    endings: list[Job] = field(default_factory=list)  # each write of a job in a terminal state
    replies: dict[str, act.Reply] = field(default_factory=dict)
    faults: dict[WorkerName, Faults] = field(default_factory=dict)
    store_fails: bool = False
    device_unreadable: bool = False
    stranger_bytes: int = 0
    left: bool = False
    watch: Callable[[Fleet, ev.AnyEvent, Fleet], None] | None = None  # sees each decision: the fleet before, the event, the fleet after
    wrongs: list[str] = field(default_factory=list)  # what must never happen to real processes, and did

    def __post_init__(self) -> None:
        self._queue: list[tuple[float, int, int, ev.AnyEvent | Callable[[], None]]] = []
        self._serial = 0
        self._frozen_until_s = 0.0
        self._saves: list[act.SaveJob] = []
        self._pids = 100
        self.devices = (Device(id=HOST, name="host", backend="host", total_bytes=16 * GIB),)
        self.first: Fleet = first_fleet(self.limits, self.devices)
        self.fleet = self.first
        self._start(())

    def _start(self, jobs: tuple[Job, ...]) -> None:
        self.post(0, ev.SupervisorStarted(wall_s=WALL_S + self.now_s, jobs=jobs))
        self.later(TICK_S, self._tick)

    # ---- time

    def post(self, after_s: float, event: ev.AnyEvent) -> None:
        """Put an event into the inbox later."""
        self._push(self.now_s + after_s, event)

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something later."""
        self._push(self.now_s + after_s, do)

    def _push(self, at_s: float, what: ev.AnyEvent | Callable[[], None], rank: int = 0) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at_s, rank, self._serial, what))

    def run(self, until_s: float) -> None:
        """Let time pass. The supervisor reads nothing while it is frozen or after it left."""
        while self._queue and self._queue[0][0] <= until_s and not self.left:
            at_s, rank, serial, what = heapq.heappop(self._queue)
            if not isinstance(what, ev.Event):
                self.now_s = at_s
                what()
            elif rank != LAST and at_s <= self._frozen_until_s and isinstance(what, ev.Tick):
                continue
            elif at_s < self._frozen_until_s:
                heapq.heappush(self._queue, (self._frozen_until_s, rank, serial, what))
            else:
                self.now_s = at_s
                self._decide(what)
        self.now_s = max(self.now_s, until_s)

    def _tick(self) -> None:
        self.later(TICK_S, self._tick)
        if self.now_s >= self._frozen_until_s:
            self.post(0, ev.Tick(wall_s=WALL_S + self.now_s))
            if round(self.now_s) % round(self.limits.memory.look_every_s) == 0:
                for action in look(self.fleet):
                    self._perform(action)

    def freeze(self, lag_s: float) -> None:
        """Hold the supervisor up; everything else goes on."""
        self._frozen_until_s = self.now_s + lag_s
        self._push(self._frozen_until_s, ev.Tick(wall_s=WALL_S + self._frozen_until_s, lag_s=lag_s), LAST)

    def restart_supervisor(self) -> None:
        """End the supervisor and every worker without a word, and start again from the store."""
        for process in self.processes.values():
            process.alive = False
        self.processes.clear()
        self.shown.clear()
        self._queue.clear()
        self._saves.clear()
        self.journal.clear()
        self.left = False
        self.first = first_fleet(self.limits, self.devices, fence=self.fleet.fence)
        self.fleet = self.first
        self._frozen_until_s = 0.0
        self._start(tuple(job for job in self.store.values() if job.live))

    # ---- what people do

    def submit(self, job: str, kind: str, *, priority: int | None = None, max_attempts: int = 6) -> None:
        """Hand in a job."""
        model = self.limits.model_for(kind)
        usual = self.limits.workers[model].priority if model else 10
        new = Job(id=JobId(job), kind=kind, priority=usual if priority is None else priority, max_attempts=max_attempts)
        self.post(0, ev.JobSubmitted(request=f"submit {job}", job=new))

    def process(self, worker: str) -> SimulatedProcess:
        """Return the process that is now in a worker's place."""
        name = WorkerName(worker)
        return self.processes[name, self.fleet.workers[name].generation]

    @property
    def unsaved(self) -> int:
        """How many writes the store has not taken yet."""
        return len(self._saves)

    def fault(self, worker: str) -> Faults:
        """Return the switches of one worker."""
        return self.faults.setdefault(WorkerName(worker), Faults())

    # ---- the supervisor

    def _decide(self, event: ev.AnyEvent) -> None:
        self.journal.append((event, self.now_s))
        before, decision = self.fleet, decide(self.fleet, event, self.limits, self.now_s)
        self.fleet = decision.fleet
        if self.watch is not None:
            self.watch(before, event, self.fleet)
        for action in decision.actions:
            self._perform(action)

    def _perform(self, action: act.AnyAction) -> None:
        self.performed.append((self.now_s, action))
        if isinstance(action, act.ForWorker):
            self._perform_on(action, self.processes.get((action.worker, action.generation)))
            return
        match action:
            case act.SaveJob():
                self._saves.append(action)
                if len(self._saves) == 1:
                    self.later(0.002, self._save)
            case act.MeasureDevice():
                self.later(action.after_s + 0.005, self._read_device)
            case act.MeasureMemory():
                memory = {name: self.limits.workers[self.fleet.workers[name].model].gpu_bytes for name, _ in self.processes}
                self.post(0.005, ev.MemoryMeasured(workers=memory, available_bytes=30 * GIB))
            case act.Reply():
                self.replies[action.request] = action
            case act.WakeAt():
                self._push(action.at_s, ev.Tick(wall_s=WALL_S + action.at_s))
            case act.Leave():
                self.left = True
            case act.Announce():
                pass

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
                process.drain()
            case act.SendJob():
                self._level(action, action.job, "before", GIB)
                process.take(action.job, action.attempt)
            case act.SendCancel():
                self._level(action, action.job, "cancel", 3 * GIB)
                process.cancel(action.job)
            case _:
                pass

    def _level(self, action: act.ForWorker, job: JobId, moment: str, used_bytes: int) -> None:
        self.post(0.001, ev.LevelMeasured(worker=action.worker, generation=action.generation, job=job, moment=moment, used_bytes=used_bytes))

    def _spawn(self, action: act.Spawn) -> None:
        faults = self.fault(action.worker)
        if faults.spawn_fails:
            self.post(SOON_S, ev.SpawnFailed(worker=action.worker, generation=action.generation, detail=f"there is no program {action.worker}"))
            return
        spec = self.limits.workers[self.fleet.workers[action.worker].model]
        if spec.gpu_bytes and self.shown:
            self.wrongs.append(f"{action.worker} was spawned while the device showed {sorted(self.shown)}")
        self._pids += 1
        process = SimulatedProcess(self, action.worker, action.generation, self._pids, spec, faults)
        self.processes[action.worker, action.generation] = process
        if spec.gpu_bytes:
            self.shown[action.worker, action.generation] = spec.gpu_bytes
        self.post(SOON_S, ev.WorkerSpawned(worker=action.worker, generation=action.generation, pid=process.pid))
        process.run()

    def _prove_gone(self, action: act.ProveGone) -> None:
        faults, key = self.fault(action.worker), (action.worker, action.generation)
        if faults.tree_stuck:
            self.post(action.within_s, ev.TreeStuck(worker=action.worker, generation=action.generation, pids=(self.processes[key].pid + 1,)))
            return
        self.processes.pop(key)
        self.later(faults.memory_back_s, lambda: self._give_back(key))
        self.post(0.02, ev.TreeGone(worker=action.worker, generation=action.generation, swept=faults.leftovers, log_tail=("last line",)))

    def _give_back(self, key: tuple[WorkerName, int]) -> None:
        self.shown.pop(key, None)

    def _read_device(self) -> None:
        if self.device_unreadable:
            self.post(0, ev.DeviceMeasured(device=HOST, sample=None, error="the probe gave no answer within 2 s"))
            return
        used = sum(self.shown.values()) + self.stranger_bytes
        holdings = tuple(Holding(name, 100 + generation, size) for (name, generation), size in self.shown.items())
        if self.stranger_bytes:
            holdings += (Holding(None, 4242, self.stranger_bytes),)
        self.post(0, ev.DeviceMeasured(device=HOST, sample=DeviceSample(used_bytes=used, free_bytes=16 * GIB - used, holdings=holdings)))

    def _save(self) -> None:
        """Write the oldest of the waiting writes: they go in order, and a failed one is tried again unless somebody hears of it."""
        save = self._saves[0]
        if self.store_fails:
            self.post(0, ev.SaveFailed(job=save.job.id, error="disk full", refuse_to=save.refuse_to))
        if not self.store_fails or save.refuse_to:
            self._saves.pop(0)
        if not self.store_fails:
            self.store[save.job.id] = save.job
            if not save.job.live:
                self.endings.append(save.job)
            for action in save.then:
                self._perform(action)
        if self._saves:
            self.later(1.0 if self.store_fails else 0.002, self._save)
