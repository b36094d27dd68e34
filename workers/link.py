"""The thread that talks to the supervisor, so that a worker's heart beats while its work runs."""

import math
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import zmq

from supervisor.wire import (
    Accepted,
    AnyFromWorker,
    AnyToWorker,
    Beat,
    Brake,
    Cancel,
    Drain,
    Failed,
    Hello,
    JobOrder,
    Pause,
    Ready,
    Result,
    Resume,
    Resync,
    Stored,
    Welcome,
    WireError,
    decode_to_worker,
    encode,
    routing_id,
)
from workers.beats import BEAT_CHANGED_S, Beats, Identity
from workers.report import EmergencyBrake, JobCancelled, Report, WorkerLeaves

RESEND_S: Final = 1.0
FLUSH_S: Final = 2.0  # how long a process that leaves waits for `stored`
DEFAULT_ORPHAN_AFTER_S: Final = 300.0


_NEEDS_STORED: Final[Mapping[type[AnyFromWorker], str]] = {Accepted: "accepted", Result: "result", Failed: "failed"}


class Link:
    """One DEALER socket in a thread of its own. All public methods may be called from any thread, `post` and `stop_work` in a signal handler too."""

    def __init__(self, identity: Identity, *, serves: tuple[str, ...], device_bytes: Callable[[], int | None], params: Mapping[str, Any] | None = None) -> None:
        """Prepare the link; `start` opens it. params: kind -> JSON Schema of its parameters."""
        self.orders: queue.SimpleQueue[JobOrder | None] = queue.SimpleQueue()
        self.draining = False
        self.stopping: str | None = None
        self.cancelled: set[tuple[str, int]] = set()  # what was to be cancelled, and to be paused: also before its work began
        self.paused: set[tuple[str, int]] = set()
        self._identity = identity
        self._serves = serves
        self._params = params or {}
        self._device_bytes = device_bytes
        self._beats = Beats(identity, device_bytes)
        self._reports: dict[tuple[str, int], Report] = {}
        self._seen: set[tuple[str, int]] = set()
        self._posted: queue.SimpleQueue[AnyFromWorker] = queue.SimpleQueue()
        self._unstored: dict[tuple[str, int, str], tuple[AnyFromWorker, float]] = {}
        self._ready: Ready | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled, self.wakeup_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = threading.Event()
        self._heard_at_s = time.monotonic()
        self._orphan_after_s = DEFAULT_ORPHAN_AFTER_S
        self._thread = threading.Thread(target=self._run, name="warden-link", daemon=True)

    def start(self) -> None:
        """Connect and say hello."""
        self._thread.start()

    def ready(self, note: str) -> None:
        """Say that the model is loaded."""
        self._ready = Ready(**self._identity.stamp(), note=note)  # type: ignore[arg-type]  # stamp() holds the three fields by name
        self.post(self._ready)

    @property
    def at_work(self) -> bool:
        """Whether a job is worked on."""
        return bool(self._reports)

    def open_report(self, report: Report) -> None:
        """Let this job's progress ride on the beats from now on."""
        key = (report.job.id, report.job.attempt)
        self._reports[key] = report  # before the looks: an order that is heard meanwhile finds it, and may be given twice, but is never lost
        report.listen(self._nudge)
        if key in self.cancelled:
            report.interrupt(JobCancelled("cancelled"))
        if key in self.paused:
            report.pause()
            if key not in self.paused:  # resumed between the two lines
                report.resume()
        if self.stopping is not None:
            report.interrupt(WorkerLeaves(self.stopping))

    def close_report(self, report: Report) -> None:
        """Take a job that ended off the beats; the last thing it reported is sent before its end is."""
        self._reports.pop((report.job.id, report.job.attempt), None)
        used = self._device_bytes()  # while the job still holds it
        self.post(Beat(**self._identity.stamp(), seq=0, jobs=(report.beat(),), device_bytes=used))  # type: ignore[arg-type]  # the fields by name

    def post(self, message: AnyFromWorker) -> None:
        """Send a message as soon as the thread wakes: at once."""
        self._posted.put(message)
        self._nudge()

    def stop_work(self, why: str) -> None:
        """Make every job at hand stop at its next report, and the process leave after."""
        self.stopping = why
        self.draining = True
        for report in tuple(self._reports.values()):
            report.interrupt(WorkerLeaves(why))
        self.orders.put(None)

    def close(self, last_words: AnyFromWorker) -> None:
        """Send what is left, wait a moment until it is stored, and close."""
        self.post(last_words)
        self._closing.set()
        self._nudge()
        self._thread.join(FLUSH_S + 1.0)

    # --- below: only the thread itself ---

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.ROUTING_ID, routing_id(self._identity.worker, self._identity.generation, secrets.token_hex(8)))
        socket.connect(self._identity.endpoint)
        self._send(socket, self._hello())
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._signalled, zmq.POLLIN)
        leave_by_s: float | None = None
        while True:
            now_s = time.monotonic()
            self._read(socket)
            self._send_posted(socket, now_s)
            self._resend(socket, now_s)
            beat = self._beats.due(tuple(self._reports.values()), now_s)
            if beat is not None:
                self._send(socket, beat)
            if self._closing.is_set():
                leave_by_s = leave_by_s or now_s + FLUSH_S
                if self._posted.empty() and (not self._unstored or now_s >= leave_by_s):
                    break
            elif now_s - self._heard_at_s > self._orphan_after_s and self.stopping is None:
                self.stop_work(f"no supervisor for {self._orphan_after_s:g} s")
                print(f"{self.stopping}, which is orphan_after: the work at hand is saved, and this process ends", file=sys.stderr, flush=True)
            wait_s = self._beats.wait_s(time.monotonic())
            poller.poll(math.ceil(1000 * (min(wait_s, BEAT_CHANGED_S) if self._unstored or self._closing.is_set() else wait_s)))
        socket.close()
        context.term()

    def _hello(self) -> Hello:
        stamp = self._identity
        return Hello(
            worker=stamp.worker,
            generation=stamp.generation,
            token=stamp.token,
            pid=os.getpid(),
            serves=self._serves,
            jobs=self._at_hand(),
            params=self._params,
        )

    def _at_hand(self) -> tuple[tuple[str, int], ...]:
        """Return the jobs that are worked on, and those whose end nobody has stored yet."""
        return tuple({*self._reports, *((job, attempt) for job, attempt, _ in self._unstored)})

    def _read(self, socket: "zmq.Socket[bytes]") -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with suppress(BlockingIOError):
            os.read(self._signalled, 64)
            self.orders.put(None)  # the main thread waits for orders, and must wake to run its handler
        while True:
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard_at_s = time.monotonic()
            try:
                self._obey(socket, decode_to_worker(data))
            except WireError as error:
                print(f"warden: dropped a message from the supervisor: {error}", flush=True)

    def _obey(self, socket: "zmq.Socket[bytes]", message: AnyToWorker) -> None:  # noqa: C901, PLR0912  # one row per message
        match message:
            case Welcome(limits=limits):
                self._orphan_after_s = limits.get("orphan_after_s", DEFAULT_ORPHAN_AFTER_S)
            case JobOrder(job=job, attempt=attempt):
                if (job, attempt) not in self._seen:
                    self._seen.add((job, attempt))
                    self._take(message)
            case Cancel(job=job, attempt=attempt):
                self._cancel(job, attempt)
            case Brake(job=job, attempt=attempt, why=why):
                if (report := self._reports.get((job, attempt))) is not None:
                    report.interrupt(EmergencyBrake(why))
            case Pause(job="") | Resume(job=""):
                for report in tuple(self._reports.values()):
                    (report.hold_still if isinstance(message, Pause) else report.go_on)()
            case Pause(job=job, attempt=attempt):
                self._pause(job, attempt)
            case Resume(job=job, attempt=attempt):
                self._resume(job, attempt)
            case Drain(boundary=boundary):
                self.draining = True
                for report in tuple(self._reports.values()) if boundary else ():
                    report.leave_at_checkpoint("the worker was asked to leave at a checkpoint")
                self.orders.put(None)
            case Stored(job=job, attempt=attempt, what=what):
                self._unstored.pop((job, attempt, what), None)
            case Resync():
                self._send(socket, self._hello())
                if self._ready is not None:
                    self._send(socket, self._ready)
            case _:  # ping: being heard of is all it is for; unload: nothing is held between jobs beyond the loaded model
                pass

    def _take(self, order: JobOrder) -> None:
        """Hand an order to the main thread. One that leaves may take none any more, and a supervisor that came after the drain does not know: it is told."""
        if self.draining:
            why = "the worker was asked to leave before this job came"
            self.post(Failed(**self._identity.stamp(), job=order.job, attempt=order.attempt, reason="shutdown", error=why))  # type: ignore[arg-type]  # as above
        else:
            self.orders.put(order)

    def _cancel(self, job: str, attempt: int) -> None:
        self.cancelled.add((job, attempt))  # first, as in _pause: the work that is about to begin looks here after it made its report known
        report = self._reports.get((job, attempt))
        if report is not None:
            report.interrupt(JobCancelled("cancelled"))

    def _pause(self, job: str, attempt: int) -> None:
        self.paused.add((job, attempt))
        report = self._reports.get((job, attempt))
        if report is not None:
            report.pause()

    def _resume(self, job: str, attempt: int) -> None:
        self.paused.discard((job, attempt))
        report = self._reports.get((job, attempt))
        if report is not None:
            report.resume()

    def _nudge(self) -> None:
        """Wake the thread."""
        os.eventfd_write(self._wake, 1)

    def _send_posted(self, socket: "zmq.Socket[bytes]", now_s: float) -> None:
        while True:
            try:
                message = self._posted.get_nowait()
            except queue.Empty:
                return
            what = _NEEDS_STORED.get(type(message))
            if what is not None:
                self._unstored[message.job, message.attempt, what] = (message, now_s)  # type: ignore[union-attr]  # the three in the table have both
            self._send(socket, message)

    def _resend(self, socket: "zmq.Socket[bytes]", now_s: float) -> None:
        for key, (message, sent_at_s) in tuple(self._unstored.items()):
            if now_s - sent_at_s >= RESEND_S:
                self._unstored[key] = (message, now_s)
                self._send(socket, message)

    def _send(self, socket: "zmq.Socket[bytes]", message: AnyFromWorker) -> None:
        with suppress(zmq.Again):  # the supervisor is away and 1000 messages wait: beats are absolute state and results are sent again
            socket.send(encode(message), zmq.NOBLOCK)
