"""The two ways to a supervisor: its control socket, for the user that it runs as, and HTTP with a token. What is foreign is loaded with the first question."""

import http.client
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from supervisor.client.problems import Away, Busy, Refused

Args = Mapping[str, Any]
ANSWER_MAX_S: Final = 10.0
"""For an answer, beyond the wait that was asked for."""
SECONDS_MAX: Final = 86400.0
"""A supervisor takes no more, for a wait or for the time that a lease has."""
_LATER: Final = frozenset({"stopping", "failed"})
"""Codes that say nothing of the lease: a supervisor is on its way out, or its store is stuck for a moment."""
_NOT_NOW: Final = frozenset({"unreachable", "stopping", "withdrawn", "starting"})
"""Reasons of a 503 that say nothing of the device: a supervisor, or its API, is on its way."""


class Line(Protocol):
    """Asks a supervisor. proves_pid: the lease is bound to this process, whose end or life is seen; else renewals alone show that its owner lives."""

    proves_pid: bool

    def lock(self, args: Args, timeout_s: float) -> Args:
        """Return {lease fence device expires_in_s env}. Raises Busy after timeout_s, Away, Refused."""
        ...

    def renew(self, args: Args, timeout_s: float) -> Args:
        """Return the same, with the time that it has from now on. Raises Away, also where no answer came within timeout_s; Refused."""
        ...

    def unlock(self, args: Args) -> None:
        """Give it back. Raises Away, Refused."""
        ...

    def withdraw(self, ticket: str) -> None:
        """Wait no longer. Raises Away, Refused."""
        ...

    def devices(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return the devices with holders and waiters. Raises Away, Refused."""
        ...


class Control:
    """By the control socket of a state folder."""

    proves_pid = True

    def __init__(self, where: Path | None) -> None:
        """Ask nothing yet. where: a state folder or a supervisor.toml; None: the one that the command line would find."""
        self._where = where
        self._cwd = Path.cwd()

    def lock(self, args: Args, timeout_s: float) -> Args:
        """As Line says. A supervisor that goes away meanwhile is noticed within a second, for its successor does not know of the question."""
        mine = os.getpid()
        before = self._pid()

        def look() -> None:
            if self._pid() != before:
                raise Away("the supervisor that was asked is gone")

        answer: Args = self._ask("gpu.lock", {**args, "timeout_s": timeout_s, "pid": mine, "caller": mine}, timeout_s + ANSWER_MAX_S, look)
        if answer["granted"]:
            return answer
        raise Busy(answer["message"], ticket=answer["ticket"], holders=answer["holders"])

    def renew(self, args: Args, timeout_s: float) -> Args:
        """As Line says."""
        answer: Args = self._ask("gpu.renew", args, timeout_s)
        return answer

    def unlock(self, args: Args) -> None:
        """As Line says."""
        self._ask("gpu.unlock", args)

    def withdraw(self, ticket: str) -> None:
        """As Line says."""
        self._ask("gpu.withdraw", {"ticket": ticket})

    def devices(self, timeout_s: float) -> list[dict[str, Any]]:
        """As Line says."""
        found: list[dict[str, Any]] = self._ask("status", {}, timeout_s)["devices"]
        return found

    def _pid(self) -> int:
        return int(self._ask("status", {})["supervisor"]["pid"])

    def _ask(self, op: str, args: Args, within_s: float = ANSWER_MAX_S, meanwhile: Callable[[], None] | None = None) -> Any:
        from supervisor import control  # noqa: PLC0415  # ZeroMQ: with the first question

        endpoint = control.endpoint_of(self._state_dir())
        _connected(endpoint)
        try:
            with control.Client(lambda: endpoint) as client:
                return client.ask(op, args, timeout_s=within_s, meanwhile=meanwhile)
        except control.Unreachable as error:
            raise Away(str(error)) from error
        except control.Refused as error:
            if error.code in _LATER:
                raise Away(str(error)) from error
            raise Refused(error.code, str(error)) from error

    def _state_dir(self) -> Path:
        where = self._cwd / self._where if self._where is not None else None
        if where is not None and where.is_dir():
            return where
        from supervisor.config import find, folders  # noqa: PLC0415
        from supervisor.errors import ConfigError  # noqa: PLC0415

        try:
            return folders(find(str(where) if where else None, os.environ, self._cwd), os.environ).state_dir
        except ConfigError as error:
            raise Refused("config", str(error)) from error


def _connected(endpoint: str) -> None:
    """Raise Away at once where nobody listens: a question would wait for its whole deadline."""
    path = endpoint.removeprefix("ipc://")
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            raise Away(f"no supervisor listens at {path}: {error.strerror}") from error


class Http:
    """By HTTP, with a token where one is needed."""

    proves_pid = False

    def __init__(self, url: str, token: str) -> None:
        """Ask nothing yet. url: such as http://gpu-box:8650. Raises ValueError for one that is none."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no address of an API: expected http://HOST:PORT or https://HOST:PORT")
        self._url = url
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def lock(self, args: Args, timeout_s: float) -> Args:
        """As Line says."""
        answer: Args = self._ask("POST", "lock", {**args, "timeout_s": timeout_s}, timeout_s + ANSWER_MAX_S)
        return answer

    def renew(self, args: Args, timeout_s: float) -> Args:
        """As Line says."""
        answer: Args = self._ask("POST", "renew", args, timeout_s)
        return answer

    def unlock(self, args: Args) -> None:
        """As Line says."""
        self._ask("POST", "unlock", args)

    def withdraw(self, ticket: str) -> None:
        """As Line says: the connection of the question is closed by now, which said it."""

    def devices(self, timeout_s: float) -> list[dict[str, Any]]:
        """As Line says."""
        found: list[dict[str, Any]] = self._ask("GET", "status", None, timeout_s)
        return found

    def _ask(self, method: str, name: str, args: Args | None, within_s: float = ANSWER_MAX_S) -> Any:
        body = None if args is None else json.dumps(args)
        with closing(self._connection(self._host, self._port, timeout=within_s)) as connection:
            try:
                connection.request(method, f"{self._base}/v1/gpu/{name}", body, self._headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Away(f"{self._url} does not answer: {str(error) or type(error).__name__}") from error
        found = _json(text)
        if response.status == http.HTTPStatus.OK and found is not None:
            return found
        problem = found if isinstance(found, dict) else {}
        reason, detail = str(problem.get("reason", "")), str(problem.get("detail") or f"{self._url} answered {response.status} {response.reason}")
        if response.status == http.HTTPStatus.SERVICE_UNAVAILABLE and "ticket" in problem and reason not in _NOT_NOW:
            wait_s = float(response.headers.get("Retry-After") or 1)
            raise Busy(detail, ticket=problem["ticket"], holders=problem.get("holders", ()), retry_after_s=wait_s)
        if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or response.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise Away(detail)
        raise Refused(reason or str(response.status), detail)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
