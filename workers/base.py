"""The SDK: a class with `load` and `run` becomes a worker that Warden supervises.

A whole worker:

    class Shout(Worker):
        serves = ("demo.shout",)

        def run(self, job: Job, report: Report) -> dict[str, Any]:
            for i, word in enumerate(job.params["words"], 1):
                report.progress(i, len(job.params["words"]), phase="shout")
            return {"shouted": i}

    main(Shout)
"""

import faulthandler
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn

import msgspec
from msgspec import Struct

from supervisor.wire import Accepted, Beat, Bye, Failed, JobOrder, Log, Result
from workers.beats import Identity
from workers.budget import keep_budget
from workers.endings import Ended, device_reason, ended_by, sentence
from workers.given import held_to, schemas_of
from workers.idle import IdleMeter, release
from workers.link import Link
from workers.report import BadInput, EmergencyBrake, Job, JobCancelled, Report
from workers.tree import tree_bytes

__all__ = ["BadInput", "EmergencyBrake", "Job", "JobCancelled", "NoOptions", "Report", "Worker", "main"]

_GOES_ON = frozenset({"shutdown", "paused", "needs_memory"})
"""The ends after which the job goes on in another attempt, from what is in its folder."""
_ENDS_PROCESS = frozenset({"gpu_oom", "gpu_error"})
"""A device context that failed once cannot be repaired in this process, and of one whose memory ran out nobody knows what it still holds."""


class NoOptions(Struct, frozen=True):
    """The options of a worker that has none."""


class Worker:
    """One model in its own process. Subclass it, say what it serves, and hand the class to `main`."""

    serves: ClassVar[tuple[str, ...]] = ()
    options_type: ClassVar[type[Struct]] = NoOptions
    params: ClassVar[Mapping[str, type[Struct]]] = {}

    options: Any
    state_dir: Path
    config_dir: Path
    name: str

    note = ""
    """What people should know of the loaded model, such as that it is untrained; shown in the status."""

    def load(self) -> None:
        """Import what is heavy and load the weights. Counted against start_timeout; what it raises is the reason the worker did not start."""

    def memory_bytes(self, job: Job) -> int:  # noqa: ARG002  # as for run
        """Return how much of the machine's memory this job will take on top of what the process has, by its input; 0: nobody knows.

        Asked before the work begins: where the machine has less to give, the job waits until it has as much. To be answered within a second or so, by a look
        at the head of a file and no more. What it raises ends the job, as in `run`.
        """
        return 0

    def run(self, job: Job, report: Report) -> Mapping[str, Any]:  # noqa: ARG002  # the signature that subclasses fill in
        """Do one job and return its result: what JSON can hold."""
        raise BadInput(f"{self.name} does not know how to do a job of kind {job.kind}")

    def abandon(self, folder: Path) -> None:
        """Remove what was kept in a job's folder for another attempt: the job was cancelled or failed for good. Its results so far stay."""


class _StartRefused(Exception):
    """The worker cannot start, and this sentence says why."""


class _StopNow(BaseException):
    """SIGTERM while the model loads: there is no work to save."""


def main(worker_class: type[Worker]) -> NoReturn:
    """Run the worker until the supervisor wants it gone. Never returns.

    It leaves by `os._exit`: the interpreter's and the driver's own clean-up can hang with a broken device, and there is nothing left to clean.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        code = _Process(worker_class).run()
    except _StartRefused as refused:
        print(refused, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Process:
    """The main thread of a worker: loads, then takes one order after the other."""

    def __init__(self, worker_class: type[Worker]) -> None:
        environment = _environment()
        self._identity = Identity(
            endpoint=environment["WARDEN_ENDPOINT"],
            worker=environment["WARDEN_WORKER"],
            generation=int(environment["WARDEN_GENERATION"]),
            token=environment["WARDEN_TOKEN"],
        )
        self._concurrency = int(os.environ.get("WARDEN_CONCURRENCY", "1"))
        self._link = Link(self._identity, serves=worker_class.serves, device_bytes=_device_bytes, params=schemas_of(worker_class.params))
        self._loading = True
        self._code = 0
        self._worker = worker_class()
        self._meter = IdleMeter(self._worker)
        self._worker.name = self._identity.worker
        self._worker.state_dir = Path(environment["WARDEN_STATE_DIR"])
        self._worker.config_dir = Path(os.environ.get("WARDEN_CONFIG_DIR", "."))

    def run(self) -> int:
        """Return the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The kernel may hand a signal to any thread (after a SIGSTOP it does); the main thread, which alone runs handlers, then sleeps on. The link wakes it.
        signal.set_wakeup_fd(self._link.wakeup_fd, warn_on_full_buffer=False)
        self._link.start()
        try:
            signal.signal(signal.SIGTERM, self._terminate)  # in here: it raises; an earlier SIGTERM ends the process, which has nothing to save yet
            self._load()
            self._loading = False
            self._link.ready(self._worker.note)
            self._work()
        except _StopNow:
            pass
        except _StartRefused as refused:
            reason = device_reason(refused.__cause__) if refused.__cause__ else ""
            self._link.post(Log(**self._identity.stamp(), level="error", text=str(refused), reason=reason))  # type: ignore[arg-type]  # the three fields by name
            self._link.close(self._bye())
            raise
        self._link.close(self._bye())
        return self._code

    def _bye(self) -> Bye:
        return Bye(worker=self._identity.worker, generation=self._identity.generation, token=self._identity.token)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        if self._loading:
            self._loading = False
            raise _StopNow
        self._link.stop_work("the worker was asked to stop")

    def _load(self) -> None:
        try:
            given = json.loads(os.environ.get("WARDEN_OPTIONS", "{}"))
            self._worker.options = held_to(type(self._worker).options_type, given, what="options")
        except BadInput as refused:
            raise _StartRefused(f"supervisor.toml: {refused}") from refused
        try:
            self._worker.load()
            keep_budget()
        except Exception as error:
            traceback.print_exc()
            raise _StartRefused(f"{self._identity.worker} could not load: {sentence(error)}") from error
        gc.collect()
        gc.freeze()  # what was loaded stays for the life of the process: collecting after each job need not walk it (0.2 s with torch and ultralytics)

    def _work(self) -> None:
        """Take orders until drained. One at a time in this thread; with concurrency, in a fixed pool (a new thread each time costs torch its caches)."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            while True:
                order = self._link.orders.get()
                if order is None:
                    if self._link.draining and self._link.orders.empty():
                        return
                elif self._concurrency == 1:
                    self._do(order)
                else:
                    pool.submit(self._do, order)
                if self._link.draining and self._link.orders.empty():
                    return

    def _do(self, order: JobOrder) -> None:
        """Do one job and report how it ended, after what it held was given back: a measurement that follows the report then shows it."""
        stamp = {**self._identity.stamp(), "job": order.job, "attempt": order.attempt}
        end: Mapping[str, Any] | Ended | None = self._taken_back(order)
        if end is None:
            needs = self._weigh(order)
            if isinstance(needs, Ended):
                end = needs
            else:
                self._link.post(Accepted(**stamp, memory_bytes=needs))  # type: ignore[arg-type]  # the fields by name
                end = self._outcome(order)
        trimmed_bytes = release()
        if isinstance(end, Ended):
            if end.reason == "paused" and (order.job, order.attempt) in self._link.cancelled:  # it came after the work had left
                end = Ended("cancelled", "cancelled")
            if end.reason not in _GOES_ON:
                self._worker.abandon(Path(order.dir))
            if end.reason in _ENDS_PROCESS:
                self._code = 1
                self._link.draining = True
            self._link.post(Failed(**stamp, reason=end.reason, error=end.error, stack=end.stack, memory_bytes=end.memory_bytes))  # type: ignore[arg-type]
        else:
            self._link.post(Result(**stamp, value=end))  # type: ignore[arg-type]  # the fields by name
        self._tell_idle(trimmed_bytes)

    def _tell_idle(self, trimmed_bytes: int) -> None:
        """Measure what is held now, for the verdict on leaks; after the end was told, so that nobody waits for it, and only while no other job is worked on."""
        self._meter.job_ended()
        if not self._link.at_work:
            idle = self._meter.measure(trimmed_bytes)
            self._link.post(Beat(**self._identity.stamp(), seq=0, device_bytes=_device_bytes(), idle=idle))  # type: ignore[arg-type]  # the fields by name

    def _taken_back(self, order: JobOrder) -> Ended | None:
        """Return the end of a job that was taken back before its work began, or None. A cancel counts more than a pause."""
        key = (order.job, order.attempt)
        if key in self._link.cancelled:
            return Ended("cancelled", "cancelled")
        return Ended("paused", "paused before it began") if key in self._link.paused else None

    def _weigh(self, order: JobOrder) -> int | Ended:
        """Return what all its processes will have at the most for a job, 0 where nobody asks or knows, or the end of one that does not fit."""
        if order.memory_room_bytes is None or type(self._worker).memory_bytes is Worker.memory_bytes:
            return 0
        try:
            more_bytes = self._worker.memory_bytes(self._job(order))
        except BaseException as error:  # noqa: BLE001  # as in _outcome
            return ended_by(error)
        if more_bytes <= 0:
            return 0
        needs_bytes = tree_bytes() + more_bytes
        if more_bytes <= order.memory_room_bytes:
            return needs_bytes
        return Ended("needs_memory", f"it takes {more_bytes} bytes of memory more, and there are {order.memory_room_bytes}", memory_bytes=needs_bytes)

    def _outcome(self, order: JobOrder) -> Mapping[str, Any] | Ended:
        report: Report | None = None
        try:
            report = Report(self._job(order))
            self._link.open_report(report)
            value = self._worker.run(report.job, report)
            msgspec.json.encode(value)  # refused here, where the traceback names the work
        except BaseException as error:  # noqa: BLE001  # whatever ends the work is a message, not the end of the worker
            return ended_by(error)
        else:
            return value
        finally:
            if report is not None:
                self._link.close_report(report)

    def _job(self, order: JobOrder) -> Job:
        shape = self._worker.params.get(order.kind)
        if order.kind not in self._worker.serves:
            raise BadInput(f"{self._identity.worker} serves {', '.join(self._worker.serves) or 'nothing'}, not {order.kind}")
        params = order.params
        if shape is not None:
            params = held_to(shape, params or {}, what=f"{order.kind}: params")
        folder = Path(order.dir)
        folder.mkdir(parents=True, exist_ok=True)
        return Job(
            id=order.job,
            attempt=order.attempt,
            kind=order.kind,
            params=params,
            dir=folder,
            resume_from=Path(order.resume_from) if order.resume_from else None,
        )


def _environment() -> Mapping[str, str]:
    needed = ("WARDEN_ENDPOINT", "WARDEN_WORKER", "WARDEN_GENERATION", "WARDEN_TOKEN", "WARDEN_STATE_DIR")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise _StartRefused(f"{', '.join(missing)} not set: this program is a worker, started by `warden run`, not by hand")
    return {name: os.environ[name] for name in needed}


def _device_bytes() -> int | None:
    """Return what this process holds of the CUDA device by torch's own count, or None without one. Never run on a card."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return int(cuda.memory_reserved()) if cuda is not None and cuda.is_initialized() else None
