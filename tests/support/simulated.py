"""Simulated worker processes: they load, beat, work, drain and die in virtual time, and misbehave where a switch says so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.core.events import AnyEvent, BeatHeard, HelloHeard, JobAccepted, JobEnded, JobFinished, JobProgress, ReadyHeard, WorkerExited
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Exit, JobId, WorkerName

BEAT_S = 1.0
SOON_S = 0.01
CRASHED = Exit("signal", 11, "SIGSEGV")


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
    critical: bool = False
    ignores_drain: bool = False
    ignores_cancel: bool = False
    ignores_term: bool = False
    unkillable: bool = False
    wordless: bool = False  # leaves on SIGTERM without giving its job back first
    exit_s: float = 0.3
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


class Surroundings(Protocol):
    """What a process needs of the world."""

    def post(self, after_s: float, event: AnyEvent) -> None:
        """Put an event into the inbox later."""

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something later."""


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
    loaded: bool = False
    draining: bool = False
    tasks: dict[JobId, Task] = field(default_factory=dict)

    def run(self) -> None:
        """Come up: a hello, beats, ready."""
        if self.spec.progress == "sdk":
            self.world.later(0.5, self._hello)
        if self.faults.crash_in_load:
            self.world.later(self.faults.load_s, lambda: self.leave(CRASHED))
        elif self.spec.progress == "sdk" and not self.faults.never_ready:
            self.world.later(self.faults.load_s, self._ready)

    def _hello(self) -> None:
        if self.alive:
            if not self.faults.mute:
                self.world.post(0, HelloHeard(worker=self.worker, generation=self.generation))
            self.world.later(BEAT_S, self._beat)

    def _ready(self) -> None:
        if self.alive:
            self.loaded = True
            self.world.post(0, ReadyHeard(worker=self.worker, generation=self.generation, note="weights x.pt"))

    def _beat(self) -> None:
        if not self.alive:
            return
        if not self.faults.mute:
            jobs = tuple(
                JobProgress(
                    job=job, attempt=task.attempt, phase="train", done=task.step, total=self.faults.steps, critical="saving" if self.faults.critical else ""
                )
                for job, task in self.tasks.items()
                if not task.ended
            )
            self.world.post(0, BeatHeard(worker=self.worker, generation=self.generation, jobs=jobs))
        self.world.later(BEAT_S, self._beat)

    def take(self, job: JobId, attempt: int) -> None:
        """Begin to work on a job."""
        if self.alive and not self.faults.deaf:
            task = self.tasks[job] = Task(attempt)
            self.world.post(SOON_S, JobAccepted(worker=self.worker, generation=self.generation, job=job, attempt=attempt))
            self.world.later(self.faults.step_s, lambda: self._step(job, task))

    def _step(self, job: JobId, task: Task) -> None:
        if not self.alive or task.ended:
            return
        if self.faults.stalls_at is None or task.step < self.faults.stalls_at:
            task.step += 1
        if self.faults.crashes_at is not None and task.step >= self.faults.crashes_at:
            self.leave(CRASHED)
        elif self.faults.fails_at is not None and task.step >= self.faults.fails_at:
            self._end(job, task, "gpu_oom", "CUDA out of memory")
        elif task.step >= self.faults.steps:
            task.ended = True
            self.world.post(0, JobFinished(worker=self.worker, generation=self.generation, job=job, attempt=task.attempt, value={"steps": task.step}))
            self._leave_if_done()
        else:
            self.world.later(self.faults.step_s, lambda: self._step(job, task))

    def _end(self, job: JobId, task: Task, reason: str, error: str) -> None:
        task.ended = True
        self.world.post(0, JobEnded(worker=self.worker, generation=self.generation, job=job, attempt=task.attempt, reason=reason, error=error))
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self.draining and all(task.ended for task in self.tasks.values()):
            self.world.later(self.faults.exit_s, lambda: self.leave(Exit("code", 0)))

    def drain(self) -> None:
        """Be asked to finish and leave."""
        if not self.faults.ignores_drain:
            self.draining = True
            self._leave_if_done()

    def cancel(self, job: JobId) -> None:
        """Be asked to stop working on a job."""
        task = self.tasks.get(job)
        if task is not None and not self.faults.ignores_cancel:
            self.world.later(0.3, lambda: None if task.ended or not self.alive else self._end(job, task, "cancelled", ""))

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
        if not self.faults.unkillable:
            self.world.later(SOON_S, lambda: self.leave(Exit("signal", 9, "SIGKILL")))

    def leave(self, how: Exit) -> None:
        """Exit; the supervisor reaps it."""
        if self.alive:
            self.alive = False
            self.world.post(0, WorkerExited(worker=self.worker, generation=self.generation, exit=how))
