"""Messages between a worker and the supervisor: one MessagePack map each, over a ZeroMQ DEALER (worker) and ROUTER (supervisor).

For any language: a map has the keys `v` (1), `t` (the message's name) and those of the class below; optional keys may be left out, unknown ones are
ignored. Every message from a worker carries `worker`, `generation` and `token`, as the worker got them in WARDEN_WORKER, WARDEN_GENERATION and WARDEN_TOKEN,
and the supervisor answers on the line where it last heard the right token. `accepted`, `result` and `failed` are sent again until `stored` answers them; a
beat may be lost.

A socket's routing id begins with `worker#generation#` and ends in what only the worker knows (`routing_id`), the same over reconnects: ZeroMQ hands the line
of an id to whoever comes last with it, so an id that can be guessed can be taken. A bare `worker#generation` works as long as everybody here means well.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from supervisor.errors import WireError

PROTOCOL: Final = 1
MAX_MESSAGE_BYTES: Final = 16 * 2**20

JSONValue = Any
"""What JSON can hold. Results and parameters are carried, never looked into."""


class FromWorker(Struct, frozen=True, kw_only=True, tag_field="t"):
    """What every message of a worker carries."""

    worker: str
    generation: int
    token: str
    v: int = PROTOCOL


class Hello(FromWorker, frozen=True, kw_only=True, tag="hello"):
    """The process is up and its I/O runs; the model is not loaded yet."""

    pid: int
    serves: tuple[str, ...] = ()
    jobs: tuple[tuple[str, int], ...] = ()  # (job, attempt) it is still working on: not empty when a supervisor came back
    params: Mapping[str, JSONValue] = field(default_factory=dict)  # kind -> JSON Schema of its parameters: what does not fit is refused at the door


class Ready(FromWorker, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded: jobs may come."""

    note: str = ""  # for people, such as "UNTRAINED NETWORK"


class JobBeat(Struct, frozen=True, kw_only=True):
    """Where one job is now: absolute state, so that a lost beat heals with the next."""

    job: str
    attempt: int
    phase: str = ""
    done: float = 0.0
    total: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    critical: str = ""  # what must not be interrupted just now
    extend_s: float = 0.0  # so much more time it wants before it is judged, such as for a long compilation
    resumable: bool = False  # it can be left at a checkpoint, and gone on with in another process


class Graphs(Struct, frozen=True, kw_only=True):
    """Tensors alive between two jobs that hold their autograd graph. shapes: of the biggest; held_in: where one was found."""

    count: int
    used_bytes: int
    shapes: tuple[str, ...] = ()
    held_in: str = ""


class Idle(Struct, frozen=True, kw_only=True):
    """What a worker holds between two jobs, after it gave back what it could; for the verdict on leaks. Leave out what you cannot measure.

    jobs: ended by this process so far; used_bytes: of this process, without mapped files; trimmed_bytes: given back by the allocator just before;
    pinned_bytes: cached pinned memory; blocks: of Python's allocator; items: of containers, by place; grown: objects by type, more than last time.
    """

    jobs: int
    used_bytes: int
    trimmed_bytes: int = 0
    pinned_bytes: int | None = None
    blocks: int | None = None
    graphs: Graphs | None = None
    items: Mapping[str, int] = field(default_factory=dict)
    grown: Mapping[str, int] = field(default_factory=dict)


class Beat(FromWorker, frozen=True, kw_only=True, tag="beat"):
    """The process lives; what its jobs show tells whether they move."""

    seq: int
    jobs: tuple[JobBeat, ...] = ()
    device_bytes: int | None = None
    idle: Idle | None = None  # once after each job, while no other is worked on


class Accepted(FromWorker, frozen=True, kw_only=True, tag="accepted"):
    """The work on a job begins. memory_bytes: where it was reckoned, what its processes will have of the machine's memory at the most."""

    job: str
    attempt: int
    memory_bytes: int = 0


class Result(FromWorker, frozen=True, kw_only=True, tag="result"):
    """A job's work is done."""

    job: str
    attempt: int
    value: JSONValue = None


class Failed(FromWorker, frozen=True, kw_only=True, tag="failed"):
    """A job's work ended without a result.

    reason: bad_input, user_error, gpu_oom, gpu_error, memory_emergency, worker_crash (by the machine, as by a full disk), cancelled, paused, shutdown,
    needs_memory (not begun: it needs more than there is room for; memory_bytes as in `accepted`; it comes again when there is as much).
    """

    job: str
    attempt: int
    reason: str
    error: str = ""
    stack: str = ""
    memory_bytes: int = 0


class Log(FromWorker, frozen=True, kw_only=True, tag="log"):
    """A line for the supervisor's own log. reason: gpu_oom where it says that the model did not fit into the device's memory."""

    level: str = "info"
    text: str = ""
    reason: str = ""


class Bye(FromWorker, frozen=True, kw_only=True, tag="bye"):
    """The process is about to exit by itself, as it was asked to."""


class ToWorker(Struct, frozen=True, kw_only=True, tag_field="t"):
    """What every message of the supervisor carries."""

    v: int = PROTOCOL


class Welcome(ToWorker, frozen=True, kw_only=True, tag="welcome"):
    """Answers `hello`. limits: orphan_after_s, critical_max_s."""

    limits: Mapping[str, float] = field(default_factory=dict)


class JobOrder(ToWorker, frozen=True, kw_only=True, tag="job"):
    """Work on this. dir: the job's own folder; resume_from: the checkpoint that an earlier attempt left there.

    memory_room_bytes: by how much this process may grow for it, for those who can tell what a job needs before they begin; None: nothing is asked.
    """

    job: str
    attempt: int
    kind: str
    params: JSONValue = None
    dir: str = ""
    resume_from: str | None = None
    memory_room_bytes: int | None = None


class Cancel(ToWorker, frozen=True, kw_only=True, tag="cancel"):
    """Stop working on this job; `failed` with reason cancelled answers it."""

    job: str
    attempt: int


class Brake(ToWorker, frozen=True, kw_only=True, tag="brake"):
    """The machine runs out of memory, and this job is who takes it: end it before its next step. `failed` with reason memory_emergency answers it."""

    job: str
    attempt: int
    why: str = ""


class Pause(ToWorker, frozen=True, kw_only=True, tag="pause"):
    """Stop working on this job right after its next checkpoint; `failed` with reason paused answers it. Without a job: hold still at the next progress."""

    job: str = ""
    attempt: int = 0


class Resume(ToWorker, frozen=True, kw_only=True, tag="resume"):
    """Go on: undoes a pause that was not yet obeyed."""

    job: str = ""
    attempt: int = 0


class Drain(ToWorker, frozen=True, kw_only=True, tag="drain"):
    """Finish the jobs at hand, take no other, say `bye` and exit. boundary: leave a job at its next checkpoint already; it goes on in another process."""

    boundary: bool = False


class Unload(ToWorker, frozen=True, kw_only=True, tag="unload"):
    """Give the model's memory back, if this worker can, and stay."""


class Stored(ToWorker, frozen=True, kw_only=True, tag="stored"):
    """What the worker reported of this job (`what`: accepted, result or failed) is on disk: no need to send it again."""

    job: str
    attempt: int
    what: str


class Resync(ToWorker, frozen=True, kw_only=True, tag="resync"):
    """A supervisor came back: say `hello` again, with the jobs at hand."""


class Ping(ToWorker, frozen=True, kw_only=True, tag="ping"):
    """The supervisor lives."""


AnyFromWorker = Hello | Ready | Beat | Accepted | Result | Failed | Log | Bye
AnyToWorker = Welcome | JobOrder | Cancel | Brake | Pause | Resume | Drain | Unload | Stored | Resync | Ping

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PROTOCOL",
    "Accepted",
    "AnyFromWorker",
    "AnyToWorker",
    "Beat",
    "Brake",
    "Bye",
    "Cancel",
    "Drain",
    "Failed",
    "FromWorker",
    "Graphs",
    "Hello",
    "Idle",
    "JSONValue",
    "JobBeat",
    "JobOrder",
    "Log",
    "Pause",
    "Ping",
    "Ready",
    "Result",
    "Resume",
    "Resync",
    "Stored",
    "ToWorker",
    "Unload",
    "Welcome",
    "WireError",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
    "routing_id",
]

Message = TypeVar("Message", bound=FromWorker | ToWorker)

_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[AnyFromWorker] = msgspec.msgpack.Decoder(AnyFromWorker)
_to_worker: msgspec.msgpack.Decoder[AnyToWorker] = msgspec.msgpack.Decoder(AnyToWorker)


def routing_id(worker: str, generation: int, secret: str) -> bytes:
    """Return the routing id of a worker's socket: nobody else has it, neither an old generation nor a stranger. secret: at most 64 characters of its own."""
    return f"{worker}#{generation}#{secret}".encode()


def encode(message: AnyFromWorker | AnyToWorker) -> bytes:
    """Return the message's bytes."""
    return _encoder.encode(message)


def decode_from_worker(data: bytes) -> AnyFromWorker:
    """Return a worker's message. Raises WireError for anything else, also for another protocol version."""
    return _checked(_from_worker, data)


def decode_to_worker(data: bytes) -> AnyToWorker:
    """Return a supervisor's message. Raises WireError for anything else, also for another protocol version."""
    return _checked(_to_worker, data)


def _checked(decoder: "msgspec.msgpack.Decoder[Message]", data: bytes) -> Message:
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"not a message of protocol {PROTOCOL}: {error}") from error
    if message.v != PROTOCOL:
        raise WireError(f"protocol version {message.v} found, {PROTOCOL} expected")
    return message
