"""Every limit an operator can set, with its default, as plain numbers whose unit is in the name.

A field `stall_after_s` is the key `stall_after = "10m"` of supervisor.toml, `margin_bytes` is `margin = "256MiB"`; `config.py` derives one from the other,
so a default is written here and nowhere else. The rules between fields stand next door, in `rules`.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

from supervisor.core.addresses import OFF

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30

PING_EVERY_S: Final = 5.0
"""How often each worker hears of its supervisor, where there is nothing else to say."""

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

    @property
    def on(self) -> bool:
        """True when anything is served over HTTP, be it at an address or at a socket alone."""
        return self.bind != OFF or bool(self.socket)


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
    """[memory]: how often memory is read, what one worker's tree may use, and the lines below which the machine has too little. 0: no such line."""

    check_every_s: float = 60.0
    look_every_s: float = 10.0
    worker_soft_bytes: int = 6 * GIB
    worker_limit_bytes: int = 8 * GIB
    warn_below_bytes: int = 4 * GIB
    emergency_below_bytes: int = 2 * GIB
    hard_floor_bytes: int = GIB


class GpuLimits(Struct, frozen=True, kw_only=True):
    """[gpu]: which device there is, and what a hand-over must prove."""

    backend: Literal["auto", "nvml", "host", "none"] = "auto"
    host_budget_bytes: int = 16 * GIB
    sharing: Literal["exclusive", "budget"] = "exclusive"
    margin_bytes: int = 256 * MIB
    vacate_timeout_s: float = 120.0
    poll_max_s: float = 5.0
    lock_timeout_s: float = 120.0
    lease_ttl_s: float = 30.0
    max_hold_s: float = 0.0
    age_step_s: float = 5.0
    load_timeout_s: float = 120.0


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
