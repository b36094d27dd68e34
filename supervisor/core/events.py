"""What can happen. Every event comes through the one inbox; the outcome of an action is an event too."""

from collections.abc import Mapping

from msgspec import Struct, field

from supervisor.core.claims import Purpose
from supervisor.core.growth import Idle
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceSample,
    DeviceState,
    Evidence,
    Exit,
    FlightSample,
    Job,
    JobId,
    Lease,
    LeaseId,
    Outside,
    Ticket,
    Wanted,
    WorkerName,
)


class Event(Struct, frozen=True, kw_only=True, tag=True):
    """The root of all events."""


class Tick(Event, frozen=True, kw_only=True):
    """Time passed. lag_s: how much later than asked this one came, because the supervisor itself was held up."""

    wall_s: float
    lag_s: float = 0.0


class Adopted(Struct, frozen=True, kw_only=True):
    """A process that an earlier supervisor started, that still runs, and that is provably ours. age_s: since its start; device: the one that it was given."""

    worker: WorkerName
    generation: int
    pid: int
    age_s: float
    device: DeviceId | None = None


class SupervisorStarted(Event, frozen=True, kw_only=True):
    """The first event: what an earlier supervisor left in the store, and alive. wanted: the operator's last word on workers, where there was one."""

    wall_s: float
    jobs: tuple[Job, ...] = ()
    leases: tuple[Lease, ...] = ()
    adopted: tuple[Adopted, ...] = ()
    held: bool = False
    wanted: Mapping[WorkerName, Wanted] = field(default_factory=dict)
    tickets: Mapping[Ticket, float] = field(default_factory=dict)  # of programs that waited, each with its arrival in seconds since 1970


class OfWorker(Event, frozen=True, kw_only=True):
    """Something about one generation of a worker; an old generation's is dropped."""

    worker: WorkerName
    generation: int


class WorkerSpawned(OfWorker, frozen=True, kw_only=True):
    """The process runs its own program now."""

    pid: int


class SpawnFailed(OfWorker, frozen=True, kw_only=True):
    """There is no process, and this is why."""

    detail: str


class WorkerExited(OfWorker, frozen=True, kw_only=True):
    """The leader was reaped."""

    exit: Exit


class TreeGone(OfWorker, frozen=True, kw_only=True):
    """No process of that generation is left. swept: how many the leader had left behind; log_tail: what it wrote last; flight: its last minute."""

    swept: int = 0
    log_tail: tuple[str, ...] = ()
    flight: tuple[FlightSample, ...] = ()


class TreeStuck(OfWorker, frozen=True, kw_only=True):
    """Some processes of that generation do not die."""

    pids: tuple[int, ...]


class EvidenceGathered(OfWorker, frozen=True, kw_only=True):
    """What could be seen of a worker that is about to be killed."""

    evidence: Evidence


class HelloHeard(OfWorker, frozen=True, kw_only=True):
    """The process is up; its model is not loaded yet. jobs: what it already works on, each with its attempt, where it had another supervisor before."""

    jobs: tuple[tuple[JobId, int], ...] = ()


class ReadyHeard(OfWorker, frozen=True, kw_only=True):
    """The model is loaded."""

    note: str = ""


class ProgramSeen(OfWorker, frozen=True, kw_only=True):
    """A program without the SDK showed something: by sd_notify, by its output, or by a file that it writes.

    moved: progress; alive: a beat; extend_s: it asks for so much more time before it is judged.
    """

    ready: bool = False
    alive: bool = False
    moved: bool = False
    status: str = ""
    extend_s: float = 0.0


class NoteHeard(OfWorker, frozen=True, kw_only=True):
    """The worker says something for the log. reason: gpu_oom where it tells of a model that did not fit into the device."""

    level: str
    text: str
    reason: str = ""


class JobProgress(Struct, frozen=True, kw_only=True):
    """Where one job is."""

    job: JobId
    attempt: int
    phase: str = ""
    done: float = 0.0
    total: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    critical: str = ""
    extend_s: float = 0.0  # it asks for so much more time before it is judged
    resumable: bool = False  # it can be left at a checkpoint, and gone on with


class BeatHeard(OfWorker, frozen=True, kw_only=True):
    """The process lives, and its jobs are there."""

    jobs: tuple[JobProgress, ...] = ()
    device_bytes: int | None = None
    idle: Idle | None = None  # what it holds between two jobs


class JobAccepted(OfWorker, frozen=True, kw_only=True):
    """The work on a job begins. memory_bytes: what the worker reckons that its processes will have at the most; 0: it does not."""

    job: JobId
    attempt: int
    memory_bytes: int = 0


class JobFinished(OfWorker, frozen=True, kw_only=True):
    """A job has its result."""

    job: JobId
    attempt: int
    value: JSONValue = None


class JobEnded(OfWorker, frozen=True, kw_only=True):
    """A job's work ended without a result. reason is the worker's word; flight: its last minute, where it ended for want of memory.

    memory_bytes: of one that did not begin because it needs so much of the machine's memory.
    """

    job: JobId
    attempt: int
    reason: str
    memory_bytes: int = 0
    error: str = ""
    stack: str = ""
    flight: tuple[FlightSample, ...] = ()


class LevelMeasured(OfWorker, frozen=True, kw_only=True):
    """What a worker's tree holds just before a job's work begins (moment: before) or as its cancel is sent (moment: cancel)."""

    job: JobId
    moment: str
    used_bytes: int


class ReleaseMeasured(OfWorker, frozen=True, kw_only=True):
    """What a worker has of its device after a cancelled job's work ended, None where it cannot be read. proved: it is back at the level before the job."""

    job: JobId
    used_bytes: int | None
    proved: bool


class DeviceMeasured(Event, frozen=True, kw_only=True):
    """A device was read, or could not be (sample is None, error says why).

    state: what the failure says of the device; None for one that may be over with the next reading. watch: as it was ordered.
    """

    device: DeviceId
    sample: DeviceSample | None
    error: str = ""
    state: DeviceState | None = None
    watch: float | None = None


class DevicesFound(Event, frozen=True, kw_only=True):
    """Devices answer that did not before. instead_of: what stood for them meanwhile."""

    devices: tuple[Device, ...]
    instead_of: DeviceId


class DeviceFaulted(Event, frozen=True, kw_only=True):
    """A device's driver reports a fault by itself. xid: by the catalogue of its vendor."""

    device: DeviceId
    xid: int


class MemorySampled(Event, frozen=True, kw_only=True):
    """What the machine has available, of how much (0: not known), as it moved, passed one of the lines of [memory], or is near the emergency line.

    workers: the memory of their trees; grown: what that gained in the last second; fell_bytes: what the machine lost in it.
    """

    available_bytes: int
    total_bytes: int = 0
    workers: Mapping[WorkerName, int] = field(default_factory=dict)
    grown: Mapping[WorkerName, int] = field(default_factory=dict)
    fell_bytes: int = 0


class MemoryMeasured(MemorySampled, frozen=True, kw_only=True):
    """A look at every worker's tree, read exactly, and at the room on the state folder's disk (None: it cannot be read)."""

    disk_free_bytes: int | None = None


class OutsidersNamed(Event, frozen=True, kw_only=True):
    """Who has most memory on the machine that is not ours, in words."""

    names: tuple[str, ...]


class GuardKilled(Event, frozen=True, kw_only=True):
    """The guard has just killed a worker's process below the hard floor: what that has is on its way back."""

    worker: WorkerName
    generation: int
    available_bytes: int
    held_bytes: int


class GuardActed(Event, frozen=True, kw_only=True):
    """The guard ended a worker's process below the hard floor, and waited until it was gone."""

    worker: WorkerName
    generation: int
    available_bytes: int
    floor_bytes: int
    freed_bytes: int
    took_s: float


class Request(Event, frozen=True, kw_only=True):
    """A person or program asks; `request` is where the answer goes."""

    request: str


class JobSubmitted(Request, frozen=True, kw_only=True):
    """A new job, complete but for its place in the queue."""

    job: Job


class CancelRequested(Request, frozen=True, kw_only=True):
    """Somebody wants a job to end."""

    job: JobId


class PauseRequested(Request, frozen=True, kw_only=True):
    """Somebody wants a job to rest: at its next checkpoint, where its work has begun."""

    job: JobId


class ResumeRequested(Request, frozen=True, kw_only=True):
    """Somebody wants a paused job to go on."""

    job: JobId


class StartRequested(Request, frozen=True, kw_only=True):
    """Somebody wants a job that is held to stand in the queue."""

    job: JobId


class HoldChanged(Request, frozen=True, kw_only=True):
    """Somebody wants nothing new to be started, or things to go on."""

    held: bool


class WantedChanged(Request, frozen=True, kw_only=True):
    """The operator wants these workers up, down, or (restart) in a fresh process."""

    workers: tuple[WorkerName, ...]
    wanted: str
    restart: bool = False


class RecycleRequested(Request, frozen=True, kw_only=True):
    """The operator wants these workers in a fresh process, each at the next boundary of its work."""

    workers: tuple[WorkerName, ...]


class ShutdownRequested(Request, frozen=True, kw_only=True):
    """Warden itself should end. at_once: without waiting for work to be saved."""

    at_once: bool = False


class LockRequested(Request, frozen=True, kw_only=True):
    """A program outside Warden wants a device. device: None for the one that fits best; kin: its pid and those of its ancestors, where they are proved."""

    outside: Outside
    priority: int
    need_bytes: int
    timeout_s: float
    device: DeviceId | None = None
    kin: tuple[int, ...] = ()
    purpose: Purpose = "inference"
    keep_free_s: float = 0.0  # of a device that is to be empty: residents stay away for so long afterwards


class RenewRequested(Request, frozen=True, kw_only=True):
    """A program outside Warden says that it still uses its lease. ttl_s: within which it says so again; None: as before."""

    lease: LeaseId
    fence: int
    ttl_s: float | None = None


class UnlockRequested(Request, frozen=True, kw_only=True):
    """A program outside Warden gives its lease back."""

    lease: LeaseId
    fence: int


class ReleaseRequested(Request, frozen=True, kw_only=True):
    """An operator takes leases back: those that are stale, or every one. by: who; why: the reason that was given."""

    every: bool
    by: str
    why: str


class LockWithdrawn(Event, frozen=True, kw_only=True):
    """Nobody waits for the answer to a LockRequested any more."""

    ticket: Ticket


class OwnerGone(Event, frozen=True, kw_only=True):
    """The process of a program outside Warden, that holds a device or waits for one, is gone."""

    ticket: Ticket


class ConfigChanged(Event, frozen=True, kw_only=True):
    """supervisor.toml was read anew; these are the limits before. changed: the keys, for the log."""

    previous: Limits
    generation: int
    changed: tuple[str, ...] = ()


class JobStored(Event, frozen=True, kw_only=True):
    """A new job is on disk."""

    job: JobId


class SaveFailed(Event, frozen=True, kw_only=True):
    """A job could not be written to the store. refuse_to: the request that hears so; empty when the write is tried again."""

    job: JobId
    error: str
    refuse_to: str = ""


WorkerEvent = (
    WorkerSpawned
    | SpawnFailed
    | WorkerExited
    | TreeGone
    | TreeStuck
    | EvidenceGathered
    | HelloHeard
    | ReadyHeard
    | NoteHeard
    | ProgramSeen
    | BeatHeard
    | JobAccepted
    | JobFinished
    | JobEnded
    | LevelMeasured
    | ReleaseMeasured
)
FleetEvent = (
    Tick
    | SupervisorStarted
    | DeviceMeasured
    | DevicesFound
    | DeviceFaulted
    | MemorySampled
    | MemoryMeasured
    | OutsidersNamed
    | GuardKilled
    | GuardActed
    | JobSubmitted
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | StartRequested
    | HoldChanged
    | WantedChanged
    | RecycleRequested
    | ShutdownRequested
    | LockRequested
    | RenewRequested
    | UnlockRequested
    | ReleaseRequested
    | LockWithdrawn
    | OwnerGone
    | ConfigChanged
    | JobStored
    | SaveFailed
)
AnyEvent = WorkerEvent | FleetEvent
