"""What people send: the bodies of the routes. Sizes and lengths are bounded, unknown names refused."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

_PRINTABLE: Final = r"^[ -~]*$"
_NO_SPACES: Final = r"^[!-~]*$"
_ONE_LINE: Final = r"^[^\x00-\x1f\x7f]*$"
_SIZE: Final = r"^\d+(\.\d+)?\s*[A-Za-z]*$"
_NUMBER: Final = "^[0-9]{1,9}$"
PATTERNS: Final = {
    _PRINTABLE: "printable ASCII",
    _NO_SPACES: "printable ASCII without spaces",
    _ONE_LINE: "one line without control characters",
    _SIZE: 'a size such as "8GiB"',
    _NUMBER: "a whole number",
}
"""What each pattern asks for, for people."""

Text = Annotated[str, Meta(min_length=1, max_length=200)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
Priority = Annotated[int, Meta(ge=0, le=1_000_000)]
Attempts = Annotated[int, Meta(ge=1, le=100)]
Natural = Annotated[int, Meta(ge=0, le=2**31)]
Xy = Annotated[list[float], Meta(min_length=2, max_length=2)]
Xyxy = Annotated[list[float], Meta(min_length=4, max_length=4)]
Points = Annotated[list[Xy], Meta(max_length=1000)]
Labels = Annotated[list[Annotated[int, Meta(ge=0, le=1)]], Meta(max_length=1000)]
Instant = Annotated[datetime, Meta(tz=True)]
SessionId = Annotated[str, Meta(min_length=1, max_length=100)]
JobId = Annotated[str, Meta(min_length=1, max_length=100)]
Size = Annotated[str, Meta(max_length=40, pattern=_SIZE)]


class JobBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job. priority: 0 is the most urgent. run_at: not before that. hold: it waits until it is started. device: this one, and no other.

    memory: what its worker's processes have of the machine's memory at the most while it runs, such as "6GiB"; it waits until there is as much.
    """

    kind: Text
    params: dict[str, Any] = field(default_factory=dict)
    priority: Priority | None = None
    run_at: Instant | None = None
    max_attempts: Attempts | None = None
    hold: bool = False
    device: Text | None = None
    memory: Size | None = None


class SessionBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session on a video that is there. path: under the state folder or a folder of api.allowed_roots."""

    path: PathText


class PromptBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object shown on one frame, in pixels of the video. points: [x, y]; labels: 1 on the object, 0 beside it; box: [x1, y1, x2, y2]."""

    frame: Natural = 0
    object: Natural = 1
    points: Points = []
    labels: Labels = []
    box: Xyxy | None = None


class PromptsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts to add. One for an object on a frame: a later one takes the earlier one's place. replace: forget all earlier ones."""

    prompts: Annotated[list[PromptBody], Meta(min_length=1, max_length=1000)]
    replace: bool = False


class PropagateBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow the session's objects through its video. max_frames: 0 for all."""

    session_id: SessionId
    first_frame: Natural = 0
    max_frames: Natural = 0
    priority: Priority | None = None


class FrameMasksBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One frame of a session."""

    session_id: SessionId
    frame_idx: Natural


class PredictBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The masks of one image. image: its path; an upload sends it as the part "file" instead, with these fields as JSON in the part "prompt"."""

    image: Annotated[str, Meta(max_length=4096)] = ""
    points: Points = []
    labels: Labels = []
    boxes: Annotated[list[Xyxy], Meta(max_length=1000)] = []
    multimask: bool = False
    priority: Priority | None = None


class TrainingBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training. params: those of the kind yolo.train. hold: it waits until it is started."""

    params: dict[str, Any] = field(default_factory=dict)
    priority: Priority | None = None
    run_at: Instant | None = None
    max_attempts: Attempts | None = None
    hold: bool = False


class PushBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train on the masks of a session. classes: object id -> the name of its class; params: further ones of the kind yolo.train."""

    classes: Annotated[dict[Annotated[str, Meta(pattern=_NUMBER)], Text], Meta(min_length=1, max_length=1000)]
    params: dict[str, Any] = field(default_factory=dict)
    priority: Priority | None = None


class JobRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job."""

    job_id: JobId


Owner = Annotated[str, Meta(min_length=1, max_length=200, pattern=_PRINTABLE)]
LeaseName = Annotated[str, Meta(min_length=1, max_length=100)]
Fence = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class LockBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device for a program outside Warden. priority: 0 is the most urgent; need: such as "8GiB", what must be free; device: this one and no other.

    timeout_s, ttl_s: left out for gpu.lock_timeout and gpu.lease_ttl. pid: yours is proved by the unix socket; 0 to live by renewals alone there too; over TCP
    it says nothing. ticket: of an answer that said to come again. purpose: load for the lock under which models are loaded on a device, one at a time: it is
    taken after the device, says nothing about memory (no need), and is over after gpu.load_timeout.
    """

    owner: Owner
    priority: Priority = 15
    timeout_s: Seconds | None = None
    ttl_s: Seconds | None = None
    need: Size | None = None
    device: Text | None = None
    pid: Natural | None = None
    purpose: Literal["inference", "load"] = "inference"
    ticket: Annotated[str, Meta(max_length=100, pattern=_NO_SPACES)] = ""


class RenewBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lease that is still used. ttl_s: left out for as long as before."""

    lease: LeaseName
    fence: Fence
    ttl_s: Seconds | None = None


class ReleaseBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leases that are taken back. reason: why, for the record."""

    reason: Annotated[str, Meta(max_length=500, pattern=_ONE_LINE)] = ""


class VacateBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device that is to be empty. need: what must be free, such as "8GiB"; device: left out for the smallest that can hold it.

    timeout_s: left out for gpu.vacate_timeout; keep_free_s: for so long residents stay away afterwards, left out for 300.
    """

    need: Size | None = None
    device: Text | None = None
    timeout_s: Seconds | None = None
    keep_free_s: Seconds | None = None


class UnlockBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lease that is given back."""

    lease: LeaseName
    fence: Fence
