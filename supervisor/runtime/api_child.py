"""The HTTP front as the supervisor sees it: a program that it keeps running like any other, on sockets that it holds itself."""

from typing import Final

from msgspec.structs import replace

from supervisor.core.limits import Limits, WorkerSpec

API: Final = "api"
"""The model of the built-in worker; its one place is api-0."""

_START_MAX_S: Final = 60.0
_SILENT_MAX_S: Final = 30.0
_GRACE_S: Final = 10.0
_NEVER_S: Final = 1e9
"""It has no work of its own that could stand still: a front that nobody asks is idle. Its loop beats as long as it turns, and silence is what ends it."""


def is_served(limits: Limits) -> bool:
    """Return whether anything is served over HTTP."""
    return limits.api.on


def with_api(limits: Limits) -> Limits:
    """Return the limits with the worker that serves HTTP, where it is switched on. What it must know is in its options: a change is a fresh process."""
    if not is_served(limits):
        return limits
    api = limits.api
    spec = WorkerSpec(
        command=("{python}", "-P", "-m", "supervisor.front"),
        progress="notify",
        options={
            "bind": api.bind,
            "token_file": api.token_file,
            "max_upload_bytes": api.max_upload_bytes,
            "allowed_roots": list(api.allowed_roots),
            "log_dir": limits.supervisor.log_dir,
        },
        oom_score_adj=0,  # small, and what people look through when the machine is in need
        watchdog=replace(
            limits.watchdog,
            start_timeout_s=_START_MAX_S,
            silent_after_s=_SILENT_MAX_S,
            stall_after_s=_NEVER_S,
            stop_grace_s=min(_GRACE_S, limits.watchdog.stop_grace_s),
        ),
    )
    return replace(limits, workers={**limits.workers, API: spec})
