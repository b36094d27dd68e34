"""The fleet: everything Warden knows in one frozen value. Instants (`_at_s`) are monotonic seconds, sizes are bytes."""

from collections.abc import Mapping

from msgspec import Struct, field

from supervisor.core.claims import Age, Outside, Purpose, Waiter
from supervisor.core.devices import Device, DeviceSample, Handover, Holding, Peak
from supervisor.core.growth import Idle, Leak
from supervisor.core.limits import JSONValue
from supervisor.core.memory_states import Brake, MemoryLooks
from supervisor.core.names import DeviceId, JobId, LeaseId, Ticket, Work, WorkerName
from supervisor.core.records import Evidence, Exit, Failure, FlightSample, Receipt
from supervisor.core.states import (
    AT_WORK,
    BRAKING,
    PLANNED,
    TERMINAL,
    WITH_PROCESS,
    Cause,
    DeviceState,
    JobStatus,
    LeaseState,
    Reason,
    Source,
    Wanted,
    WorkerState,
    Zone,
)

__all__ = [
    "AT_WORK",
    "BRAKING",
    "PLANNED",
    "TERMINAL",
    "WITH_PROCESS",
    "Brake",
    "Cause",
    "Device",
    "DeviceId",
    "DeviceSample",
    "DeviceState",
    "Evidence",
    "Exit",
    "Failure",
    "Fleet",
    "FlightSample",
    "Handover",
    "Holding",
    "Job",
    "JobId",
    "JobStatus",
    "Lease",
    "LeaseId",
    "LeaseState",
    "MemoryLooks",
    "Outside",
    "Peak",
    "Process",
    "Reason",
    "Receipt",
    "Source",
    "Stop",
    "Ticket",
    "Waiter",
    "Wanted",
    "Work",
    "Worker",
    "WorkerName",
    "WorkerState",
    "Zone",
]


class Stop(Struct, frozen=True, kw_only=True):
    """An order to leave that was given to a process, and how far down the ladder it is."""

    cause: Cause
    reason: str
    ordered_at_s: float
    job: JobId | None = None  # the job whose clock expired; the others of that worker are not to blame
    limit_s: float | None = None  # of the clock that expired
    section: bool = False  # a critical section of that job was waited for before the verdict
    brake: bool = False  # by the emergency brake
    term_at_s: float | None = None  # when SIGTERM was sent; None while drained or while evidence is gathered
    killed_at_s: float | None = None
    evidence: Evidence | None = None


class Process(Struct, frozen=True, kw_only=True):
    """The process in a worker's place now."""

    spawned_at_s: float
    pid: int | None = None
    hello_at_s: float | None = None
    ready_at_s: float | None = None
    beat_at_s: float | None = None
    shown_at_s: float | None = None  # the last progress of a program without the SDK
    extend_until_s: float = 0.0
    device_bytes: int | None = None
    moved: bool = False  # some job of this generation made progress
    adopted: bool = False  # an earlier supervisor started it
    fault: str = ""  # of its device, which it may have caused; empty again as soon as its work moves
    fault_at_s: float | None = None
    recycle_asked: bool = False  # by the operator: it is due now, whatever its age
    load_overdue: bool = False  # it has loaded for longer than gpu.load_timeout, and that was said
    memory: MemoryLooks = MemoryLooks()
    idle: tuple[Idle, ...] = ()  # what it held between its jobs, the newest last
    leak: Leak | None = None  # what these say now
    leaks_told: tuple[str, ...] = ()  # the kinds that were told already


class Worker(Struct, frozen=True, kw_only=True):
    """A named place for one model. It lives across restarts; a generation is the process now in it."""

    name: WorkerName
    model: str
    state: WorkerState = WorkerState.DOWN
    wanted: Wanted = Wanted.UP
    since_s: float = 0.0
    generation: int = 0
    process: Process | None = None
    jobs: tuple[JobId, ...] = ()
    stop: Stop | None = None
    exit: Exit | None = None
    failures: int = 0  # in a row, without progress between
    retry_at_s: float = 0.0
    restarts: Mapping[str, int] = field(default_factory=dict)  # spawns after an end, by the cause of that end
    ended_by: Cause | None = None  # the cause of the last end, until the next spawn counts it
    last_reason: str = ""
    note: str = ""  # what it said as it got ready
    retired: bool = False  # the configuration no longer names it
    last_error: str = ""  # the last error that it told of by itself
    memory_bytes: int | None = None

    def ends_by_fault_of(self, job: JobId) -> bool:
        """Return True when it is being stopped for something that this job is to blame for, whatever it may still say about the job."""
        return self.stop is not None and self.stop.cause not in PLANNED and self.stop.job in {None, job}

    @property
    def idle(self) -> bool:
        """True when it could leave without any work being lost."""
        return not self.jobs and self.state in (WorkerState.STARTING, WorkerState.READY)


class Job(Struct, frozen=True, kw_only=True):
    """A unit of work from the queue. `_wall` are seconds since 1970 for people; they are never compared with instants."""

    id: JobId
    kind: str
    params: JSONValue = None
    status: JobStatus = JobStatus.QUEUED
    reason: Reason = Reason.NONE
    message: str = ""
    last_end: str = ""  # why the attempt before this one has no result
    priority: int = 10
    attempt: int = 0
    max_attempts: int = 1
    worker: WorkerName | None = None
    device: DeviceId | None = None
    only_on: DeviceId | None = None  # it wants this device, and no other
    phase: str = ""
    done: float = 0.0
    total: float = 0.0
    reached: float = 0.0  # percent: the most that was shown since this attempt's first progress, for a bar never goes back
    paced_from: tuple[float, float] | None = None  # (instant, done) of the first progress of this attempt by this total
    metrics: Mapping[str, float] = field(default_factory=dict)
    phases: tuple[str, ...] = ()  # of the work so far, each once: epochs and validations take turns
    critical: str = ""
    tries: Mapping[str, int] = field(default_factory=dict)
    created_wall: float = 0.0
    started_wall: float | None = None
    completed_wall: float | None = None
    result: JSONValue = None
    error: Failure | None = None
    receipt: Receipt | None = None
    retry_of: JobId | None = None
    run_at_wall: float | None = None  # not before that
    schedule: str = ""  # which one made it
    held: bool = False  # waits until somebody starts it
    idempotency_key: str = ""
    fingerprint: str = ""  # of what was asked for under that key
    retry_at_s: float = 0.0  # after a failure, not before that
    queued_at_s: float = 0.0
    given_at_s: float | None = None  # to a worker
    waited_s: float = 0.0  # before queued_at_s: part of its age, though not of its place among those that are as urgent
    ran_s: float = 0.0  # since queued_at_s: no part of how long it has waited
    resumable: bool = False  # what it does can be left at a checkpoint, and gone on with
    gave_way: str = ""  # to this job or ticket, and stands behind it in the line
    sent_at_s: float | None = None
    begun_at_s: float | None = None
    progress_at_s: float | None = None
    cancel_at_s: float | None = None
    extend_until_s: float = 0.0
    level_bytes: int | None = None  # what its worker held just before the work began
    peak_bytes: int | None = None  # what its worker held when the cancel came
    flight: tuple[FlightSample, ...] = ()  # the last minute of the worker that ended under it
    memory_bytes: int = 0  # of the machine's: what its worker's processes are taken to have at the most while it runs; 0: nobody knows
    memory_from: Source = Source.NONE
    memory_peak_bytes: int = 0  # what they were seen to have

    @property
    def live(self) -> bool:
        """True until the job is in a state that never changes."""
        return self.status not in TERMINAL

    @property
    def failures(self) -> int:
        """How many attempts failed: what max_attempts bounds. A planned return begins an attempt as well, and costs nothing."""
        return sum(self.tries.values())

    @property
    def progress(self) -> float:
        """Percent, 0 to 100; 100 only together with completed."""
        if self.status is JobStatus.COMPLETED:
            return 100.0
        return max(self.reached, min(99.0, 100.0 * self.done / self.total)) if self.total > 0 else self.reached


class Lease(Struct, frozen=True, kw_only=True):
    """A right to a device: of a worker, for as long as the process that it was granted for, or of a program outside Warden. One of the two is there."""

    id: LeaseId
    device: DeviceId
    worker: WorkerName | None = None
    outside: Outside | None = None
    need_bytes: int
    priority: int
    state: LeaseState
    since_s: float
    fence: int = 0
    expires_at_s: float | None = None  # of an outside program that renews
    purpose: Purpose = "inference"  # load: nobody else loads on the device meanwhile; it says nothing about whose the device is
    until_s: float | None = None  # it is over then, renewed or not
    ended: str = ""  # why an outside program has it no more, while its memory cools
    waited_s: float = 0.0  # of an outside program: how long it had waited for it
    wanted_by: str = ""  # the job or the ticket for which whoever has it should give way, and was told so
    overheld: bool = False  # an outside program has had it for longer than gpu.max_hold, and somebody waits
    idle_since_s: float | None = None  # an outside program has used nothing of the device since then; None: it does, or nobody can tell
    idle_said: bool = False  # and it was named

    @property
    def owner(self) -> str:
        """Return the name of whoever has it."""
        return self.worker or (self.outside.name if self.outside else "")

    @property
    def ends_at_s(self) -> float | None:
        """Return when it ends unless it is renewed; None for one that does not."""
        return min((at_s for at_s in (self.expires_at_s, self.until_s) if at_s is not None), default=None)


class Fleet(Struct, frozen=True, kw_only=True):
    """The whole snapshot. Live jobs only; ended ones are in the store."""

    workers: Mapping[WorkerName, Worker] = field(default_factory=dict)
    jobs: Mapping[JobId, Job] = field(default_factory=dict)
    arriving: Mapping[JobId, Job] = field(default_factory=dict)  # submitted, and not on disk yet: nobody works on them
    leases: Mapping[LeaseId, Lease] = field(default_factory=dict)
    devices: Mapping[DeviceId, Device] = field(default_factory=dict)
    waiters: Mapping[Ticket, Waiter] = field(default_factory=dict)  # programs outside Warden that wait for a device
    tickets: Mapping[Ticket, Age] = field(default_factory=dict)  # of those that went away, the oldest first
    peaks: Mapping[Work, Peak] = field(default_factory=dict)  # what each kind of work is known to take, what was learned last at the end
    fence: int = 0  # the last one given out; they only rise
    serial: int = 0  # numbers leases
    forgotten: Mapping[WorkerName, int] = field(default_factory=dict)  # the last generation of workers that were taken out: none is ever used twice
    dropped: int = 0  # messages of an old generation or attempt
    stopping_since_s: float | None = None
    stopping_now: bool = False
    wall_offset_s: float = 0.0  # wall clock minus monotonic, refreshed by every tick
    held: bool = False  # nothing new is started
    available_bytes: int | None = None
    memory_bytes: int = 0  # all that the machine has, or that its cgroup lets it have; 0: not known
    zone: Zone = Zone.OK
    low_said_at_s: float = float("-inf")
    brakes: Mapping[WorkerName, Brake] = field(default_factory=dict)  # the ends under way that the emergency brake ordered
    outsiders_named_at_s: float = float("-inf")
    disk_free_bytes: int | None = None
    disk_low: bool = False  # and it was said
    health_said_at_s: float = float("-inf")

    @property
    def last_number(self) -> int:
        """Return the highest number that a fence or a lease was given: the next supervisor counts on from there, so that none is ever used twice."""
        return max(self.fence, self.serial)

    def lease_of(self, worker: WorkerName) -> Lease | None:
        """Return the worker's lease in whatever state, or None."""
        for lease in self.leases.values():
            if lease.worker == worker:
                return lease
        return None
