"""The HTTP front as the supervisor starts it: a real child on a socket that the test bound, beside a fake supervisor."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from tests.support.fake_supervisor import FakeSupervisor

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 40


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
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "supervisor.front"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=numbers, cwd="/"
            )
        return self

    def ready(self) -> "FrontChild":
        """Return once it said READY."""
        self.wait_for_notice("READY=1")
        return self

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
