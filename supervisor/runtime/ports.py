"""What the runtime needs of the outside. Each port has one real adapter, and a small one in memory for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from supervisor.core.events import AnyEvent
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import DeviceId, DeviceSample, DeviceState, Fleet, Job, JobId, Lease, Peak, Wanted, Work, WorkerName


class Room(Struct, frozen=True):
    """How much memory the machine has available, and how much in all, in bytes: the least by any count."""

    available_bytes: int
    total_bytes: int


class DeviceError(Exception):
    """A device could not be read; the message says why, and `state` what that says of the device (None: the next reading may be a good one)."""

    def __init__(self, message: str, state: DeviceState | None = None) -> None:
        """Say why."""
        super().__init__(message)
        self.state = state


class Device(Protocol):
    """Devices that can be measured."""

    async def measure(self, device: DeviceId) -> DeviceSample:
        """Return one reading. Raises DeviceError. Has a deadline of its own."""
        ...

    async def used_by(self, worker: WorkerName, device: DeviceId) -> int | None:
        """Return what a worker has of a device in bytes, read anew; None where it cannot be read. Has the same deadline."""
        ...


class StreamEvent(Struct, frozen=True, kw_only=True):
    """Something that happened, before it has its number. at_wall: seconds since 1970."""

    at_wall: float
    event: str
    worker: str | None = None
    job: str | None = None
    reason: str = ""
    data: Mapping[str, JSONValue] = field(default_factory=dict)


class Tombstone(Struct, frozen=True, kw_only=True):
    """What is left of a job that was cleaned up."""

    job: JobId
    kind: str
    status: str
    completed_wall: float


class JobStore(Protocol):
    """Where jobs are written down. Every method may be awaited from the loop: nothing of it runs there."""

    async def save(self, job: Job, events: Sequence[StreamEvent] = ()) -> Sequence[int]:
        """Return once the job is on disk, with its idempotency key where it has one, and with what is told of the change: all of it or nothing.

        Returns the numbers of the events. An older attempt, or a change of an ended job, is ignored, and so are its events. Raises StoreError.
        """
        ...

    async def by_key(self, key: str) -> tuple[JobId, str] | None:
        """Return the job that was made under this idempotency key, and the fingerprint of what was asked for then."""
        ...

    async def gone(self, job: str) -> Tombstone | None:
        """Return what is left of a job that was cleaned up; None where there never was one, or it is not cleaned up."""
        ...

    async def expire(self, *, ended_before: float, gone_before: float, keys_before: float) -> Sequence[JobId]:
        """Take away the jobs that ended before an instant (their events too), leaving a tombstone; tombstones and keys that are older than theirs go as well.

        All are wall times. Returns the ids of the jobs, at most 500 at a time; their folders are for the caller.
        """
        ...

    async def page(self, *, statuses: Sequence[str], kind: str, limit: int, cursor: str) -> tuple[Sequence[Job], str]:
        """Return jobs after the cursor ("": from the start), the newest first, and the cursor of the next page ("": there is none).

        A job that comes or goes meanwhile makes no other appear twice or be left out. Of a result over 256 KiB of JSON a list holds
        {"omitted_bytes": n}; `find` returns it whole. Raises ValueError for a cursor that is none.
        """
        ...

    async def append_events(self, events: Sequence[StreamEvent]) -> Sequence[int]:
        """Return the numbers that the events got, once they are on disk: each one more than the last ever given."""
        ...

    async def events_since(self, after: int, *, job: str, limit: int) -> Sequence[tuple[int, StreamEvent]]:
        """Return the events after a number, of one job or ("") of all, the oldest first."""
        ...

    async def event_bounds(self) -> tuple[int, int]:
        """Return the number from which on every event is kept, and the last number ever given (0 before the first)."""
        ...

    async def save_marks(self, marks: Mapping[str, str]) -> None:
        """Return once these small things to remember are on disk, all or none; an empty value forgets one. Raises StoreError."""
        ...

    async def marks(self) -> Mapping[str, str]:
        """Return all that was to be remembered."""
        ...

    async def find(self, job: str) -> Job | None:
        """Return the job with this id, or the only one whose id begins so."""
        ...

    async def newest(self, *, statuses: Sequence[str], kind: str, limit: int) -> Sequence[Job]:
        """Return jobs, the newest first; all of them where statuses or kind are empty."""
        ...

    async def live(self) -> Sequence[Job]:
        """Return the jobs that have not ended, the oldest first."""
        ...

    async def counts(self) -> Mapping[str, int]:
        """Return how many jobs there are in each status."""
        ...

    async def save_leases(self, leases: Sequence[Lease], fence: int) -> None:
        """Return once these, instead of the ones before, are on disk, and this fence if it is higher than the last."""
        ...

    async def leases(self) -> Sequence[Lease]:
        """Return the leases that were saved last."""
        ...

    async def last_fence(self) -> int:
        """Return the highest fence ever saved."""
        ...

    async def save_peaks(self, peaks: Mapping[Work, Peak]) -> None:
        """Return once these, instead of the ones before, are on disk. Raises StoreError."""
        ...

    async def peaks(self) -> Mapping[Work, Peak]:
        """Return the peaks that were saved last, in their order."""
        ...

    async def close(self) -> None:
        """Write what waits, and close."""
        ...


class EventStream(Protocol):
    """What happened, written down and told to whoever listens, in one order."""

    def post(self, event: StreamEvent) -> None:
        """Take the event; it gets its number, is written down and then published, soon. Never blocks, never raises."""
        ...

    def take(self, job: JobId) -> Sequence[StreamEvent]:
        """Return this job's events that still wait, and leave them to the caller: what is written with the job itself must not overtake them."""
        ...

    def publish(self, numbers: Sequence[int], events: Sequence[StreamEvent]) -> None:
        """Tell events that were written down together with a job."""
        ...

    async def close(self) -> None:
        """Write down and publish what waits, within a deadline."""
        ...


class WantedStore(Protocol):
    """Where the operator's word on workers is written down."""

    async def save(self, words: Mapping[WorkerName, Wanted | None]) -> None:
        """Return once these words are on disk; None takes one back. Raises StoreError."""
        ...


class JobFiles(Protocol):
    """The folders of jobs."""

    def folder(self, job: JobId) -> Path:
        """Return the job's own folder."""
        ...

    def checkpoint(self, job: JobId) -> Path | None:
        """Return the checkpoint that an earlier attempt saved, if there is one."""
        ...

    async def kept(self) -> Sequence[JobId]:
        """Return the jobs that have a folder. Raises StoreError."""
        ...

    async def remove(self, job: JobId) -> None:
        """Take the job's folder away with all that is in it; none is fine. Never follows a link out of it. Raises StoreError."""
        ...


class Journal(Protocol):
    """The replayable record of events."""

    def record(self, fleet: Fleet, event: AnyEvent, limits: Limits, now_s: float) -> None:
        """Keep an event; fleet is the one before it."""
        ...
