"""Every limit an operator can set, with its default, as plain numbers whose unit is in the name.

A field `stall_after_s` is the key `stall_after = "10m"` of supervisor.toml, `margin_bytes` is `margin = "256MiB"`; `config.py` derives one from the other,
so a default is written here and nowhere else. Rules between fields stand beside the fields, in `conflicts`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30

JSONValue = Any
"""What TOML and JSON can hold. Opaque to the core: it is carried, never looked into."""


class SupervisorLimits(Struct, frozen=True, kw_only=True):
    """[supervisor]: where things lie, and how the service itself behaves."""

    state_dir: str = "var"
    log_dir: str = "logs"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_max_bytes: int = 50 * MIB
    log_keep: int = 5
    health_every_s: float = 60.0
    shutdown_grace_s: float = 60.0
    on_crash: Literal["adopt", "kill"] = "adopt"
    orphan_after_s: float = 300.0
    disk_floor_bytes: int = GIB


class ApiLimits(Struct, frozen=True, kw_only=True):
    """[api]: the HTTP front, a child of its own."""

    bind: str = "127.0.0.1:8650"
    socket: str = ""
    token_file: str = ""
    max_upload_bytes: int = 2 * GIB
    allowed_roots: tuple[str, ...] = ()


class Watchdog(Struct, frozen=True, kw_only=True):
    """[watchdog]: when a worker is judged, and how it is restarted. Each key may be set for one worker too."""

    start_timeout_s: float = 300.0
    silent_after_s: float = 60.0
    stall_after_s: float = 600.0
    stop_grace_s: float = 30.0
    unkillable_after_s: float = 10.0
    critical_max_s: float = 30.0
    recycle_after_s: float = 3600.0
    recycle_wait_s: float = 1800.0
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    healthy_after_s: float = 600.0
    quarantine_after: int = 10


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """[memory]: how often the memory of each worker's tree is read."""

    look_every_s: float = 10.0


class GpuLimits(Struct, frozen=True, kw_only=True):
    """[gpu]: which device there is, and what a hand-over must prove."""

    backend: Literal["auto", "host", "none"] = "auto"
    host_budget_bytes: int = 16 * GIB
    sharing: Literal["exclusive"] = "exclusive"
    margin_bytes: int = 256 * MIB
    vacate_timeout_s: float = 120.0
    poll_max_s: float = 5.0


class Retries(Struct, frozen=True, kw_only=True):
    """How often a job is tried again, per cause."""

    crash: int = 2
    memory: int = 1
    lost: int = 2
    stall: int = 0
    user_error: int = 0

    def for_cause(self, cause: str) -> int:
        """Return the budget of one cause; a cause nobody gave a budget has none."""
        return int(getattr(self, cause, 0))

    def total(self) -> int:
        """Return how many retries all causes together allow."""
        return self.crash + self.memory + self.lost + self.stall + self.user_error


class JobLimits(Struct, frozen=True, kw_only=True):
    """[jobs]: how many at once, how many waiting, how they age and are retried."""

    backend: Literal["memory", "sqlite"] = "sqlite"
    max_running: int = 2
    max_queued: int = 1000
    age_step_s: float = 60.0
    keep_finished_s: float = 3600.0
    retries: Retries = field(default_factory=Retries)


class NotifyLimits(Struct, frozen=True, kw_only=True):
    """[notify]: what is run when a person is needed."""

    command: tuple[str, ...] = ()


class ScheduleSpec(Struct, frozen=True, kw_only=True):
    """[schedules.NAME]: a job that is submitted by the clock. Times of the cron line are local ones."""

    cron: str
    kind: str
    params: Mapping[str, JSONValue] = field(default_factory=dict)
    priority: int | None = None
    overlap: Literal["skip", "queue"] = "skip"  # while the one before still waits or runs
    catch_up: Literal["one", "none"] = "one"  # after a time in which nobody ran it


class WorkerSpec(Struct, frozen=True, kw_only=True):
    """[workers.NAME]: one model, or one program to be kept running."""

    command: tuple[str, ...]
    serves: tuple[str, ...] = ()
    gpu_bytes: int = 0
    priority: int = 10
    resident: bool = True
    replicas: int = 1
    autostart: bool = True
    concurrency: int = 1
    progress: str = "sdk"  # sdk, notify, output, none, or file:PATH
    options: Mapping[str, JSONValue] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "{state_dir}"
    user: str = ""
    umask: str = "0077"
    stop_signal: str = "TERM"
    oom_score_adj: int = 500
    after: tuple[str, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)  # seconds; stands for stall_after while a job is in that phase
    watchdog: Watchdog = field(default_factory=Watchdog)


class Limits(Struct, frozen=True, kw_only=True):
    """The whole configuration, as the core sees it."""

    supervisor: SupervisorLimits = field(default_factory=SupervisorLimits)
    watchdog: Watchdog = field(default_factory=Watchdog)
    memory: MemoryLimits = field(default_factory=MemoryLimits)
    gpu: GpuLimits = field(default_factory=GpuLimits)
    jobs: JobLimits = field(default_factory=JobLimits)
    notify: NotifyLimits = field(default_factory=NotifyLimits)
    api: ApiLimits = field(default_factory=ApiLimits)
    schedules: Mapping[str, ScheduleSpec] = field(default_factory=dict)
    workers: Mapping[str, WorkerSpec] = field(default_factory=dict)

    def model_for(self, kind: str) -> str | None:
        """Return the model that serves jobs of this kind, or None."""
        for name, spec in self.workers.items():
            if kind in spec.serves:
                return name
        return None


class Conflict(Struct, frozen=True):
    """One broken rule between fields: where (table and field), and the sentence."""

    table: str
    field: str
    sentence: str


def conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield each rule between fields that these limits break. Values are refused, never clamped."""
    yield from _range_conflicts(limits)
    longest = max((spec.watchdog.stop_grace_s for spec in limits.workers.values()), default=limits.watchdog.stop_grace_s)
    if limits.supervisor.shutdown_grace_s < longest:
        yield Conflict("supervisor", "shutdown_grace_s", f"must not be under the longest stop_grace, {longest:g} s")
    if limits.gpu.margin_bytes >= limits.gpu.host_budget_bytes:
        yield Conflict("gpu", "margin_bytes", "must be below gpu.host_budget")
    served: dict[str, str] = {}
    for name, spec in limits.workers.items():
        table = f"workers.{name}"
        if limits.gpu.backend != "none" and spec.gpu_bytes and spec.gpu_bytes + limits.gpu.margin_bytes > limits.gpu.host_budget_bytes:
            yield Conflict(table, "gpu_bytes", "plus gpu.margin is more than gpu.host_budget, so it could never be granted")
        if limits.gpu.backend == "none" and spec.gpu_bytes:
            yield Conflict(table, "gpu_bytes", 'asks for a device, but gpu.backend is "none"')
        yield from _spec_conflicts(table, spec, limits)
        if spec.serves and spec.progress != "sdk":
            yield Conflict(table, "progress", 'must be "sdk" for a worker that serves jobs: they reach it through the SDK')
        for kind in spec.serves:
            if kind in served:
                yield Conflict(table, "serves", f'"{kind}" is served by workers.{served[kind]} already')
            served[kind] = name


STOP_SIGNALS: Final = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")


def _spec_conflicts(table: str, spec: WorkerSpec, limits: Limits) -> Iterator[Conflict]:
    """Yield the broken rules of one worker's table that look at other tables, or at words that only some programs know."""
    if spec.stop_signal not in STOP_SIGNALS:
        yield Conflict(table, "stop_signal", f"must be one of {', '.join(STOP_SIGNALS)}")
    if spec.stop_signal != "TERM" and spec.progress == "sdk":
        yield Conflict(table, "stop_signal", 'must be "TERM" for a worker of the SDK: that is what it saves its work by')
    if spec.user and spec.progress in ("sdk", "notify"):
        yield Conflict(
            table, "user", 'is for programs with progress "none", "output" or "file:": the sockets lie in a folder that is private to Warden\'s own user'
        )
    for name in spec.after:
        first = limits.workers.get(name)
        if first is None:
            yield Conflict(table, "after", f'"{name}" is no [workers.{name}]')
        elif first.serves and not first.resident:
            yield Conflict(table, "after", f'"{name}" is not resident, so it is ready only while it has work')
        elif first.gpu_bytes and spec.gpu_bytes:
            yield Conflict(table, "after", f'"{name}" needs the device as well, and one of them has to leave it for the other')
    if table.removeprefix("workers.") in _before(spec, limits):
        yield Conflict(table, "after", "goes round in a circle: it would wait for itself")


def _before(spec: WorkerSpec, limits: Limits) -> set[str]:
    """Return every worker that must be ready before this one, directly or not."""
    found: set[str] = set()
    open_names = list(spec.after)
    while open_names:
        name = open_names.pop()
        if name in limits.workers and name not in found:
            found.add(name)
            open_names += limits.workers[name].after
    return found


_AT_LEAST_ONE: Final = ("log_keep", "quarantine_after", "max_running", "max_queued")
_OOM_SCORE_MAX: Final = 1000
_MAY_BE_ZERO: Final = {"margin_bytes", "stop_grace_s", "backoff_first_s", "critical_max_s"}


def _range_conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield a conflict for each duration, size or count that is outside its range."""
    tables: dict[str, Struct] = {
        "supervisor": limits.supervisor,
        "watchdog": limits.watchdog,
        "memory": limits.memory,
        "gpu": limits.gpu,
        "jobs": limits.jobs,
    }
    tables |= {f"workers.{name}": spec.watchdog for name, spec in limits.workers.items() if spec.watchdog != limits.watchdog}
    for table, values in tables.items():
        yield from _table_conflicts(table, values)
    for cause in limits.jobs.retries.__struct_fields__:
        if limits.jobs.retries.for_cause(cause) < 0:
            yield Conflict("jobs", "retries", f"{cause} must not be below zero")
    for name, spec in limits.workers.items():
        yield from _worker_conflicts(f"workers.{name}", spec)


def _table_conflicts(table: str, values: Struct) -> Iterator[Conflict]:
    for name in values.__struct_fields__:
        value = getattr(values, name)
        if name.endswith(("_s", "_bytes")) and value <= 0 and name not in _MAY_BE_ZERO:
            yield Conflict(table, name, "must be above zero")
    for name in _AT_LEAST_ONE:
        if getattr(values, name, 1) < 1:
            yield Conflict(table, name, "must be at least 1")
    if getattr(values, "backoff_first_s", 0.0) > getattr(values, "backoff_max_s", 0.0):
        yield Conflict(table, "backoff_first_s", "must not be above backoff_max")


def _worker_conflicts(table: str, spec: WorkerSpec) -> Iterator[Conflict]:
    for name in ("replicas", "concurrency"):
        if getattr(spec, name) < 1:
            yield Conflict(table, name, "must be at least 1")
    if not spec.command:
        yield Conflict(table, "command", "must name a program")
    for phase, limit_s in spec.phases.items():
        if limit_s <= 0:
            yield Conflict(table, "phases", f'the limit of "{phase}" must be above zero')
    if abs(spec.oom_score_adj) > _OOM_SCORE_MAX:
        yield Conflict(table, "oom_score_adj", "must be from -1000 to 1000")
