"""What the front answers beyond the supervisor's own shapes."""

from typing import Any, Literal

from msgspec import Struct

from supervisor.front.shapes_in import PromptBody
from supervisor.shapes import JobView

Pending = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]


class AliveView(Struct, frozen=True, kw_only=True):
    """The front answers."""

    alive: bool = True


class ReadyView(Struct, frozen=True, kw_only=True):
    """The supervisor answers and takes work."""

    ready: bool = True


class LeaseView(Struct, frozen=True, kw_only=True):
    """A device is yours. expires_in_s: renew it before; None: it lives as long as your process. env: what makes a program see that device alone.

    yield_wanted: somebody waits to whom you should give it soon, because that one is more urgent or has waited for long (wanted_by). You decide.
    """

    lease: str
    fence: int
    device: str
    expires_in_s: float | None
    ticket: str
    env: dict[str, str]
    yield_wanted: bool = False
    wanted_by: str = ""


class UnlockedView(Struct, frozen=True, kw_only=True):
    """It is given back."""

    lease: str


class HeldView(Struct, frozen=True, kw_only=True):
    """What one holder has of a device. used_bytes: measured, peak_bytes: the most that its work was seen to use; None where it is unknown."""

    owner: str
    kind: str
    pid: int | None
    state: str
    need_bytes: int
    used_bytes: int | None
    since_s: float
    booked_bytes: int | None = None
    peak_bytes: int | None = None


class DeviceHealth(Struct, frozen=True, kw_only=True):
    """A device, and who holds how much of it."""

    id: str
    name: str
    state: str
    total_bytes: int
    used_bytes: int | None
    free_bytes: int | None
    holders: list[HeldView]


class HealthView(Struct, frozen=True, kw_only=True):
    """Whether all is well. unwell: one sentence for each thing that is not."""

    status: Literal["ok", "unwell"]
    unwell: list[str]
    devices: list[DeviceHealth]
    memory_available_bytes: int | None
    disk_free_bytes: int | None
    uptime_s: float


class FileView(Struct, frozen=True, kw_only=True):
    """A file of a job."""

    name: str
    size_bytes: int
    modified_at: str


class SessionView(Struct, frozen=True, kw_only=True):
    """A session: a video, what was shown on it, and the propagations of it. job_id: the last one."""

    session_id: str
    created_at: str
    video: str
    name: str
    uploaded: bool
    size_bytes: int
    prompts: list[PromptBody]
    jobs: list[str]
    job_id: str | None


class StartedView(Struct, frozen=True, kw_only=True):
    """A job was taken."""

    job_id: str
    status: Pending
    message: str


class JobStatusView(Struct, frozen=True, kw_only=True):
    """A job in the words of the compatibility routes. progress: 0-100."""

    job_id: str
    job_type: str
    status: Pending
    progress: float
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    result: Any
    error: Any
    message: str = ""
    phase: str = ""


class RleView(Struct, frozen=True, kw_only=True):
    """One mask: size is [height, width], counts COCO's compressed run lengths."""

    size: list[int]
    counts: str


class PredictView(Struct, frozen=True, kw_only=True):
    """The masks of an image: as the worker made them."""

    job_id: str
    size: Any = None
    masks: Any = None
    cached: Any = None
    seconds: Any = None


PENDING_OF: dict[str, Pending] = {
    "queued": "pending",
    "preparing": "pending",
    "running": "running",
    "pausing": "running",
    "paused": "paused",
    "cancelling": "running",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""The words of the compatibility routes, for each status."""

TYPE_OF = {"sam.propagate": "propagation", "sam.segment": "segmentation", "yolo.train": "training", "yolo.predict": "prediction"}


def status_view(job: JobView) -> JobStatusView:
    """Return the job in the words of the compatibility routes."""
    return JobStatusView(
        job_id=job.id,
        job_type=TYPE_OF.get(job.kind, job.kind),
        status=PENDING_OF.get(job.status, "running"),
        progress=job.progress,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        result=job.result,
        error=job.error.message if job.error else None,
        message=job.message,
        phase=job.phase,
    )


def started(job: JobView, message: str) -> StartedView:
    """Return that a job was taken."""
    return StartedView(job_id=job.id, status=PENDING_OF.get(job.status, "running"), message=message)
