"""The shapes of what people and programs read of the supervisor: the same for `--json` and HTTP. Instants are ISO 8601 UTC, durations seconds."""

from typing import Any

from msgspec import Struct, field

JSONValue = Any


class ClockView(Struct, frozen=True, kw_only=True):
    """One deadline that runs against a worker."""

    clock: str
    armed_for_s: float
    limit_s: float


class LeakView(Struct, frozen=True, kw_only=True):
    """By what a worker's memory between its jobs grows, or what of it is given back each time (harmless). per_job_bytes: 0 where it does not grow."""

    kind: str
    per_job_bytes: int
    jobs: int
    sentence: str
    harmless: bool


class WorkerView(Struct, frozen=True, kw_only=True):
    """One worker."""

    name: str
    state: str
    wanted: str
    pid: int | None
    generation: int
    model: str
    jobs: list[str]
    since_s: float
    age_s: float | None
    silent_s: float | None
    still_s: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    device_bytes: int | None
    restarts: dict[str, int]
    last_reason: str
    note: str
    next_action: str
    clocks: list[ClockView]
    leak: LeakView | None = None


class PeakView(Struct, frozen=True, kw_only=True):
    """What some work was seen to use of a device at most, and whether that is more than its worker declares."""

    work: str
    peak_bytes: int
    over: bool


class HolderView(Struct, frozen=True, kw_only=True):
    """Who has a right to a device. need_bytes: as declared; booked_bytes: what is kept for it; peak_bytes: the most of `peaks`, those seen of its work."""

    lease: str
    owner: str
    kind: str
    pid: int | None
    priority: int
    need_bytes: int
    used_bytes: int | None
    state: str
    since_s: float
    fence: int
    expires_in_s: float | None = None  # of a program outside Warden that renews; below zero: it should have
    booked_bytes: int | None = None
    peak_bytes: int | None = None
    peaks: list[PeakView] = []
    idle_s: float | None = None  # so long a program outside Warden has used nothing of the device; None: it does, or nobody can tell
    wanted_by: str = ""  # for whom it should give way: a worker does so at its next checkpoint, a program decides itself


class WaiterView(Struct, frozen=True, kw_only=True):
    """Who waits for a device."""

    owner: str
    job: str | None
    priority: int
    aged_priority: int
    waited_s: float
    need_bytes: int
    waits_for: str
    kind: str = "worker"  # outside: a program that Warden did not start
    pid: int | None = None
    ticket: str | None = None


class LockView(Struct, frozen=True, kw_only=True):
    """A device for a program outside Warden, or who is in the way. ticket: keeps its age when it asks again; env: what makes it see that device alone.

    yield_wanted: somebody waits to whom it should give the device soon, because that one is more urgent or has waited for long; wanted_by: who that is.
    """

    granted: bool
    ticket: str
    lease: str | None = None
    fence: int | None = None
    device: str | None = None
    expires_in_s: float | None = None
    env: dict[str, str] = {}
    yield_wanted: bool = False
    wanted_by: str = ""
    reason: str = ""
    message: str = ""
    holders: list[HolderView] = []


class ReleasedView(Struct, frozen=True, kw_only=True):
    """A lease that was taken back, as it was: fence is refused from now on."""

    lease: str
    owner: str
    kind: str
    pid: int | None
    device: str
    state: str
    fence: int


class ReleaseView(Struct, frozen=True, kw_only=True):
    """What was taken back. Nobody else gets a device before its memory was measured."""

    released: list[ReleasedView]
    message: str


class VacateView(Struct, frozen=True, kw_only=True):
    """Whether a device is empty. freed_bytes: more is free than before by so much; kept_free_s: so long residents stay away unless somebody waits for them."""

    success: bool
    message: str
    freed_bytes: int
    holders: list[HolderView]
    device: str | None = None
    kept_free_s: float = 0.0


class HandoverView(Struct, frozen=True, kw_only=True):
    """How a device went from one holder to the next; each step in seconds since the order, None while it is not done."""

    to: str
    job: str | None
    leaving: list[str]
    need_bytes: int
    ago_s: float
    exit_s: float | None
    gone_s: float | None
    back_s: float | None
    proof_s: float | None
    spawned_s: float | None
    polls: int


class StrangerView(Struct, frozen=True, kw_only=True):
    """A process on a device that is none of our workers'. name: empty, and used_bytes: None, where they cannot be read."""

    pid: int
    name: str
    used_bytes: int | None
    intruder: bool = False  # the device is somebody's, or is to be, and it has no lease: the device is contaminated


class LoadingView(Struct, frozen=True, kw_only=True):
    """Who loads a model on a device: nobody else begins to before it is done, or left_s is over. lease, fence: of a program that asked for just that."""

    owner: str
    kind: str
    pid: int | None
    for_s: float
    left_s: float
    lease: str | None = None
    fence: int | None = None


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device."""

    id: str
    name: str
    backend: str
    state: str
    proof: str
    trouble: str
    total_bytes: int
    used_bytes: int | None
    free_bytes: int | None
    holders: list[HolderView]
    waiters: list[WaiterView]
    handover: HandoverView | None
    last_handover: HandoverView | None
    strangers: list[StrangerView] = field(default_factory=list)  # who uses it and is none of our workers
    xids: dict[str, int] = field(default_factory=dict)  # how often its driver reported which fault
    loading: LoadingView | None = None
    unwell: list[str] = field(default_factory=list)  # what is not as it should be, one sentence each
    kept_free_s: float | None = None  # so long residents stay away from it by themselves; None: they do not


class SupervisorView(Struct, frozen=True, kw_only=True):
    """The supervisor itself."""

    pid: int
    version: str
    uptime_s: float
    config: str
    state_dir: str
    log_dir: str
    loop_lag_ms: float
    pss_bytes: int | None
    dropped_messages: int
    stopping: bool
    config_generation: int
    config_error: str
    health_every_s: float = 60.0
    log_level: str = "info"
    vacate_timeout_s: float = 120.0  # how long a hand-over may take
    lock_timeout_s: float = 120.0  # how long a program waits for a device that names no time
    api: str = ""  # where HTTP is served, such as http://127.0.0.1:8650; empty when it is off


class MemoryView(Struct, frozen=True, kw_only=True):
    """The machine's memory, and the room on the disk of the state folder. Below disk_floor_bytes of it no job is taken.

    zone: ok, warn, emergency or floor, by the three lines, as they count on this machine (0: no such line). total_bytes: None before the first reading.
    promised_bytes: what jobs at work are taken to need beyond what their workers have already.
    """

    available_bytes: int | None
    total_bytes: int | None = None
    zone: str = "ok"
    warn_below_bytes: int = 0
    emergency_below_bytes: int = 0
    hard_floor_bytes: int = 0
    promised_bytes: int = 0
    disk_free_bytes: int | None = None
    disk_floor_bytes: int = 2**30


class Intervention(Struct, frozen=True, kw_only=True):
    """Something that Warden did, and why."""

    at: str
    event: str
    worker: str | None
    job: str | None
    reason: str


class StatusView(Struct, frozen=True, kw_only=True):
    """Everything on one screen. unwell: what `warden health` complains of; empty when all is well."""

    supervisor: SupervisorView
    workers: list[WorkerView]
    devices: list[DeviceView]
    memory: MemoryView
    jobs: dict[str, int]
    interventions: list[Intervention]
    unwell: list[str]
    held: bool = False


class DumpView(Struct, frozen=True, kw_only=True):
    """What can be seen of one live worker. stack: as its process wrote them into its log; empty where the process cannot."""

    worker: str
    pid: int | None
    generation: int
    state: str
    jobs: list[str]
    process: str
    stack: str
    log_tail: list[str]
    log: str


class ErrorView(Struct, frozen=True, kw_only=True):
    """Why a job has no result."""

    reason: str
    message: str
    evidence: str
    phase: str
    stack: str
    log_tail: list[str]


class CancelView(Struct, frozen=True, kw_only=True):
    """What a cancel gave back, measured."""

    freed_bytes: int
    took_s: float


class JobView(Struct, frozen=True, kw_only=True):
    """One job."""

    id: str
    kind: str
    params: JSONValue
    status: str
    phase: str
    reason: str
    message: str
    priority: int
    attempt: int
    max_attempts: int
    progress: float
    done: float
    total: float
    metrics: dict[str, float]
    eta_s: float | None
    worker: str | None
    device: str | None
    position: int | None
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    dir: str
    run_at: str | None = None
    schedule: str | None = None
    result: JSONValue = None
    error: ErrorView | None = None
    cancel: CancelView | None = None
    retry_of: str | None = None
    last_end: str = ""  # why the attempt before this one has no result; empty in the first
    failures: int = 0  # attempts that failed; max_attempts bounds them
    only_on: str | None = None  # the device that it wants, and no other
    memory_bytes: int | None = None  # of the machine's: what its worker's processes are taken to have at the most while it runs; None: nobody knows
    memory_from: str = ""  # who says so: declared (at submit), computed (by its worker, from its input), observed (such work before)
    memory_peak_bytes: int | None = None  # what they were seen to have


class JobsPage(Struct, frozen=True, kw_only=True):
    """Some jobs, the newest first. next: the cursor of the page after this one, empty at the end."""

    jobs: list[JobView]
    next: str = ""


class LiveView(Struct, frozen=True, kw_only=True):
    """How many jobs of one kind are in one status before their end."""

    kind: str
    status: str
    count: int


class MemoryWaitView(Struct, frozen=True, kw_only=True):
    """What of the machine's memory a job waits for. more_bytes: of its need, what its worker has not got already; back_bytes: given back by who leaves for it.

    It may begin once available and back are as much as more, warn_below, promised (to jobs at work that have not grown to their size yet) and kept (for those
    before it that have waited for too long) together; missing_bytes is the difference.
    """

    need_bytes: int
    memory_from: str
    more_bytes: int
    available_bytes: int
    back_bytes: int
    warn_below_bytes: int
    promised_bytes: int
    kept_bytes: int
    missing_bytes: int


class WaitView(Struct, frozen=True, kw_only=True):
    """What a job waits for, in numbers; what is unknown is None."""

    reason: str
    position: int | None
    queued: int
    priority: int
    aged_priority: int
    waited_s: float
    device: str | None = None
    need_bytes: int | None = None
    free_bytes: int | None = None
    holders: list[HolderView] = []
    until: str | None = None  # ISO 8601: when it is due, where a time is all that it waits for
    memory: MemoryWaitView | None = None  # where it waits for the machine's memory


class FlightView(Struct, frozen=True, kw_only=True):
    """One second of the worker that ended under a job. rss_bytes: of its leader; pss_bytes: of its tree, and available_bytes: of the machine, as last read."""

    at: str
    rss_bytes: int
    pss_bytes: int | None
    available_bytes: int | None
    device_bytes: int | None
    job: str
    phase: str
    done: float
    total: float


class WhyView(Struct, frozen=True, kw_only=True):
    """Why a job is where it is. sentences: the whole story for people, the same on every screen; the rest is for programs. flight: its worker's last minute."""

    job: str
    kind: str
    status: str
    reason: str
    sentences: list[str]
    you_can: list[str]
    wait: WaitView | None = None
    error: ErrorView | None = None
    flight: list[FlightView] = field(default_factory=list)


class EventView(Struct, frozen=True, kw_only=True):
    """Something that happened. seq rises by one from event to event and is never used twice, also over restarts.

    data of an event about a job holds at least status, phase, progress, done, total, eta_s, metrics, attempt, reason and message.
    """

    seq: int
    at: str
    event: str
    worker: str | None = None
    job: str | None = None
    reason: str = ""
    data: dict[str, JSONValue] = {}


class EventsPage(Struct, frozen=True, kw_only=True):
    """The events after a place. first: the oldest that is kept; last: the newest, of whatever job; where none is kept both are the last ever used."""

    events: list[EventView]
    first: int
    last: int


class KindView(Struct, frozen=True, kw_only=True):
    """A kind of job: who serves it, and what its parameters must look like (JSON Schema), as its worker said when it last started; None before that."""

    kind: str
    worker: str
    params: JSONValue = None


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule of supervisor.toml."""

    name: str
    cron: str
    kind: str
    next_at: str | None
    last_at: str | None
    last_job: str | None


class HoldView(Struct, frozen=True, kw_only=True):
    """Whether the queue is held: nothing new is started then."""

    held: bool
