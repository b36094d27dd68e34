"""What can be done about it. The runtime performs actions; each that can fail comes back as an event."""

from collections.abc import Mapping

from msgspec import Struct, field

from supervisor.core.limits import JSONValue
from supervisor.core.model import DeviceId, Fleet, Job, JobId, Lease, LeaseId, Outside, Ticket, Wanted, WorkerName


class Action(Struct, frozen=True, kw_only=True, tag=True):
    """The root of all actions."""


class ForWorker(Action, frozen=True, kw_only=True):
    """Something done to one generation of a worker."""

    worker: WorkerName
    generation: int


class Spawn(ForWorker, frozen=True, kw_only=True):
    """Start the process. Comes back as WorkerSpawned or SpawnFailed, later as WorkerExited."""

    device: DeviceId | None = None


class Terminate(ForWorker, frozen=True, kw_only=True):
    """SIGTERM, or the signal that the operator named, then SIGCONT, to the whole group."""

    signal: str = "TERM"


class Kill(ForWorker, frozen=True, kw_only=True):
    """SIGKILL to the whole tree."""


class ProveGone(ForWorker, frozen=True, kw_only=True):
    """End what the leader left behind and prove that nothing is left. Comes back as TreeGone or TreeStuck."""

    within_s: float


class GatherEvidence(ForWorker, frozen=True, kw_only=True):
    """See what a worker is stuck in. Comes back as EvidenceGathered within three seconds."""


class SendDrain(ForWorker, frozen=True, kw_only=True):
    """Ask to finish what is at hand and leave; with boundary, to leave at the next checkpoint already, for the work goes on in another process."""

    boundary: bool = False


class SendWelcome(ForWorker, frozen=True, kw_only=True):
    """Answer a hello."""


class SendResync(ForWorker, frozen=True, kw_only=True):
    """Ask a worker that was taken back to say where it is."""


class SendJob(ForWorker, frozen=True, kw_only=True):
    """Measure the worker's level (LevelMeasured), then hand it the job.

    memory_room_bytes: by how much the worker may grow for it; None: it need not reckon what it needs.
    """

    job: JobId
    attempt: int
    kind: str
    params: JSONValue
    memory_room_bytes: int | None = None


class SendCancel(ForWorker, frozen=True, kw_only=True):
    """Measure what the worker holds (LevelMeasured), and ask it to stop working on the job."""

    job: JobId
    attempt: int


class SendPause(ForWorker, frozen=True, kw_only=True):
    """Ask the worker to leave the job right after its next checkpoint."""

    job: JobId
    attempt: int


class SendResume(ForWorker, frozen=True, kw_only=True):
    """Take a pause back that the worker may not have obeyed yet."""

    job: JobId
    attempt: int


class SendBrake(ForWorker, frozen=True, kw_only=True):
    """Tell the worker that memory runs out: the job is to end before its next step."""

    job: JobId
    attempt: int
    why: str


class SendStored(ForWorker, frozen=True, kw_only=True):
    """Tell the worker that its report (accepted, result or failed) is on disk.

    It must not be sent while a write of that job is under way: a report that came twice is answered at once, and the answer to the first may still wait
    for a disk that fails. It is left out then; the worker reports again.
    """

    job: JobId
    attempt: int
    what: str


class MeasureRelease(ForWorker, frozen=True, kw_only=True):
    """Read the worker's tree until it is back at the level, or not in time. Comes back as ReleaseMeasured."""

    job: JobId
    at_most_bytes: int


class MeasureDevice(Action, frozen=True, kw_only=True):
    """Read the device after a pause. Comes back as DeviceMeasured.

    watch: which one of the core's looks this is; it is read again and again meanwhile, and comes back as soon as more is free, or fewer use it. None: once.
    """

    device: DeviceId
    after_s: float = 0.0
    watch: float | None = None


class MeasureMemory(Action, frozen=True, kw_only=True):
    """Read every worker's tree. Comes back as MemoryMeasured."""


class NameOutsiders(Action, frozen=True, kw_only=True):
    """See which processes that are not ours have most memory. Comes back as OutsidersNamed."""


class SaveJob(Action, frozen=True, kw_only=True):
    """Write the job; once it is on disk, do what waits for that. Comes back as SaveFailed each time that it cannot."""

    job: Job
    then: tuple["AnyAction", ...] = ()
    refuse_to: str = ""  # a request that is refused when the write fails; without one the write is tried again until it succeeds


class Admit(Action, frozen=True, kw_only=True):
    """A new job is on disk. Comes back as JobStored."""

    job: JobId


class SaveMark(Action, frozen=True, kw_only=True):
    """Remember a small thing over restarts; then do what waits for that. A failure to write it is a refusal of the request."""

    name: str
    value: str
    request: str
    then: tuple["AnyAction", ...] = ()


class SaveWanted(Action, frozen=True, kw_only=True):
    """Write down where the operator wants these workers, None for one that goes by its configuration again; then answer the request, if there is one."""

    words: Mapping[WorkerName, Wanted | None]
    request: str = ""


class SaveLeases(Action, frozen=True, kw_only=True):
    """Do what waits for the leases, as they are now, to be on disk."""

    then: tuple["AnyAction", ...]


class WatchOwner(Action, frozen=True, kw_only=True):
    """Watch the process of a program outside Warden. Comes back as OwnerGone, at once where it is gone already."""

    outside: Outside


class ForgetOwner(Action, frozen=True, kw_only=True):
    """Watch it no more."""

    ticket: Ticket


class Reply(Action, frozen=True, kw_only=True):
    """Answer a request: with what it asked for, or with a refusal (error is a code, message the sentence)."""

    request: str
    job: JobId | None = None
    lease: LeaseId | None = None
    released: tuple[Lease, ...] = ()  # as they were
    error: str = ""
    message: str = ""


class Announce(Action, frozen=True, kw_only=True):
    """Say what became true, in the logs and to whoever listens. The event names and levels are in `announcements`."""

    event: str
    worker: WorkerName | None = None
    job: JobId | None = None
    reason: str = ""
    fields: Mapping[str, JSONValue] = field(default_factory=dict)


class Publish(Action, frozen=True, kw_only=True):
    """Tell whoever watches a job that it moved. Not a line in the logs."""

    job: Job


class WakeAt(Action, frozen=True, kw_only=True):
    """Tick at this instant: something falls due before the next regular tick."""

    at_s: float


class Leave(Action, frozen=True, kw_only=True):
    """End the supervisor: nothing of ours is left."""


AnyAction = (
    Spawn
    | Terminate
    | Kill
    | ProveGone
    | GatherEvidence
    | SendDrain
    | SendWelcome
    | SendResync
    | SendJob
    | SendCancel
    | SendPause
    | SendResume
    | SendBrake
    | SendStored
    | MeasureRelease
    | MeasureDevice
    | MeasureMemory
    | NameOutsiders
    | SaveJob
    | Admit
    | SaveMark
    | SaveWanted
    | SaveLeases
    | WatchOwner
    | ForgetOwner
    | Reply
    | Announce
    | Publish
    | WakeAt
    | Leave
)


class Decision(Struct, frozen=True):
    """The fleet after an event, and what to do."""

    fleet: Fleet
    actions: tuple[AnyAction, ...] = ()
