"""The HTTP front as the supervisor starts it: a real child on a socket that the test bound, beside a fake supervisor."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from tests.support.fake_supervisor import FakeSupervisor

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 40


def until(true: Callable[[], bool], what: str) -> None:
    """Return once it is true. For what nobody announces: it is looked at again and again."""
    end_s, pause = time.monotonic() + WITHIN_S, threading.Event()
    while not true():
        assert time.monotonic() < end_s, f"not within {WITHIN_S} s: {what}"
        pause.wait(0.01)


class FrontChild:
    """One front. Its listening socket is the test's, as it is the supervisor's in life."""

    def __init__(self, folder: Path, *, unix: bool = False, **options: Any) -> None:
        self.state_dir = folder / "var"
        self.warden = FakeSupervisor(self.state_dir)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = {"bind": f"127.0.0.1:{self.port}", **options}
        self.log = folder / "front.log"
        self.unix_path = folder / "http.sock"
        self.listeners = [self.listener]
        if unix:
            one = socket.socket(socket.AF_UNIX)
            one.bind(str(self.unix_path))
            one.listen(16)
            self.listeners.append(one)
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify = folder / "notify.sock"
        self.notices.bind(str(self._notify))
        self.process: subprocess.Popen[bytes] | None = None
        self._asked_before = 0

    def start(self, *, watchdog_usec: int = 0) -> "FrontChild":
        numbers = [one.fileno() for one in self.listeners]
        env = {
            **os.environ,
            "WARDEN_STATE_DIR": str(self.state_dir),
            "WARDEN_OPTIONS": json.dumps(self.options),
            "WARDEN_LISTEN": ",".join(str(one) for one in numbers),
            "NOTIFY_SOCKET": str(self._notify),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error::ResourceWarning",
        }
        if watchdog_usec:
            env["WATCHDOG_USEC"] = str(watchdog_usec)
        self._asked_before = len(self.warden.asked)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "supervisor.front"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=numbers, cwd="/"
            )
        return self

    def ready(self) -> "FrontChild":
        """Return once it said READY and knows the last event: whatever happens from here on it hears of, however slowly it came up."""
        self.wait_for_notice("READY=1")
        until(self._in_step, "the front asks for what came after the last event")
        return self

    def _in_step(self) -> bool:
        """Return whether it has asked for the event after the last one, which it does once it was told which that is."""
        asked = self.warden.asked[self._asked_before :]
        return any(op == "events.since" and args["limit"] > 1 for op, args, _by in asked)

    def wait_for_notice(self, line: str) -> str:
        """Return the first notice with this line. Fails when the process ends before it."""
        assert self.process is not None
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                there, _, _ = select.select([self.notices.fileno(), pidfd], [], [], WITHIN_S)
                assert self.notices.fileno() in there, f"no {line}\n{self.said()}"
                text = self.notices.recv(4096).decode()
                if line in text.split("\n"):
                    return text
        finally:
            os.close(pidfd)

    def end(self, *, kill: bool = False) -> int:
        """Return its exit code."""
        if self.process is None:
            return 0
        self.process.kill() if kill else self.process.terminate()
        try:
            return self.process.wait(WITHIN_S)
        finally:
            self.process = None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end()
        self.warden.stop()
        for one in (*self.listeners, self.notices):
            one.close()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WITHIN_S, **more)

    def raw(self, data: bytes) -> socket.socket:
        """Return a connection on which these bytes were sent."""
        one = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        one.sendall(data)
        return one


@contextmanager
def fronts(folder: Path, **options: Any) -> Iterator[FrontChild]:
    """A front that is ready, with its fake supervisor; no traceback may be in its log at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    one = FrontChild(folder, **options)
    try:
        one.warden.start()
        yield one.start().ready()
    finally:
        one.close()
    assert "Traceback" not in one.said(), one.said()[-6000:]


def answered(client: httpx.Client, path: str) -> httpx.Response:
    """Return the answer to a GET once a supervisor gives it: one that has just come is not yet connected, and the front says 503 with Retry-After."""
    answers: list[httpx.Response] = []

    def asked() -> bool:
        answers.append(client.get(path))
        return answers[-1].status_code != 503

    until(asked, f"{path} is answered")
    return answers[-1]


def told(response: httpx.Response) -> Iterator[dict[str, str]]:
    """Yield the events of a stream, each as its fields, until it ends."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            if "data" in fields:
                yield fields
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def events_of(response: httpx.Response, count: int) -> list[dict[str, str]]:
    """Return the next events of a stream; fewer when it ends."""
    return list(islice(told(response), count))


def numbers(events: Sequence[dict[str, str]]) -> list[int]:
    return [int(event["id"]) for event in events]
