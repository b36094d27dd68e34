"""The rules between limits: what each field must be beside the others, and the sentence where it is not. Values are refused, never clamped."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from supervisor.core.addresses import address_of, is_loopback
from supervisor.core.limits import PING_EVERY_S, Limits, MemoryLimits, WorkerSpec
from supervisor.units import format_duration, format_size


class Conflict(Struct, frozen=True):
    """One broken rule between fields: where (table and field; no field: the table as a whole), and the sentence."""

    table: str
    field: str
    sentence: str


_LARGER_CARD: Final = {"auto": ' on a machine without a card; with a card that is larger, set gpu.backend = "nvml"', "host": ""}


def conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield each rule between fields that these limits break. Values are refused, never clamped."""
    yield from _range_conflicts(limits)
    longest = max((spec.watchdog.stop_grace_s for spec in limits.workers.values()), default=limits.watchdog.stop_grace_s)
    if limits.supervisor.shutdown_grace_s < longest:
        yield Conflict("supervisor", "shutdown_grace_s", f"must not be under the longest stop_grace, {format_duration(longest)}")
    if limits.supervisor.orphan_after_s < 2 * PING_EVERY_S:
        least, every = format_duration(2 * PING_EVERY_S), format_duration(PING_EVERY_S)
        yield Conflict("supervisor", "orphan_after_s", f"must be at least {least}: an idle worker hears of its supervisor every {every}")
    if limits.gpu.margin_bytes >= limits.gpu.host_budget_bytes:
        yield Conflict("gpu", "margin_bytes", "must be below gpu.host_budget")
    yield from _memory_conflicts(limits.memory)
    yield from _api_conflicts(limits)
    yield from _serving_conflicts(limits)
    for name, spec in limits.workers.items():
        table = f"workers.{name}"
        if limits.gpu.backend in {"auto", "host"} and spec.gpu_bytes and spec.gpu_bytes + limits.gpu.margin_bytes > limits.gpu.host_budget_bytes:
            yield Conflict(table, "gpu_bytes", "plus gpu.margin is more than gpu.host_budget, so it could never be granted" + _LARGER_CARD[limits.gpu.backend])
        if limits.gpu.backend == "none" and spec.gpu_bytes:
            yield Conflict(table, "gpu_bytes", 'asks for a device, but gpu.backend is "none"')
        yield from _spec_conflicts(table, spec, limits)


def _memory_conflicts(memory: MemoryLimits) -> Iterator[Conflict]:
    """Yield the broken rules of the lines and limits of memory."""
    for lower, upper in _MEMORY_ORDER:
        low_bytes, high_bytes = getattr(memory, f"{lower}_bytes"), getattr(memory, f"{upper}_bytes")
        if high_bytes and low_bytes >= high_bytes:
            yield Conflict("memory", f"{lower}_bytes", f'must be below memory.{upper}, {format_size(high_bytes)}; "0" switches it off')
    if memory.check_every_s < memory.look_every_s:
        yield Conflict("memory", "check_every_s", f"must not be under memory.look_every, {format_duration(memory.look_every_s)}")


def _serving_conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield what is wrong with who serves which kind of job, and with the kinds that schedules ask for."""
    served: dict[str, str] = {}
    for name, spec in limits.workers.items():
        table = f"workers.{name}"
        if spec.serves and spec.progress != "sdk":
            yield Conflict(table, "progress", 'must be "sdk" for a worker that serves jobs: they reach it through the SDK')
        for kind in spec.serves:
            if kind in served:
                yield Conflict(table, "serves", f'"{kind}" is served by workers.{served[kind]} already')
            served[kind] = name
    for name, schedule in limits.schedules.items():
        if schedule.kind not in served:
            yield Conflict(f"schedules.{name}.job", "kind", f"is served by no worker; known are {', '.join(served) or 'none'}")


_SOCKET_PATH_MAX: Final = 107
"""Bytes that a unix socket's path may have on Linux."""


def _api_conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield the broken rules of the HTTP front: who may reach it, and whose name is taken while it is on."""
    api = limits.api
    try:
        address = address_of(api.bind)
    except ValueError as error:
        yield Conflict("api", "bind", str(error))
        return
    if address is not None and not is_loopback(address[0]) and not api.token_file:
        yield Conflict("api", "bind", "can be reached from other machines, so api.token_file must name a file with a token")
    if len(api.socket.encode()) > _SOCKET_PATH_MAX:
        yield Conflict(
            "api", "socket", f"is longer than the {_SOCKET_PATH_MAX} bytes that the path of a socket may have: put it in a folder nearer to the root"
        )
    if api.on and "api" in limits.workers:
        switch = 'api.bind = "off"' + (' and api.socket = ""' if api.socket else "")
        yield Conflict("workers.api", "", f"has the name of Warden's own worker for HTTP: rename it, or switch that off with {switch}")


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
_MANY: Final = 1000
"""Processes of one model, or jobs (each a thread) of one process: more is a slip of the finger, and would take the machine down."""
_MEMORY_ORDER: Final = (("worker_soft", "worker_limit"), ("emergency_below", "warn_below"), ("hard_floor", "emergency_below"))
"""The first of each pair must be below the second, where both are set."""
_MAY_BE_ZERO: Final = {"margin_bytes", "stop_grace_s", "backoff_first_s", "critical_max_s", "disk_floor_bytes", "max_hold_s"} | {
    f"{key}_bytes" for pair in _MEMORY_ORDER for key in pair
}


def _range_conflicts(limits: Limits) -> Iterator[Conflict]:
    """Yield a conflict for each duration, size or count that is outside its range."""
    tables: dict[str, Struct] = {
        "supervisor": limits.supervisor,
        "api": limits.api,
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
        if not 1 <= getattr(spec, name) <= _MANY:
            yield Conflict(table, name, f"must be at least 1 and at most {_MANY}")
    if not spec.command:
        yield Conflict(table, "command", "must name a program")
    for phase, limit_s in spec.phases.items():
        if limit_s <= 0:
            yield Conflict(table, "phases", f'the limit of "{phase}" must be above zero')
    if abs(spec.oom_score_adj) > _OOM_SCORE_MAX:
        yield Conflict(table, "oom_score_adj", "must be from -1000 to 1000")
