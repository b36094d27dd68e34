"""A real `warden run` in a folder of its own: started, watched through its log, asked through its socket, and gone without a trace at the end."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import pytest

from supervisor.control import Client, Unreachable, endpoint_of
from supervisor.shapes import JobView, StatusView, WorkerView

WARDEN: Final = Path(sys.executable).parent / "warden"
WITHIN_S: Final = 50.0
"""Far more than anything takes: a slow machine is not a failure."""
_LOOK_S: Final = 0.02
_ENDED: Final = ("completed", "failed", "cancelled")

MEMORY: Final = {"look_every": "2s"} | dict.fromkeys(("worker_soft", "worker_limit", "warn_below", "emergency_below", "hard_floor"), "0")
"""[memory]: nothing acts. What other programs on this machine use must end no worker of a test; a test of memory sets lines of its own."""
FAKE: Final = 'command = ["{python}", "-P", "-m", "workers.fake"]'
ONE_WORKER: Final = f"""
[workers.sam]
{FAKE}
serves = ["demo.count"]
"""


class Live:
    """One state folder and the supervisor on it. events holds what watchdog.jsonl said so far."""

    def __init__(self, folder: Path, toml: str, *, state_dir: Path | None = None, api: str = "off", memory: Mapping[str, str] | None = None) -> None:
        """Write the configuration; nothing runs yet.

        api: where HTTP is served, such as 127.0.0.1:0; the default port would be taken by another test. memory: what stands in [memory] otherwise than MEMORY.
        """
        self.folder = folder
        self.state_dir = state_dir or folder / "var"
        self.log_dir = folder / "logs"
        self.events: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._offset = 0
        self._torn = b""
        folder.mkdir(parents=True, exist_ok=True)
        settings = "".join(f'{key} = "{value}"\n' for key, value in {**MEMORY, **(memory or {})}.items())
        head = f'schema_version = 1\n[supervisor]\nstate_dir = {json.dumps(str(self.state_dir))}\n[memory]\n{settings}[api]\nbind = "{api}"\n'
        (folder / "supervisor.toml").write_text(head + toml)

    # --- its life ---

    def start(self, *, env: Mapping[str, str] | None = None) -> Self:
        """Start it, and return once it says so."""
        self.read()
        before = len(self.events)
        with (self.folder / "run.out").open("ab") as out:
            self.process = subprocess.Popen([WARDEN, "run"], cwd=self.folder, stdout=out, stderr=out, env={**os.environ, **(env or {})})
        self.wait_for_event("supervisor_started", after=before)
        return self

    @property
    def pid(self) -> int:
        """Return the supervisor's pid."""
        assert self.process is not None, "not started"
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def wait_end(self, within_s: float = WITHIN_S) -> int:
        """Return the supervisor's exit code."""
        assert self.process is not None
        code = self.process.wait(within_s)
        self.read()
        self.process = None
        return code

    def stop(self) -> int:
        """Stop it in order, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def said(self) -> str:
        """Return what it printed."""
        out = self.folder / "run.out"
        return out.read_text(errors="replace") if out.exists() else ""

    def close(self) -> None:
        """Stop it, and prove that nothing of it is left: no process, no zombie, no socket. Whatever is left is ended by its pid."""
        problems = []
        if self.process is not None and self.process.poll() is None:
            if not self.holds(lambda: not self._zombies()):
                problems.append(f"zombies that the supervisor did not reap: {self._zombies()}")
            try:
                code = self.stop()
            except subprocess.TimeoutExpired:
                code = -1
                self.kill()
            if code:
                problems.append(f"the supervisor ended with {code}")
        if not self.holds(lambda: not self.ours()):
            problems.append(f"processes left: {self.ours()}")
            for pid in self.ours():
                os.kill(pid, signal.SIGKILL)
        left = [path.name for path in self.state_dir.glob("*.sock")] if self.state_dir.is_dir() else []
        if left:
            problems.append(f"sockets left: {left}")
        if "Traceback" in self.said():
            problems.append("it printed a traceback")
        assert not problems, f"{problems}\n{self.said()[-4000:]}"

    # --- what it says ---

    def read(self) -> None:
        """Read what was added to watchdog.jsonl."""
        path = self.log_dir / "watchdog.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *whole, self._torn = (self._torn + data).split(b"\n")
        self.events += [json.loads(line) for line in whole]

    def mark(self) -> int:
        """Return the place in `events` after everything said so far."""
        self.read()
        return len(self.events)

    def seen(self, event: str, *, after: int = 0, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of this name, with these fields, from a mark on."""
        self.read()
        return [one for one in self.events[after:] if one["event"] == event and all(one.get(name) == value for name, value in fields.items())]

    def told(self, event: str, *, after: int = 0, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of this name, at least one: whoever asks the supervisor is answered a moment before the log has its line."""
        self.wait_for_event(event, after=after, **fields)
        return self.seen(event, after=after, **fields)

    def wait_for_event(self, event: str, *, within_s: float = WITHIN_S, after: int = 0, **fields: Any) -> dict[str, Any]:
        """Return the first such event from a mark on. Fails when it does not come, at once when the supervisor ends before it came."""
        if not self.holds(lambda: self.seen(event, after=after, **fields) or self.ended(), within_s):
            pytest.fail(f"no {event} {fields} within {within_s} s\n{self.said()[-6000:]}")
        found = self.seen(event, after=after, **fields)
        assert found, f"the supervisor ended before {event} {fields}\n{self.said()[-6000:]}"
        return found[0]

    def holds(self, condition: Callable[[], object], within_s: float = WITHIN_S) -> bool:
        """Return whether the condition became true in time. Between two looks it waits on the supervisor's own end."""
        end_s = time.monotonic() + within_s
        while not condition():
            if time.monotonic() >= end_s:
                return False
            self._pause()
        return True

    def ended(self) -> bool:
        """Return whether the supervisor is gone."""
        return self.process is None or self.process.poll() is not None

    def _pause(self) -> None:
        if self.process is None or self.process.poll() is not None:
            select.select([], [], [], _LOOK_S)
            return
        pidfd = os.pidfd_open(self.process.pid)
        try:
            select.select([pidfd], [], [], _LOOK_S)
        finally:
            os.close(pidfd)

    # --- what it answers ---

    def ask(self, op: str, **args: Any) -> Any:
        """Return the answer of the control socket. Raises Refused, or Unreachable after 10 s."""
        with Client(lambda: endpoint_of(self.state_dir)) as client:
            return client.ask(op, args)

    def status(self) -> StatusView:
        """Return the status."""
        return msgspec.convert(self.ask("status"), StatusView)

    def worker(self, name: str) -> WorkerView:
        """Return one worker."""
        return next(worker for worker in self.status().workers if worker.name == name)

    def submit(self, kind: str = "demo.count", *, priority: int | None = None, **params: Any) -> str:
        """Submit a job and return its id."""
        return str(self.ask("jobs.submit", kind=kind, params=params, priority=priority)["id"])

    def job(self, name: str) -> JobView:
        """Return one job."""
        return msgspec.convert(self.ask("jobs.show", job=name), JobView)

    def wait_for_job(self, name: str, *statuses: str, within_s: float = WITHIN_S) -> JobView:
        """Return the job once it is in one of these statuses (default: once it ended)."""
        wanted = statuses or _ENDED

        def there() -> bool:
            try:
                return self.job(name).status in wanted
            except Unreachable:
                return False

        assert self.holds(there, within_s), f"{self.job(name)}\n{self.said()[-6000:]}"
        return self.job(name)

    def cli(self, *args: str | bytes, within_s: float = WITHIN_S, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Return how a command of the command line ended."""
        return subprocess.run(
            [WARDEN, *args], cwd=self.folder, capture_output=True, text=True, timeout=within_s, check=False, env={**os.environ, **(env or {})}
        )

    # --- what runs ---

    def ours(self) -> list[int]:
        """Return the living processes that were born for this state folder, whatever became of their parents."""
        return processes_with(f"WARDEN_STATE_DIR={self.state_dir}")

    def _zombies(self) -> list[int]:
        return [pid for pid, state, parent in _everyone() if state == "Z" and parent == self.pid]


def _everyone() -> Iterator[tuple[int, str, int]]:
    """Yield (pid, state, parent) of every process."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(path.name), fields[0], int(fields[1])


def processes_with(variable: str) -> list[int]:
    """Return the living processes whose environment has this NAME=value."""
    found = []
    for pid, state, _parent in _everyone():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if state not in "ZX" and variable.encode() in environ.split(b"\0"):
            found.append(pid)
    return found


def alive(pid: int) -> bool:
    """Return whether the process lives; a zombie does not."""
    return any(one == pid and state not in "ZX" for one, state, _parent in _everyone())


@contextmanager
def lives(folder: Path) -> Iterator[Callable[..., Live]]:
    """Return what makes a Live with a configuration; each is closed and checked at the end."""
    made: list[Live] = []

    def make(toml: str = ONE_WORKER, *, start: bool = True, name: str = "w", **more: Any) -> Live:
        made.append(Live(folder / name, toml, **more))
        return made[-1].start() if start else made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()


MakeLive = Callable[..., Live]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[MakeLive]:
    """What makes supervisors for a test."""
    with lives(tmp_path) as make:
        yield make
