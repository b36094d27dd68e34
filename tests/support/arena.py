"""A device and everybody who fights for it, in virtual time: workers with jobs, programs, strangers, and supervisors that are killed.

It performs no more of the core's actions than a device needs, so that a life takes some milliseconds, and what falls due is seen at the next regular tick.
Its ledger of who really uses the device is the witness, not the core's books.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from supervisor.core import actions as act
from supervisor.core import events as ev
from supervisor.core.decide import decide, first_fleet
from supervisor.core.limits import GIB, GpuLimits, JobLimits, Limits, SupervisorLimits, Watchdog, WorkerSpec
from supervisor.core.model import Device, DeviceId, DeviceSample, Exit, Fleet, Holding, Job, JobId, Lease, LeaseId, LeaseState, Outside, Ticket, WorkerName
from supervisor.core.readings import look
from supervisor.core.tickets import stored

CARD: Final = DeviceId("card")
TOTAL_BYTES: Final = 16 * GIB
WALL_S: Final = 1_700_000_000.0
TICK_S: Final = 2.0
HAS: Final = frozenset({LeaseState.HELD, LeaseState.YIELDING, LeaseState.STALE})
_FOR_EVER_S: Final = 1e6
_DOG: Final = Watchdog(start_timeout_s=_FOR_EVER_S, stall_after_s=_FOR_EVER_S, silent_after_s=_FOR_EVER_S, recycle_after_s=_FOR_EVER_S, stop_grace_s=5.0)


def arena_limits(*, age_step_s: float = 1.0, max_hold_s: float = 0.0, vacate_timeout_s: float = 30.0) -> Limits:
    """Return limits under which SAM is resident, and YOLO comes and goes. age_step_s: of jobs and programs alike."""
    sam = WorkerSpec(command=("sam",), serves=("sam.do",), gpu_bytes=14 * GIB, priority=10, watchdog=_DOG)
    yolo = WorkerSpec(command=("yolo",), serves=("yolo.do",), gpu_bytes=8 * GIB, priority=15, resident=False, watchdog=_DOG)
    return Limits(
        workers={"sam": sam, "yolo": yolo},
        watchdog=_DOG,
        gpu=GpuLimits(age_step_s=age_step_s, max_hold_s=max_hold_s, vacate_timeout_s=vacate_timeout_s, poll_max_s=2.0),
        jobs=JobLimits(age_step_s=age_step_s, max_queued=100_000),
        supervisor=SupervisorLimits(health_every_s=_FOR_EVER_S),
    )


Report = ev.JobAccepted | ev.JobFinished | ev.JobEnded
_REPORTS: Final[dict[str, type[Report]]] = {"accepted": ev.JobAccepted, "result": ev.JobFinished, "failed": ev.JobEnded}


@dataclass
class Task:
    """What a job is: so many steps of so long each; one that saves checkpoints can be left after each step."""

    steps: int
    step_s: float
    saves: bool
    done: int = 0


@dataclass
class Process:
    """A worker's process."""

    name: WorkerName
    generation: int
    pid: int
    job: tuple[JobId, int] | None = None
    alive: bool = True
    boundary: bool = False
    draining: bool = False
    ready: bool = False
    adopted: bool = False
    unstored: list[Report] = field(default_factory=list)


@dataclass
class Program:
    """A program outside Warden: it asks, again and again with its ticket, holds the device, and gives it back or dies with it."""

    name: str
    pid: int
    priority: int
    hold_s: float
    dies: bool = False
    again_s: float | None = None  # so long after it gave the device back it asks anew; None: it does not
    timeout_s: float = 20.0
    need_bytes: int = 4 * GIB
    lease: tuple[LeaseId, int] | None = None
    asked_at_s: float = 0.0
    ahead: int = 0  # who stood in the line as it asked, or was at work
    troubles: int = 0  # and how many there had been by then
    alive: bool = True
    tries: int = 0


@dataclass
class Wait:
    """One wait for the device that is over."""

    name: str
    priority: int
    waited_s: float
    ahead: int
    troubles: int


class Arena:
    """One life of a device. `wrongs` must stay empty."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or arena_limits()
        self.now_s = 0.0
        self.exit_s = 0.3
        self.release_s = 0.0  # how long the device shows a process that is gone
        self.load_s = 1.0
        self.readable = True
        self.ledger: dict[object, int] = {}  # what is really on the device: a process, a program's pid, a stranger
        self.processes: dict[WorkerName, Process] = {}
        self.programs: dict[Ticket, Program] = {}
        self.tasks: dict[JobId, Task] = {}
        self.waits: list[Wait] = []
        self.wrongs: list[tuple[str, str]] = []  # what must never happen: its kind, and the story
        self.grants = 0
        self.decisions = 0
        self.troubles = 0
        self.under_way = 0  # of the troubles
        self._since: dict[object, float] = {}
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0
        self._life = 0
        self._pids = 100
        self._generations: dict[str, int] = {}
        self._watched: set[Ticket] = set()
        self._answered: set[str] = set()  # of what was given back
        self._repeated: set[str] = set()
        self._jobs: dict[JobId, Job] = {}  # the store
        self._leases: tuple[Lease, ...] = ()
        self._fence = 0
        self._marks: dict[str, str] = {}
        self.up = False
        self.fleet = Fleet()
        self.start()

    # ---- time

    def at(self, after_s: float, do: Callable[[], object]) -> None:
        """Do something later, whoever is the supervisor then."""
        self._serial += 1
        heapq.heappush(self._heap, (self.now_s + after_s, self._serial, do))

    def own(self, after_s: float, do: Callable[[], object]) -> None:
        """Do something later that ends with this supervisor."""
        self.at(after_s, partial(self._if_still, self._life, do))

    def _if_still(self, life: int, do: Callable[[], object]) -> None:
        if life == self._life and self.up:
            do()

    def run(self, until_s: float) -> None:
        """Let time pass."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, do = heapq.heappop(heap)
            do()
        self.now_s = until_s

    def post(self, event: ev.AnyEvent) -> None:
        """Let the supervisor decide about an event; while none runs it is lost."""
        if not self.up:
            return
        self.decisions += 1
        before, decision = self.fleet, decide(self.fleet, event, self.limits, self.now_s)
        fleet = self.fleet = decision.fleet
        if fleet.leases is not before.leases:
            self.own(0.002, partial(self._save_leases, fleet))
            self._see(before, fleet)
        for action in decision.actions:
            if (do := _DO.get(type(action))) is not None:
                do(self, action)

    # ---- the supervisor

    def start(self) -> None:
        """Start a supervisor from what is stored and alive."""
        device = Device(id=CARD, name="card", backend="host", total_bytes=TOTAL_BYTES)
        adopted = []
        for process in self.processes.values():
            if process.alive:
                process.adopted = True
                adopted.append(ev.Adopted(worker=process.name, generation=process.generation, pid=process.pid, age_s=1.0))
        self._life, self.up = self._life + 1, True
        self._watched.clear()
        self.fleet = first_fleet(self.limits, (device,), fence=self._fence, generations=self._generations)
        jobs, tickets = tuple(job for job in self._jobs.values() if job.live), stored(self._marks)
        self.post(ev.SupervisorStarted(wall_s=WALL_S + self.now_s, jobs=jobs, leases=self._leases, adopted=tuple(adopted), tickets=tickets))
        for process in self.processes.values():
            self.own(0.3, partial(self._beat, process))
        for program in self.programs.values():
            if program.tries:
                self.own(0.3, partial(self.lock, program))
        self.own(TICK_S, self._tick)

    def kill(self) -> None:
        """End the supervisor as kill -9 does."""
        self.up = False

    def _tick(self) -> None:
        self.own(TICK_S, self._tick)
        self.post(ev.Tick(wall_s=WALL_S + self.now_s))
        if self.fleet.devices[CARD].trouble:  # the regular look, where it makes a difference
            for action in look(self.fleet):
                if isinstance(action, act.MeasureDevice):
                    self._measure(action)

    def _save_leases(self, fleet: Fleet) -> None:
        self._leases, self._fence = tuple(fleet.leases.values()), max(self._fence, fleet.last_number + 100)

    def _see(self, before: Fleet, after: Fleet) -> None:
        """Hold the books against the ledger: nobody is granted what somebody else still has."""
        having = [lease for lease in after.leases.values() if lease.state in HAS]
        if len(having) > 1:
            self.wrongs.append(("double", f"at {self.now_s:.2f} {' and '.join(lease.owner for lease in having)} have the device"))
        for lease in having:
            was = before.leases.get(lease.id)
            if lease.state is LeaseState.HELD and was is not None and was.state is LeaseState.WAITING:
                self.grants += 1
                if sum(self._old(0.2).values()) + lease.need_bytes > TOTAL_BYTES:
                    self.wrongs.append(("double", f"at {self.now_s:.2f} {lease.owner} is granted what is in use: {self.ledger}"))

    def _old(self, age_s: float) -> dict[object, int]:
        """Return what is on the device, without strangers that came later than so long ago."""
        return {key: size for key, size in self.ledger.items() if self._since.get(key, 0.0) <= self.now_s - age_s}

    def stranger(self, name: str, size: int, for_s: float) -> None:
        """Let somebody use the device who never asked."""
        key = f"stranger {name}"
        self.ledger[key], self._since[key] = size, self.now_s
        self.trouble(for_s)
        self.at(for_s, partial(self.ledger.pop, key, None))

    def trouble(self, for_s: float) -> None:
        """Note that nobody can be served for so long."""
        self.troubles += 1
        self.under_way += 1
        self.at(for_s, self._over)

    def _over(self) -> None:
        self.under_way -= 1

    # ---- workers

    def _spawn(self, action: act.Spawn) -> None:
        self._pids += 1
        old = self.processes.get(action.worker)
        if old is not None and old.alive:
            self.wrongs.append(("double", f"at {self.now_s:.2f} {action.worker} is spawned twice"))
        process = self.processes[action.worker] = Process(action.worker, action.generation, self._pids)
        self._generations[action.worker] = action.generation
        need_bytes = self.limits.workers[action.worker.rpartition("-")[0]].gpu_bytes
        self._uses((process.name, process.generation), need_bytes)
        self.own(0.01, partial(self.post, ev.WorkerSpawned(worker=process.name, generation=process.generation, pid=process.pid)))
        self.at(self.load_s, partial(self._is_ready, process))

    def _uses(self, key: object, size: int) -> None:
        """Somebody takes memory of the device: the moment in which a double grant would hurt."""
        others = {other: used for other, used in self.ledger.items() if other not in self._since}
        if sum(others.values()) + size > TOTAL_BYTES:
            self.wrongs.append(("double", f"at {self.now_s:.2f} {key} takes what is in use by {others}"))
        self.ledger[key] = size

    def _is_ready(self, process: Process) -> None:
        if process.alive and not process.ready:
            process.ready = True
            self.post(ev.ReadyHeard(worker=process.name, generation=process.generation))

    def _beat(self, process: Process) -> None:
        if process.alive:
            self.post(ev.BeatHeard(worker=process.name, generation=process.generation, jobs=self._progress(process)))

    def _progress(self, process: Process) -> tuple[ev.JobProgress, ...]:
        if process.job is None:
            return ()
        task = self.tasks[process.job[0]]
        return (ev.JobProgress(job=process.job[0], attempt=process.job[1], phase="work", done=task.done, total=task.steps, resumable=task.saves),)

    def _resync(self, action: act.SendResync) -> None:
        process = self._of(action)
        if process is None:
            return
        jobs = set[tuple[JobId, int]]() if process.job is None else {process.job}
        jobs |= {(event.job, event.attempt) for event in process.unstored}
        self.post(ev.HelloHeard(worker=process.name, generation=process.generation, jobs=tuple(jobs)))
        if process.ready:
            self.post(ev.ReadyHeard(worker=process.name, generation=process.generation))
        for event in tuple(process.unstored):
            self.post(event)
        self.own(0.1, partial(self._beat, process))

    def _of(self, action: act.ForWorker) -> Process | None:
        process = self.processes.get(action.worker)
        return process if process is not None and process.alive and process.generation == action.generation else None

    def _report(self, process: Process, event: Report) -> None:
        """Send what must not be lost: it is sent again to the next supervisor."""
        process.unstored.append(event)
        self.post(event)

    def _stored(self, action: act.SendStored) -> None:
        process, kind = self._of(action), _REPORTS[action.what]
        if process is not None:
            process.unstored = [one for one in process.unstored if type(one) is not kind or (one.job, one.attempt) != (action.job, action.attempt)]
            self._leave_if_done(process)

    def _send_job(self, action: act.SendJob) -> None:
        self.own(0.01, partial(self._take, action))

    def _take(self, action: act.SendJob) -> None:
        process = self._of(action)
        if process is None or process.job is not None:
            return
        process.job = (action.job, action.attempt)
        self._report(process, ev.JobAccepted(worker=process.name, generation=process.generation, job=action.job, attempt=action.attempt))
        self._beat(process)
        task = self.tasks[action.job]
        self.at(task.step_s, partial(self._step, process, action.job, action.attempt, task))

    def _step(self, process: Process, job: JobId, attempt: int, task: Task) -> None:
        if not process.alive or process.job != (job, attempt):
            return
        task.done += 1
        who: Any = {"worker": process.name, "generation": process.generation, "job": job, "attempt": attempt}
        if task.done >= task.steps:
            process.job = None
            self._report(process, ev.JobFinished(**who, value=None))
            self._leave_if_done(process)
        elif task.saves and process.boundary:
            self._give_back(process)
        else:
            self.at(task.step_s, partial(self._step, process, job, attempt, task))

    def _give_back(self, process: Process) -> None:
        """Leave the job at hand; what was not saved of it is lost."""
        if process.job is not None:
            (job, attempt), process.job = process.job, None
            if not self.tasks[job].saves:
                self.tasks[job].done = 0
            self._report(process, ev.JobEnded(worker=process.name, generation=process.generation, job=job, attempt=attempt, reason="shutdown"))
        self._leave_if_done(process)

    def _drain(self, action: act.SendDrain) -> None:
        process = self._of(action)
        if process is not None:
            process.draining, process.boundary = True, action.boundary
            self._leave_if_done(process)

    def _leave_if_done(self, process: Process) -> None:
        if process.draining and process.job is None and process.alive:
            self.at(self.exit_s, partial(self.end, process, Exit("code", 0)))

    def _terminate(self, action: act.Terminate) -> None:
        process = self._of(action)
        if process is not None:
            process.draining = True
            self._give_back(process)

    def _kill(self, action: act.Kill) -> None:
        process = self._of(action)
        if process is not None:
            self.end(process, Exit("signal", 9, "SIGKILL"))

    def end(self, process: Process, how: Exit) -> None:
        """End a worker's process; the device shows its memory for a while yet."""
        if not process.alive:
            return
        process.alive = False
        if process.job is not None and not self.tasks[process.job[0]].saves:
            self.tasks[process.job[0]].done = 0
        self.at(self.release_s, partial(self.ledger.pop, (process.name, process.generation), None))
        seen = Exit("unknown") if process.adopted else how
        self.own(0.001, partial(self.post, ev.WorkerExited(worker=process.name, generation=process.generation, exit=seen)))

    def _prove_gone(self, action: act.ProveGone) -> None:
        self.own(0.02, partial(self.post, ev.TreeGone(worker=action.worker, generation=action.generation)))

    # ---- the device, the store, people

    def _measure(self, action: act.MeasureDevice) -> None:
        self.own(action.after_s + 0.005, self._read)

    def _read(self) -> None:
        if not self.readable:
            self.post(ev.DeviceMeasured(device=CARD, sample=None, error="no answer"))
            return
        used = sum(self.ledger.values())
        holdings = tuple(self._holding(key, size) for key, size in self.ledger.items())
        self.post(ev.DeviceMeasured(device=CARD, sample=DeviceSample(used_bytes=used, free_bytes=TOTAL_BYTES - used, holdings=holdings)))

    def _holding(self, key: object, size: int) -> Holding:
        return Holding(key[0], 1, size) if isinstance(key, tuple) else Holding(None, key if isinstance(key, int) else 1, size)

    def _save_job(self, action: act.SaveJob) -> None:
        self.own(0.002, partial(self._saved, action))

    def _saved(self, action: act.SaveJob) -> None:
        self._jobs[action.job.id] = action.job
        self._then(action.then)

    def _then(self, actions: tuple[act.AnyAction, ...]) -> None:
        for action in actions:
            if (do := _DO.get(type(action))) is not None:
                do(self, action)

    def _admit(self, action: act.Admit) -> None:
        self.post(ev.JobStored(job=action.job))

    def _save_mark(self, action: act.SaveMark) -> None:
        self.own(0.002, partial(self._marks.__setitem__, action.name, action.value))

    def _after_leases(self, action: act.SaveLeases) -> None:
        self.own(0.003, partial(self._leases_saved, action))

    def _leases_saved(self, action: act.SaveLeases) -> None:
        self._save_leases(self.fleet)
        self._then(action.then)

    def submit(self, name: str, kind: str, task: Task, priority: int) -> None:
        """Hand in a job."""
        job = JobId(name)
        self.tasks[job] = task
        self.post(ev.JobSubmitted(request="", job=Job(id=job, kind=kind, priority=priority, max_attempts=99)))

    def unfinished(self) -> list[JobId]:
        """Return the jobs that were taken and have not ended."""
        return [job.id for job in self._jobs.values() if job.live]

    def ended(self, status: str) -> int:
        """Return how many jobs ended so."""
        return sum(1 for job in self._jobs.values() if job.status == status)

    # ---- programs

    def lock(self, program: Program) -> None:
        """Let a program ask, with its ticket."""
        if not program.alive or program.lease is not None:
            return
        ticket = Ticket(f"t-{program.name}")
        if ticket not in self.programs or program.tries == 0:
            self.programs[ticket] = program
            program.asked_at_s, program.troubles = self.now_s, self.troubles - self.under_way
            program.ahead = sum(1 for other in self.programs.values() if other.tries) + len(self.fleet.jobs)
        program.tries += 1
        who = Outside(ticket=ticket, name=program.name, pid=program.pid, start_ticks=1, boot_id="b", ttl_s=0.0)
        if not self.up:
            self.at(0.3, partial(self.lock, program))
            return
        self.post(
            ev.LockRequested(
                request=f"lock {ticket} {program.tries}",
                outside=who,
                priority=program.priority,
                need_bytes=program.need_bytes,
                timeout_s=program.timeout_s,
                kin=(program.pid,),
            )
        )
        self.at(program.timeout_s + 1.0, partial(self._heard_nothing, program, program.tries))

    def _heard_nothing(self, program: Program, tries: int) -> None:
        """The supervisor that was asked is gone: another is asked."""
        if program.tries == tries:
            self.lock(program)

    def _reply(self, action: act.Reply) -> None:
        if action.request.startswith("unlock "):
            self._given_back(action)
        if not action.request.startswith("lock "):
            return
        _, ticket, tries = action.request.split()
        program = self.programs[Ticket(ticket)]
        if int(tries) != program.tries or not program.alive:
            return  # it has asked again since
        if action.lease is None:
            self.at(0.05, partial(self.lock, program))
        else:
            self._granted(program, action.lease)

    def _granted(self, program: Program, name: LeaseId) -> None:
        lease = self.fleet.leases.get(name)
        if lease is None:
            self.wrongs.append(("lost", f"at {self.now_s:.2f} {program.name} is told of {name}, which is over"))
            return
        program.lease, program.tries = (name, lease.fence), 0
        self._uses(program.pid, program.need_bytes)
        self.waits.append(Wait(program.name, program.priority, self.now_s - program.asked_at_s, program.ahead, self.troubles - program.troubles))
        self.at(program.hold_s, partial(self.finish, program))

    def finish(self, program: Program) -> None:
        """Let a program end its hold: it dies, or gives the device back."""
        if program.lease is None or not program.alive:
            return
        if not self.up:
            self.at(0.3, partial(self.finish, program))
            return
        held = self.fleet.leases.get(program.lease[0])
        if held is None or held.state not in HAS or held.fence != program.lease[1]:
            self.wrongs.append(("lost", f"at {self.now_s:.2f} {program.name} has {program.lease[0]} no more, and never gave it back"))
        self.at(self.release_s if program.dies else 0.0, partial(self.ledger.pop, program.pid, None))
        (lease, fence), program.lease = program.lease, None
        ticket = Ticket(f"t-{program.name}")
        if program.dies:
            program.alive = False
            if ticket in self._watched:
                self.own(0.001, partial(self.post, ev.OwnerGone(ticket=ticket)))
            return
        self._unlock(ev.UnlockRequested(request=f"unlock {ticket} {lease}", lease=lease, fence=fence))

    def _unlock(self, event: ev.UnlockRequested) -> None:
        """Give a lease back, and again where the supervisor that was asked ended before it answered."""
        self.post(event)
        self.at(0.3, partial(self._unlock_again, event))

    def _given_back(self, action: act.Reply) -> None:
        """A program hears that it has the device no more; it asks for it anew only after that."""
        if action.error and action.request not in self._repeated:
            self.wrongs.append(("lost", f"at {self.now_s:.2f} {action.request}: {action.message}"))
        program = self.programs[Ticket(action.request.split()[1])]
        if action.request not in self._answered and program.again_s is not None:
            self.at(program.again_s, partial(self.lock, program))
        self._answered.add(action.request)

    def _unlock_again(self, event: ev.UnlockRequested) -> None:
        if event.request not in self._answered:
            self._repeated.add(event.request)
            self._unlock(event)

    def _watch(self, action: act.WatchOwner) -> None:
        ticket = action.outside.ticket
        self._watched.add(ticket)
        if not self.programs[ticket].alive:
            self.own(0.001, partial(self.post, ev.OwnerGone(ticket=ticket)))


_DO: Final[dict[type[act.AnyAction], Callable[[Arena, Any], None]]] = {
    act.Spawn: Arena._spawn,
    act.SendResync: Arena._resync,
    act.SendStored: Arena._stored,
    act.SendJob: Arena._send_job,
    act.SendDrain: Arena._drain,
    act.Terminate: Arena._terminate,
    act.Kill: Arena._kill,
    act.ProveGone: Arena._prove_gone,
    act.MeasureDevice: Arena._measure,
    act.SaveJob: Arena._save_job,
    act.Admit: Arena._admit,
    act.SaveMark: Arena._save_mark,
    act.SaveLeases: Arena._after_leases,
    act.WatchOwner: Arena._watch,
    act.Reply: Arena._reply,
}
"""What the arena does of the core's actions. The rest only says or publishes something, or looks at memory."""
