"""Simulated worker processes: they load, beat, work, drain and die in virtual time, and misbehave where a switch says so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.core.events import (
    AnyEvent,
    BeatHeard,
    HelloHeard,
    JobAccepted,
    JobEnded,
    JobFinished,
    JobProgress,
    ProgramSeen,
    ReadyHeard,
    WorkerExited,
)
from supervisor.core.limits import GIB, WorkerSpec
from supervisor.core.model import Exit, JobId, WorkerName

Report = JobAccepted | JobFinished | JobEnded

BEAT_S = 1.0
SOON_S = 0.01
RESEND_S = 1.0
CRASHED = Exit("signal", 11, "SIGSEGV")
_DEVICE_FAILS = {"gpu_oom": "CUDA out of memory. Tried to allocate 2.00 GiB", "gpu_error": "CUDA error: device-side assert triggered"}


@dataclass
class Faults:
    """What is wrong with one worker. Every switch may be turned at any time; each process looks when it matters."""

    spawn_fails: bool = False
    load_s: float = 1.0
    never_ready: bool = False
    crash_in_load: bool = False
    mute: bool = False  # no beat leaves it
    deaf: bool = False  # a job that is sent never begins
    steps: int = 10
    step_s: float = 1.0
    stalls_at: int | None = None
    crashes_at: int | None = None
    fails_at: int | None = None
    fails_as: str = "user_error"  # gpu_oom and gpu_error also end the process, as the SDK does
    uses_gib: float | None = None  # of the device; None: what its worker declares
    critical: bool = False
    phase_at: int | None = None  # from this step on the phase is "validate", and it stands still there for as long as `phase_s`
    phase_s: float = 0.0
    checkpoint_every: int = 0  # steps between checkpoints, where a job can be left and gone on with; 0: it makes none
    extends_s: float = 0.0  # with each sign of life it asks for so much more time
    ignores_drain: bool = False
    ignores_cancel: bool = False
    ignores_term: bool = False
    unkillable: bool = False
    wordless: bool = False  # leaves on SIGTERM without giving its job back first
    exit_s: float = 0.3
    memory_bytes: int = 2 * GIB
    needs_bytes: int = 0  # what it reckons that each of its jobs takes on top of that
    no_evidence: bool = False
    leftovers: int = 0
    tree_stuck: bool = False
    release_s: float = 0.2  # how long the memory is read after a cancel
    keeps_memory: bool = False  # what a cancelled job used is not given back
    memory_back_s: float = 0.0  # how long the device shows its memory after its tree is gone


@dataclass
class Task:
    """One attempt at a job, in a process."""

    attempt: int
    step: int = 0
    ended: bool = False
    began_phase: bool = False
    pausing: bool = False


class Surroundings(Protocol):
    """What a process needs of the world."""

    checkpoints: dict[JobId, int]

    def post(self, after_s: float, event: AnyEvent) -> None:
        """Put an event into the inbox later."""

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something later."""

    def at_work(self, process: "SimulatedProcess", job: JobId) -> None:
        """See that the process works on the job just now."""


@dataclass
class SimulatedProcess:
    """One generation of a worker."""

    world: Surroundings
    worker: WorkerName
    generation: int
    pid: int
    spec: WorkerSpec
    faults: Faults
    alive: bool = True
    adopted: bool = False
    loaded: bool = False
    draining: bool = False
    boundary: bool = False
    code: int = 0  # that it exits with by itself
    killed: bool = False  # it got SIGKILL, and does nothing any more even where it cannot die
    tasks: dict[JobId, Task] = field(default_factory=dict)
    seen: set[tuple[JobId, int]] = field(default_factory=set)
    unstored: dict[tuple[JobId, int, str], Report] = field(default_factory=dict)

    def run(self) -> None:
        """Come up: a hello, beats, ready. A program without the SDK only shows that it moves."""
        if self.faults.crash_in_load:
            self.world.later(self.faults.load_s, lambda: self.leave(CRASHED))
        if self.spec.progress == "sdk":
            self.world.later(0.5, self._first_hello)
            if not self.faults.crash_in_load and not self.faults.never_ready:
                self.world.later(self.faults.load_s, self._ready)
        elif self.spec.progress != "none":
            self.world.later(self.faults.load_s, lambda: self._show(0))

    def _show(self, step: int) -> None:
        """Print a line, write the file, or send what sd_notify sends."""
        if not self.alive or self.killed:
            return
        notify = self.spec.progress == "notify"
        moved = self.faults.stalls_at is None or step < self.faults.stalls_at
        if not self.faults.mute and not (step == 0 and self.faults.never_ready):
            seen = ProgramSeen(
                worker=self.worker,
                generation=self.generation,
                ready=notify and step == 0,
                alive=notify and step > 0,
                moved=moved and not notify,
                status=f"step {step}" if notify else "",
                extend_s=self.faults.extends_s,
            )
            if notify or moved or self.faults.extends_s:
                self.world.post(0, seen)
        self.world.later(self.faults.step_s, lambda: self._show(step + 1))

    def _first_hello(self) -> None:
        if self.alive:
            if not self.faults.mute:
                self.world.post(0, HelloHeard(worker=self.worker, generation=self.generation))
            self.world.later(BEAT_S, self._beat)

    def resync(self) -> None:
        """Say where it is."""
        if not self.faults.mute and not self.killed:
            at_hand = {(job, task.attempt) for job, task in self.tasks.items() if not task.ended} | {(job, attempt) for job, attempt, _ in self.unstored}
            self.world.post(SOON_S, HelloHeard(worker=self.worker, generation=self.generation, jobs=tuple(sorted(at_hand))))
            if self.loaded:
                self.world.post(SOON_S, ReadyHeard(worker=self.worker, generation=self.generation, note="weights x.pt"))

    def _ready(self) -> None:
        if self.alive:
            self.loaded = True
            self.world.post(0, ReadyHeard(worker=self.worker, generation=self.generation, note="weights x.pt"))

    def _beat(self) -> None:
        if not self.alive or self.killed:
            return
        if not self.faults.mute:
            jobs = tuple(self._progress(job, task) for job, task in self.tasks.items() if not task.ended)
            self.world.post(0, BeatHeard(worker=self.worker, generation=self.generation, jobs=jobs))
        self.world.later(BEAT_S, self._beat)

    def _progress(self, job: JobId, task: Task) -> JobProgress:
        return JobProgress(
            job=job,
            attempt=task.attempt,
            phase="validate" if task.began_phase else "train",
            done=task.step,
            total=self.faults.steps,
            critical="saving" if self.faults.critical else "",
            extend_s=self.faults.extends_s,
            resumable=bool(self.faults.checkpoint_every),
        )

    def take(self, job: JobId, attempt: int, room_bytes: int | None = None) -> None:
        """Begin to work on a job, where its last checkpoint is, unless it needs more memory than there is; an order that came twice is one."""
        if self.alive and not self.faults.deaf and not self.killed and (job, attempt) not in self.seen:
            self.seen.add((job, attempt))
            task = self.tasks[job] = Task(attempt, self.world.checkpoints.get(job, 0))
            more_bytes = self.faults.needs_bytes if room_bytes is not None else 0
            needs_bytes = self.faults.memory_bytes + more_bytes if more_bytes else 0
            if room_bytes is not None and more_bytes > room_bytes:
                self._end(job, task, "needs_memory", "", needs_bytes)
                return
            accepted = JobAccepted(worker=self.worker, generation=self.generation, job=job, attempt=attempt, memory_bytes=needs_bytes)
            self._report("accepted", accepted, SOON_S)
            self.world.later(self.faults.step_s, lambda: self._step(job, task))

    def _step(self, job: JobId, task: Task) -> None:
        if not self.alive or task.ended or self.killed:
            return
        self.world.at_work(self, job)
        faults = self.faults
        if faults.phase_at is not None and task.step >= faults.phase_at and not task.began_phase:
            task.began_phase = True
            self.world.later(faults.phase_s, lambda: self._step(job, task))
            return
        if faults.stalls_at is None or task.step < faults.stalls_at:
            task.step += 1
        at_checkpoint = bool(faults.checkpoint_every) and task.step % faults.checkpoint_every == 0
        if at_checkpoint:
            self.world.checkpoints[job] = task.step
        if faults.crashes_at is not None and task.step >= faults.crashes_at:
            self.leave(CRASHED)
        elif faults.fails_at is not None and task.step >= faults.fails_at:
            self._fail(job, task)
        elif task.step >= faults.steps:
            task.ended = True
            finished = JobFinished(worker=self.worker, generation=self.generation, job=job, attempt=task.attempt, value={"steps": task.step})
            self._report("result", finished)
            self._leave_if_done()
        elif at_checkpoint and self.boundary:
            self._end(job, task, "shutdown", "left at a checkpoint")
        elif task.pausing and (at_checkpoint or not faults.checkpoint_every):
            self._end(job, task, "paused", "")
        else:
            self.world.later(faults.step_s, lambda: self._step(job, task))

    def _fail(self, job: JobId, task: Task) -> None:
        if self.faults.fails_as in _DEVICE_FAILS:
            self.draining, self.code = True, 1
        self._end(job, task, self.faults.fails_as, _DEVICE_FAILS.get(self.faults.fails_as, "the work failed"))

    def _end(self, job: JobId, task: Task, reason: str, error: str, memory_bytes: int = 0) -> None:
        task.ended = True
        ended = JobEnded(worker=self.worker, generation=self.generation, job=job, attempt=task.attempt, reason=reason, error=error, memory_bytes=memory_bytes)
        self._report("failed", ended)
        self._leave_if_done()

    def _report(self, what: str, report: Report, after_s: float = 0.0) -> None:
        """Send what must not be lost, and send it again until it is stored."""
        self.unstored[report.job, report.attempt, what] = report
        self.world.post(after_s, report)
        self.world.later(RESEND_S, lambda: self._again(what, report))

    def _again(self, what: str, report: Report) -> None:
        if self.alive and not self.killed and (report.job, report.attempt, what) in self.unstored:
            self._report(what, report)

    def stored(self, job: JobId, attempt: int, what: str) -> None:
        """Hear that a report is on disk."""
        self.unstored.pop((job, attempt, what), None)

    def _leave_if_done(self) -> None:
        if self.draining and all(task.ended for task in self.tasks.values()):
            self.world.later(self.faults.exit_s, self._go)

    def _go(self) -> None:
        """Leave by itself, once everything that it reported is on disk, or two seconds after."""
        if self.unstored and self.alive and not self.killed:
            self.world.later(2.0, lambda: self.leave(Exit("code", self.code)))
        else:
            self.leave(Exit("code", self.code))

    def drain(self, *, boundary: bool) -> None:
        """Be asked to finish and leave, or to leave at the next checkpoint."""
        if not self.faults.ignores_drain and not self.killed:
            self.draining, self.boundary = True, boundary
            self._leave_if_done()

    def cancel(self, job: JobId, attempt: int) -> None:
        """Be asked to stop working on a job; one that it does not know it will not begin."""
        task = self.tasks.get(job)
        self.seen.add((job, attempt))
        if task is not None and task.attempt == attempt and not self.faults.ignores_cancel:
            self.world.later(0.3, lambda: None if task.ended or not self.alive or self.killed else self._end(job, task, "cancelled", ""))

    def brake(self, job: JobId, attempt: int, why: str) -> None:
        """Be told that memory runs out: end the job before its next step, unless it hears nothing."""
        task = self.tasks.get(job)
        if task is not None and task.attempt == attempt and not task.ended and not self.faults.ignores_cancel:
            self.world.later(SOON_S, lambda: self._end(job, task, "memory_emergency", f"EMERGENCY BRAKE: {why}") if self.alive and not task.ended else None)

    def pause(self, job: JobId, attempt: int, *, on: bool) -> None:
        """Be asked to leave a job at its next checkpoint, or no longer."""
        task = self.tasks.get(job)
        if task is not None and task.attempt == attempt:
            task.pausing = on

    def terminate(self) -> None:
        """Get SIGTERM."""
        if self.faults.ignores_term or self.faults.unkillable:
            return
        for job, task in self.tasks.items():
            if not task.ended and not self.faults.wordless:
                self._end(job, task, "shutdown", "asked to leave")
        self.world.later(self.faults.exit_s, lambda: self.leave(Exit("signal", 15, "SIGTERM")))

    def kill(self) -> None:
        """Get SIGKILL."""
        self.killed = True
        if not self.faults.unkillable:
            self.world.later(SOON_S, lambda: self.leave(Exit("signal", 9, "SIGKILL")))

    def leave(self, how: Exit) -> None:
        """Exit; the supervisor reaps it, or only sees it gone where another supervisor was its parent."""
        if self.alive:
            self.alive = False
            self.world.post(0, WorkerExited(worker=self.worker, generation=self.generation, exit=Exit("unknown") if self.adopted else how))
