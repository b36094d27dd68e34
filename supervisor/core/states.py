"""The closed sets: where a worker, a job, a lease and a device can be, and why something happened."""

from enum import StrEnum
from typing import Final


class WorkerState(StrEnum):
    """Where a worker is; the table of moves is in `lifecycle`."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPING = "stopping"
    EXITED = "exited"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    UNKILLABLE = "unkillable"


class Wanted(StrEnum):
    """Where the operator wants a worker."""

    UP = "up"
    DOWN = "down"


class JobStatus(StrEnum):
    """Where a job is; the table of moves is in `jobs`."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
AT_WORK: Final = frozenset({JobStatus.PREPARING, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
WITH_PROCESS: Final = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.DRAINING, WorkerState.STOPPING})


class Reason(StrEnum):
    """Why a job waits, or why it ended without a result. A closed set: it is part of the contract."""

    NONE = ""
    WAITING_FOR_WORKER = "waiting_for_worker"
    WAITING_FOR_GPU = "waiting_for_gpu"
    WAITING_FOR_MEMORY = "waiting_for_memory"
    SCHEDULED = "scheduled"
    RETRY_BACKOFF = "retry_backoff"
    HELD = "held"
    USER_ERROR = "user_error"
    BAD_INPUT = "bad_input"
    STALLED = "stalled"
    SILENT = "silent"
    START_TIMEOUT = "start_timeout"
    DEADLINE = "deadline"
    MEMORY_LIMIT = "memory_limit"
    MEMORY_EMERGENCY = "memory_emergency"
    OOM_KERNEL = "oom_kernel"
    GPU_REFUSED = "gpu_refused"
    GPU_OOM = "gpu_oom"
    GPU_ERROR = "gpu_error"
    WORKER_CRASH = "worker_crash"
    LOST = "lost"
    POISON = "poison"
    SHUTDOWN = "shutdown"


class Source(StrEnum):
    """Who says how much memory a job needs: whoever submitted it, its worker's own reckoning, or what such work was seen to take."""

    NONE = ""
    DECLARED = "declared"
    COMPUTED = "computed"
    OBSERVED = "observed"


class Cause(StrEnum):
    """Why a process ended, as the restart counters name it. CANCEL and IDLE are planned ends that need no counter of their own."""

    CRASH = "crash"
    STALL = "stall"
    SILENT = "silent"
    MEMORY = "memory"
    START_TIMEOUT = "start_timeout"
    GPU_ERROR = "gpu_error"
    SPAWN_FAILED = "spawn_failed"
    RECYCLE = "recycle"
    OPERATOR = "operator"
    HANDOVER = "handover"
    ADOPTED_GONE = "adopted_gone"
    CANCEL = "cancel"
    IDLE = "idle"
    SHUTDOWN = "shutdown"


PLANNED: Final = frozenset({Cause.RECYCLE, Cause.OPERATOR, Cause.HANDOVER, Cause.CANCEL, Cause.IDLE, Cause.SHUTDOWN})


class Zone(StrEnum):
    """How much memory the machine has available, by the lines of [memory]. The order is that of the trouble."""

    OK = "ok"
    WARN = "warn"
    EMERGENCY = "emergency"
    FLOOR = "floor"


BRAKING: Final = frozenset({Zone.EMERGENCY, Zone.FLOOR})
"""The zones in which nothing is started, and somebody may have to end."""


class LeaseState(StrEnum):
    """Where a right to a device is."""

    WAITING = "waiting"
    HELD = "held"
    YIELDING = "yielding"
    COOLING = "cooling"
    FREE = "free"
    STALE = "stale"
    CONTAMINATED = "contaminated"


GRANTED: Final = frozenset({LeaseState.HELD, LeaseState.CONTAMINATED})
"""Whoever has such a lease may use the device, and renews it where it has to."""
HOLDING: Final = GRANTED | {LeaseState.YIELDING, LeaseState.STALE}
"""Whoever has such a lease has the device."""


class DeviceState(StrEnum):
    """Whether a device can be given to anyone."""

    OK = "ok"
    LOST = "lost"
    QUARANTINED = "quarantined"
    UNVERIFIABLE = "unverifiable"
    UNRESPONSIVE = "unresponsive"
