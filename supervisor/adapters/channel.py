"""The line to the workers: their messages become events, actions for them become messages. What cannot be believed is dropped and counted."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path

from msgspec import convert

from supervisor import wire
from supervisor.adapters.sockets import Router
from supervisor.core.actions import SendBrake, SendCancel, SendDrain, SendJob, SendPause, SendResume, SendResync, SendStored, SendWelcome
from supervisor.core.events import (
    AnyEvent,
    BeatHeard,
    HelloHeard,
    JobAccepted,
    JobEnded,
    JobFinished,
    JobProgress,
    NoteHeard,
    ReadyHeard,
)
from supervisor.core.growth import Idle
from supervisor.core.limits import JSONValue
from supervisor.core.model import JobId, WorkerName
from supervisor.errors import WireError
from supervisor.runtime.carried import cannot_carry
from supervisor.runtime.process_ports import ToWorker


class WorkerChannel:
    """One ROUTER for all workers. dropped counts what was not believed, by reason."""

    def __init__(
        self,
        bind: Callable[[Callable[[bytes, bytes], None]], Router],
        *,
        post: Callable[[AnyEvent], None],
        limits: dict[str, float],
        learn: Callable[[WorkerName, Mapping[str, JSONValue]], None],
    ) -> None:
        """Listen; post an event for each message of a process that we started. learn: hears what a worker says of its jobs' parameters."""
        self.dropped: Counter[str] = Counter()
        self._tokens: dict[WorkerName, tuple[int, str]] = {}
        self._lines: dict[WorkerName, bytes] = {}  # where each was last heard with its token: a name alone is no address
        self._post = post
        self._limits = limits
        self._learn = learn
        self._router = bind(self._receive)
        self.file = self._router.file

    def expect(self, worker: WorkerName, generation: int, token: str) -> None:
        """Believe messages with this token from now on, and those of no earlier generation."""
        self._tokens[worker] = (generation, token)
        self._lines.pop(worker, None)

    def send(self, action: ToWorker, *, folder: Path | None = None, checkpoint: Path | None = None) -> None:
        """Send what the action says. A worker that is away loses it."""
        try:
            data = wire.encode(_message(action, self._limits, folder, checkpoint))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:  # an older release took what cannot be sent: that job fails, alone
            self._refuse(action, f"it cannot be sent to a worker: {error}")
            return
        current, _token = self._tokens.get(action.worker, (0, ""))
        line = self._lines.get(action.worker)
        if line is None or current != action.generation or not self._router.send(line, data):
            self.dropped["worker away"] += 1

    def _refuse(self, action: ToWorker, problem: str) -> None:
        self.dropped["cannot be sent"] += 1
        if isinstance(action, SendJob):
            self._post(JobEnded(worker=action.worker, generation=action.generation, job=action.job, attempt=action.attempt, reason="bad_input", error=problem))

    def set_limits(self, limits: dict[str, float]) -> None:
        """Welcome every worker with these from now on, those that are here already as well."""
        self._limits = limits
        self._send_all(wire.encode(wire.Welcome(limits=limits)))

    def ping(self) -> None:
        """Tell every worker that the supervisor lives."""
        self._send_all(wire.encode(wire.Ping()))

    def _send_all(self, data: bytes) -> None:
        for line in self._lines.values():
            self._router.send(line, data)

    def close(self) -> None:
        """Stop listening."""
        self._router.close()

    def _receive(self, sender: bytes, data: bytes) -> None:
        try:
            message = wire.decode_from_worker(data)
        except WireError:
            self.dropped["malformed"] += 1
            return
        worker = WorkerName(message.worker)
        if self._tokens.get(worker) != (message.generation, message.token):
            self.dropped["wrong token or generation"] += 1
            return
        self._lines[worker] = sender
        if isinstance(message, wire.Hello) and message.params:
            self._learn(worker, message.params)
        event = _event(worker, message)
        if event is not None:
            self._post(event)


def _message(action: ToWorker, limits: dict[str, float], folder: Path | None, checkpoint: Path | None) -> wire.AnyToWorker:  # noqa: PLR0911  # one row per action
    match action:
        case SendWelcome():
            return wire.Welcome(limits=limits)
        case SendResync():
            return wire.Resync()
        case SendDrain():
            return wire.Drain(boundary=action.boundary)
        case SendCancel():
            return wire.Cancel(job=action.job, attempt=action.attempt)
        case SendBrake():
            return wire.Brake(job=action.job, attempt=action.attempt, why=action.why)
        case SendPause():
            return wire.Pause(job=action.job, attempt=action.attempt)
        case SendResume():
            return wire.Resume(job=action.job, attempt=action.attempt)
        case SendStored():
            return wire.Stored(job=action.job, attempt=action.attempt, what=action.what)
        case SendJob():
            return wire.JobOrder(
                job=action.job,
                attempt=action.attempt,
                kind=action.kind,
                params=action.params,
                dir=str(folder or ""),
                resume_from=str(checkpoint) if checkpoint else None,
                memory_room_bytes=action.memory_room_bytes,
            )


def _event(worker: WorkerName, message: wire.AnyFromWorker) -> AnyEvent | None:
    generation = message.generation
    match message:
        case wire.Beat():
            jobs = tuple(
                JobProgress(
                    job=JobId(beat.job),
                    attempt=beat.attempt,
                    phase=beat.phase,
                    done=beat.done if isfinite(beat.done) else 0.0,
                    total=beat.total if isfinite(beat.total) else 0.0,
                    metrics={name: value for name, value in beat.metrics.items() if isfinite(value)},  # a loss may be NaN, and JSON has no word for that
                    critical=beat.critical,
                    extend_s=beat.extend_s,
                    resumable=beat.resumable,
                )
                for beat in message.jobs
            )
            idle = convert(message.idle, Idle, from_attributes=True) if message.idle is not None else None
            return BeatHeard(worker=worker, generation=generation, jobs=jobs, device_bytes=message.device_bytes, idle=idle)
        case wire.Hello():
            return HelloHeard(worker=worker, generation=generation, jobs=tuple((JobId(job), attempt) for job, attempt in message.jobs))
        case wire.Ready():
            return ReadyHeard(worker=worker, generation=generation, note=message.note)
        case wire.Accepted():
            memory_bytes = max(0, message.memory_bytes)
            return JobAccepted(worker=worker, generation=generation, job=JobId(message.job), attempt=message.attempt, memory_bytes=memory_bytes)
        case wire.Result():
            return _finished(worker, message)
        case wire.Failed():
            return JobEnded(
                worker=worker,
                generation=generation,
                job=JobId(message.job),
                attempt=message.attempt,
                reason=message.reason,
                error=message.error,
                stack=message.stack,
                memory_bytes=max(0, message.memory_bytes),
            )
        case wire.Log():
            return NoteHeard(worker=worker, generation=generation, level=message.level, text=message.text, reason=message.reason)
        case wire.Bye():  # the exit that follows is what counts
            return None


def _finished(worker: WorkerName, message: wire.Result) -> AnyEvent:
    """Return the job's end: with its result, or as a failure where the result cannot be kept (MessagePack can say more than JSON can)."""
    generation, job, attempt = message.generation, JobId(message.job), message.attempt
    if problem := cannot_carry(message.value):
        return JobEnded(worker=worker, generation=generation, job=job, attempt=attempt, reason="user_error", error=f"its result cannot be kept: {problem}")
    return JobFinished(worker=worker, generation=generation, job=job, attempt=attempt, value=message.value)
