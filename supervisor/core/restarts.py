"""When a worker that ended comes back: at once, after a back-off, or seldom (quarantine). Never never."""

from msgspec import Struct

from supervisor.core.limits import Watchdog
from supervisor.core.model import Worker
from supervisor.core.spread import spread


class Comeback(Struct, frozen=True):
    """When the next generation may start, after how many failures in a row."""

    at_s: float
    failures: int
    quarantined: bool


def after_failure(worker: Worker, watchdog: Watchdog, now_s: float) -> Comeback:
    """Return the comeback of a worker whose process just failed.

    A run that was healthy for healthy_after, or that moved a job, wipes the slate: its first restart is at once. Then the pause doubles from backoff_first
    up to backoff_max, spread by a fifth either way so that workers which fell together do not come back together.
    """
    process = worker.process
    healthy = process is not None and (process.moved or (process.ready_at_s is not None and now_s - process.ready_at_s >= watchdog.healthy_after_s))
    failures = 1 if healthy else worker.failures + 1
    if failures >= watchdog.quarantine_after:
        return Comeback(now_s + watchdog.backoff_max_s, failures, quarantined=True)
    if failures == 1:
        return Comeback(now_s, failures, quarantined=False)
    pause_s = watchdog.backoff_first_s * 2.0 ** min(failures - 2, 30)
    return Comeback(now_s + min(watchdog.backoff_max_s, pause_s * (0.8 + 0.4 * spread(f"{worker.name}#{worker.generation}"))), failures, quarantined=False)
