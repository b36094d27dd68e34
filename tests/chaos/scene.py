"""The supervisor under chaos: a real `warden run` on a folder, which is killed, frozen, stopped and started again; its log, and what it answers."""

import os
import select
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.control import Client, Refused, Unreachable, endpoint_of
from tests.chaos import config

ROOT: Final = Path(__file__).resolve().parents[2]
STARTED_WITHIN_S: Final = 30.0
SETTLED_S: Final = 4.0
_ANSWER_S: Final = 9.0


class Scene:
    """One folder with the supervisor on it. events: every line of watchdog.jsonl, with `at_s` on the monotonic clock."""

    def __init__(self, folder: Path) -> None:
        """Write the file; nothing runs yet."""
        self.folder = folder
        self.file = folder / "supervisor.toml"
        self.state_dir = folder / "var"
        self.knobs = config.Knobs()
        self.whole = True  # whether the file is one that a supervisor can start with
        self.frozen = False
        self.stopping_since_s: float | None = None
        self.started_at_s = 0.0
        self.lives = 0
        self.events: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.unanswered = 0
        self._client: Client | None = None
        self._log = _Tail(folder / "logs" / "watchdog.jsonl")
        self.write(self.knobs, 0.5)

    @property
    def up(self) -> bool:
        """Whether it can be asked: it runs, is not frozen, and was not told to stop."""
        return self.process is not None and not self.frozen and self.stopping_since_s is None

    @property
    def settled(self) -> bool:
        """Whether it has read its file for certain: one that starts with half a file, or a broken one, is right to refuse it."""
        return self.up and time.monotonic() - self.started_at_s > SETTLED_S

    def write(self, knobs: config.Knobs, how: float) -> None:
        """Save a configuration that holds."""
        self.knobs, self.whole = knobs, True
        if not self.file.exists():
            self.file.write_text(config.text(knobs))
        config.save(self.file, config.text(knobs), how)

    def write_broken(self, how: float) -> None:
        """Save one that does not."""
        self.whole = False
        config.save(self.file, config.broken(config.text(self.knobs), how), 0.0)

    def start(self) -> None:
        """Start it; `up` at once, though it answers only later."""
        if not self.whole:
            self.write(self.knobs, 0.0)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("WARDEN_", "JOB_", "SAM2_"))}
        environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.folder / "run.out").open("ab") as out:
            command = [sys.executable, "-m", "supervisor", "--config", str(self.file), "run"]
            self.process = subprocess.Popen(command, cwd=self.folder, env=environ, stdout=out, stderr=out)
        self.started_at_s, self.stopping_since_s, self.frozen = time.monotonic(), None, False
        self.lives += 1

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it is gone."""
        if self.process is not None:
            self.process.send_signal(number)
            self.frozen = number is signal.SIGSTOP or (self.frozen and number not in (signal.SIGCONT, signal.SIGKILL))

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process, self.frozen, self.stopping_since_s = None, False, None

    def begin_stop(self) -> None:
        """Ask it to stop in order."""
        if self.process is not None and self.stopping_since_s is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.stopping_since_s = time.monotonic()

    def reap(self) -> int | None:
        """Return its exit code once it ended by itself or as it was asked, else None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process, self.frozen, self.stopping_since_s = None, False, None
        return code

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the supervisor ends."""
        if self.process is None:
            select.select([], [], [], seconds)
            return
        try:
            pidfd = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return
        try:
            select.select([pidfd], [], [], seconds)
        finally:
            os.close(pidfd)

    def ask(self, op: str, **args: Any) -> Any:
        """Return the answer. Raises Refused or Unreachable; how often the latter came in a row is counted in `unanswered`."""
        if self._client is None:
            self._client = Client(lambda: endpoint_of(self.state_dir))
        try:
            answer = self._client.ask(op, args, timeout_s=_ANSWER_S)
        except Refused:
            self.unanswered = 0
            raise
        except Unreachable:
            self.unanswered += 1
            raise
        self.unanswered = 0
        return answer

    def read(self) -> list[dict[str, Any]]:
        """Return the log's new events, and keep them."""
        new = self._log.read()
        self.events += new
        return new

    def remove_log(self, name: str) -> None:
        """Take a log file away under its writer's hands; the machine's own is moved aside, so that we can read it to its end."""
        path = self.folder / "logs" / name
        if name == "watchdog.jsonl":
            self.read()
            if path.exists():
                path.rename(path.with_name(f"moved-{time.monotonic_ns()}.jsonl"))
        else:
            path.unlink(missing_ok=True)

    def said(self) -> str:
        """Return the end of what it printed."""
        out = self.folder / "run.out"
        return out.read_text(errors="replace") if out.exists() else ""

    def close(self) -> None:
        """End it, whatever it does."""
        if self._client is not None:
            self._client.close()
        self.kill()
        self._log.close()


class _Tail:
    """Follows a file through its removal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._torn = b""

    def read(self) -> list[dict[str, Any]]:
        """Return the whole lines that came since the last look."""
        lines = self._rest()
        if self._moved():
            lines += self._rest()  # what was written between the two looks
            self.close()
            self._torn = b""
            if self._path.exists():
                self._file = self._path.open("rb")
            lines += self._rest()
        offset_s = time.time() - time.monotonic()
        events: list[dict[str, Any]] = [msgspec.json.decode(line) for line in lines]
        for event in events:
            event["at_s"] = _instant(event["timestamp"]) - offset_s
        return events

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _moved(self) -> bool:
        try:
            return self._file is None or os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def _rest(self) -> list[bytes]:
        if self._file is None:
            return []
        *whole, self._torn = (self._torn + self._file.read()).split(b"\n")
        return list(whole)


def _instant(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
