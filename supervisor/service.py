"""What the supervisor is to the machine around it: a service of systemd's, the keeper of the logs, and who calls a person when one is needed."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from supervisor.adapters.log_setup import Logs
from supervisor.adapters.notify_command import NEEDS_A_PERSON, NotifyCommand
from supervisor.adapters.sd_notify import Systemd
from supervisor.adapters.self_test import self_test
from supervisor.adapters.worker_logs import WorkerLogs
from supervisor.core.announcements import LEVELS
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import Fleet, WorkerName

_LOG_STUCK_S: Final = 10.0
_STATUS_EVERY_S: Final = 10.0
_DROPS_SAID_EVERY_S: Final = 60.0


class Service:
    """Everything that is told about the supervisor goes through `say`: to the logs, to systemd, and to a person where it must."""

    def __init__(self, limits: Limits, environ: Mapping[str, str]) -> None:
        """Open the logs. Raises StateError."""
        settings = limits.supervisor
        self._folder = Path(settings.log_dir)
        self._logs = Logs(self._folder, level=settings.log_level, max_bytes=settings.log_max_bytes, keep=settings.log_keep, echo=True, environ=environ)
        self._worker_logs = WorkerLogs(self._folder / "workers", max_bytes=settings.log_max_bytes, keep=settings.log_keep, say=self._say)
        self._worker_logs.start()
        self._systemd = Systemd.from_environ(environ)
        self._person = NotifyCommand(limits.notify.command, environ=environ, say=self._say)

    def say(self, level: str, event: str, fields: Mapping[str, JSONValue]) -> None:
        """Write an event to the logs, and pass it on to whom it concerns."""
        self._logs.write(level, event, fields)
        if event in NEEDS_A_PERSON:
            self._person.tell(event, reason=str(fields.get("reason", "")), worker=str(fields.get("worker", "")), job=str(fields.get("job", "")))
        if event == "supervisor_stopping":
            self._systemd.stopping()
        elif event == "config_reloaded":
            self._systemd.reloading(time.monotonic_ns() // 1000)
            self._systemd.ready()

    def take(self, limits: Limits) -> None:
        """Take new settings."""
        settings = limits.supervisor
        self._logs.set_limits(level=settings.log_level, max_bytes=settings.log_max_bytes, keep=settings.log_keep)
        self._worker_logs.set_limits(max_bytes=settings.log_max_bytes, keep=settings.log_keep)
        self._person.set_command(limits.notify.command)

    def new_generation(self, worker: WorkerName) -> None:
        """Let a worker begin with a log of the right size, where the file system cannot cut one in place. Blocks up to a second: for a thread."""
        self._worker_logs.new_generation(worker)

    async def say_drops(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Say how many messages could not be believed, by why, at most once a minute and only when there were more; until cancelled."""
        said = 0
        while True:
            await asyncio.sleep(_DROPS_SAID_EVERY_S)
            found = counts()
            if (total := sum(found.values())) > said:
                self._say("messages_dropped", {"reason": ", ".join(f"{count} {why}" for why, count in found.items())})
                said = total

    async def prove(self, state_dir: Path) -> None:
        """Try on throw-away things what Warden relies on, and say what could not be proved."""
        for sentence in await asyncio.to_thread(self_test, state_dir, self._folder):
            self._say("proof_missing", {"reason": sentence})

    async def attend(self, fleet: Callable[[], Fleet]) -> None:
        """Tell systemd that we are up, and go on telling it for as long as the loop turns; say when a log's disk takes no line. Until cancelled."""
        self._systemd.ready()
        stuck = False  # said already
        while True:
            workers = fleet().workers.values()
            up = sum(1 for worker in workers if worker.process is not None)
            held = ", ".join(f"{lease.device} held by {lease.owner}" for lease in fleet().leases.values())
            self._systemd.status(f"{up}/{len(workers)} workers up{f', {held}' if held else ''}")
            self._systemd.watchdog()
            trouble = self.log_trouble()
            if trouble and not stuck:
                self._say("log_stuck", {"reason": trouble})
            stuck = bool(trouble)
            await asyncio.sleep(min(self._systemd.watchdog_every_s or _STATUS_EVERY_S, _STATUS_EVERY_S))

    def log_trouble(self) -> str:
        """Return why lines do not reach the logs, in a sentence; empty where they do."""
        stuck_for_s = max(self._logs.stuck_for_s(), self._worker_logs.stuck_for_s())
        if stuck_for_s > _LOG_STUCK_S:
            return f"{self._folder} does not answer, for {stuck_for_s:.0f} s: lines wait in memory, and are counted when there are too many"
        return self._logs.trouble()

    def close(self) -> None:
        """Write what waits, and close."""
        self._person.close()
        self._worker_logs.close()
        self._systemd.close()
        self._logs.close()

    def _say(self, event: str, fields: Mapping[str, JSONValue]) -> None:
        self.say(LEVELS[event], event, fields)
