"""A control socket whose answers a test writes: real sockets and the real protocol, with no supervisor behind them."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from supervisor import control
from supervisor.runtime.requests import Rejected
from supervisor.shapes import JobView, MemoryView, StatusView, SupervisorView
from tests.support.live import WARDEN, WITHIN_S

_LOOK_MS: Final = 20

Answers = Mapping[str, Callable[[Mapping[str, Any]], Any]]


class Scripted:
    """A folder with a supervisor.toml, and somebody who answers there. asked: every request so far, as (operation, arguments)."""

    def __init__(self, folder: Path, answers: Answers) -> None:
        """Write the configuration; `answering` makes it answer."""
        self.folder = folder
        self.answers = dict(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.state_dir = folder / "var"
        self.state_dir.mkdir(exist_ok=True)
        (folder / "supervisor.toml").write_text('schema_version = 1\n[api]\nbind = "off"\n')

    @contextmanager
    def answering(self) -> Iterator["Scripted"]:
        """Answer for as long as this lasts; before and after nobody listens."""
        end = threading.Event()
        ready = threading.Event()
        thread = threading.Thread(target=self._serve, args=(ready, end))
        thread.start()
        try:
            assert ready.wait(WITHIN_S)
            yield self
        finally:
            end.set()
            thread.join()

    def _serve(self, ready: threading.Event, end: threading.Event) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(control.endpoint_of(self.state_dir))
        ready.set()
        while not end.is_set():
            if not socket.poll(_LOOK_MS):
                continue
            sender, data = socket.recv_multipart()
            request = msgspec.json.decode(data, type=control.Request)
            self.asked.append((request.op, dict(request.args)))
            answer = self._answer(request)
            if answer is not None:
                socket.send_multipart((sender, msgspec.json.encode(answer)))
        socket.close()
        context.term()
        (self.state_dir / "control.sock").unlink(missing_ok=True)

    def _answer(self, request: control.Request) -> control.Answer | None:
        """Return the answer; None where the script says nothing at all."""
        try:
            if request.op not in self.answers:
                raise Rejected("usage", f"operation {request.op!r} is not in the script")
            data = self.answers[request.op](request.args)
        except Rejected as rejected:
            return control.Answer(id=request.id, ok=False, error=control.Problem(code=rejected.code, message=rejected.message))
        return None if data is SILENCE else control.Answer(id=request.id, ok=True, data=data)

    def cli(self, *args: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Return how a command of the command line ended."""
        return subprocess.run(
            [WARDEN, *args], cwd=self.folder, capture_output=True, text=True, timeout=WITHIN_S, check=False, env={**os.environ, **(env or {})}
        )


SILENCE: Final = object()
"""As an answer: none."""


def always(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Return what answers with the same value each time."""
    return lambda _args: value


def refuses(code: str, message: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what refuses each time."""

    def refuse(_args: Mapping[str, Any]) -> Any:
        raise Rejected(code, message)

    return refuse


def one_after_another(values: Sequence[Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return what answers with these values in turn, and with the last for ever."""
    left = list(values)
    return lambda _args: left.pop(0) if len(left) > 1 else left[0]


def a_job(**fields: Any) -> JobView:
    """Return a job, with these fields."""
    usual: dict[str, Any] = {
        "id": "j-1",
        "kind": "demo.count",
        "params": {},
        "status": "queued",
        "phase": "",
        "reason": "",
        "message": "",
        "priority": 10,
        "attempt": 1,
        "max_attempts": 3,
        "progress": 0.0,
        "done": 0.0,
        "total": 0.0,
        "metrics": {},
        "eta_s": None,
        "worker": None,
        "device": None,
        "position": None,
        "created_at": "2026-11-25T03:00:00.000+00:00",
        "started_at": None,
        "completed_at": None,
        "dir": "/nowhere",
    }
    return JobView(**(usual | fields))


def a_status(**fields: Any) -> StatusView:
    """Return a status of a supervisor without workers, with these fields."""
    usual: dict[str, Any] = {
        "supervisor": SupervisorView(
            pid=1,
            version="1.0",
            uptime_s=5.0,
            config="/c.toml",
            state_dir="/var/w",
            log_dir="/log",
            loop_lag_ms=0.0,
            pss_bytes=1,
            dropped_messages=0,
            stopping=False,
            config_generation=1,
            config_error="",
            api="http://127.0.0.1:8650",
        ),
        "workers": [],
        "devices": [],
        "memory": MemoryView(available_bytes=2**33, disk_free_bytes=2**40),
        "jobs": {"queued": 2, "running": 1},
        "interventions": [],
        "unwell": [],
    }
    return StatusView(**(usual | fields))


def written(done: "subprocess.CompletedProcess[str]") -> Any:
    """Return the JSON that a command printed."""
    return json.loads(done.stdout)
