"""Messages between people's programs and the supervisor, and the client that the command line and the HTTP front use.

A request is one JSON map `{v, id, op, args}` on a ZeroMQ DEALER; the answer `{v, id, ok, data | error}` comes back on the same socket. JSON, so that a
person with a dozen lines of any language can speak it.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import msgspec
import zmq
from msgspec import Struct, field

PROTOCOL: Final = 1
MAX_MESSAGE_BYTES: Final = 16 * 2**20
DEFAULT_TIMEOUT_S: Final = 10.0

_LOOK_S: Final = 1.0

JSONValue = Any


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody asks. by: who, for the record."""

    id: str
    op: str
    args: Mapping[str, JSONValue] = field(default_factory=dict)
    by: str = ""
    v: int = PROTOCOL


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was refused. code: those of `Rejected`, such as usage, unknown, busy, failed."""

    code: str
    message: str


class Answer(Struct, frozen=True, kw_only=True):
    """What the supervisor answers."""

    id: str
    ok: bool
    data: JSONValue = None
    error: Problem | None = None
    v: int = PROTOCOL


class Refused(Exception):
    """The answer is no: the supervisor's, or ours for what cannot be sent to it."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem; the sentence is the message."""
        super().__init__(problem.message)
        self.code = problem.code


class Unreachable(Exception):
    """No supervisor answered."""


class Client:
    """One connection to a supervisor's control socket."""

    def __init__(self, endpoint: Callable[[], str]) -> None:
        """Connect; nothing is sent yet, so this never fails for a supervisor that is away.

        endpoint is asked again after each time that nobody answered: a later supervisor may have made its sockets elsewhere.
        """
        self._endpoint = endpoint
        self._context = zmq.Context()
        self._socket = self._connect()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the connection go at once."""
        self._socket.close()
        self._context.term()

    def ask(
        self,
        op: str,
        args: Mapping[str, JSONValue] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        meanwhile: Callable[[], None] | None = None,
    ) -> JSONValue:
        """Return the answer's data. Raises Refused with a sentence, or Unreachable when none came within timeout_s.

        meanwhile: called once a second while there is no answer; what it raises ends the wait.
        """
        request = Request(id=uuid4().hex, op=op, args=args or {}, by="command line")
        self._socket.send(_encoded(request))
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            if not self._socket.poll(int(1000 * (left_s if meanwhile is None else min(left_s, _LOOK_S))) + 1):
                if meanwhile is not None:
                    meanwhile()
                continue
            answer = msgspec.json.decode(self._socket.recv(), type=Answer)
            if answer.id != request.id:  # of a request that was given up
                continue
            if answer.error is not None:
                raise Refused(answer.error)
            return answer.data
        self._socket.close()  # what waits in it must not be delivered later
        self._socket = self._connect()
        raise Unreachable(f"no supervisor answered at {self._endpoint()} within {timeout_s:g} s")

    def _connect(self) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.connect(self._endpoint())
        return socket


def _no_number(value: JSONValue | Mapping[str, JSONValue], where: str) -> str | None:
    """Return where a value holds NaN or an infinity, which would arrive as null; None where it holds none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} ({value})"
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (_no_number(one, f"{where}.{name}" if where else str(name)) for name, one in inner)
    return next((words for words in found if words is not None), None)


def _encoded(request: Request) -> bytes:
    """Return the bytes of a request. Raises Refused for one that would never arrive."""
    if (where := _no_number(request.args, "")) is not None:
        raise Refused(Problem(code="usage", message=f"{where} of {request.op} is no finite number, and JSON has none but those"))
    try:
        data = msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start : error.end])
        sentence = f"{found} is no character, only a part of one, and cannot be sent: write the whole character, as UTF-8"
        raise Refused(Problem(code="usage", message=sentence)) from error
    except (RecursionError, OverflowError, TypeError, ValueError) as error:
        raise Refused(Problem(code="usage", message=f"{request.op} cannot be sent as JSON: {error}")) from error
    if len(data) > MAX_MESSAGE_BYTES:
        sentence = f"the request has {len(data) / 2**20:.3g}MiB, at most {MAX_MESSAGE_BYTES // 2**20}MiB are taken: put what is large into a file, and name it"
        raise Refused(Problem(code="usage", message=sentence))
    return data


class Holder(Struct, frozen=True, kw_only=True):
    """Who writes the logs of a folder: the supervisor with this pid, on this state folder, by this configuration."""

    pid: int
    state_dir: str
    config: str


HOLDER_FILE: Final = "supervisor.lock"
"""In the log folder, locked by its holder for as long as that lives. What it says may be of a supervisor that was killed."""


def endpoint_of(state_dir: Path, name: str = "control") -> str:
    """Return where the supervisor of this state folder listens. Where the path would be too long for a socket, a file in state_dir says where."""
    try:
        folder = Path((state_dir / "sockets").read_text().strip())
    except OSError:  # most have none; to a user who may not look, the socket itself will say so
        folder = state_dir
    return f"ipc://{folder / name}.sock"


def holder_of(log_dir: Path) -> Holder | None:
    """Return who writes, or was killed while it wrote, the logs in this folder; None where nobody is known."""
    try:
        return msgspec.json.decode((log_dir / HOLDER_FILE).read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
