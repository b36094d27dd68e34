"""Every table and key of supervisor.toml: the form of each, and the field of `core/limits.py` that it fills.

The keys are derived from the fields: `stall_after_s` is `stall_after`, a duration; `margin_bytes` is `margin`, a size.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args, get_origin

from msgspec import Struct, structs

from supervisor.config import forms, schedule_forms, worker_forms
from supervisor.config.forms import Form
from supervisor.core.limits import (
    ApiLimits,
    GpuLimits,
    JobLimits,
    MemoryLimits,
    NotifyLimits,
    Retries,
    ScheduleSpec,
    SupervisorLimits,
    Watchdog,
    WorkerSpec,
)


class Leaf(Struct, frozen=True):
    """One key. `owner` is the Struct whose `field` it fills."""

    form: Form
    owner: type[Struct]
    field: str


class Table(Struct, frozen=True):
    """One table.

    `owner` is the Struct that it becomes, None where its keys are fields of the table around it; a named table is [workers.NAME], its keys those of each NAME.
    """

    keys: Mapping[str, "Leaf | Table"]
    owner: type[Struct] | None = None
    field: str = ""
    named: bool = False


_NOT_YET: Final[Mapping[tuple[type[Struct], str], tuple[str, ...]]] = {
    (JobLimits, "backend"): ("celery",),
}
"""Words of the contract that this release refuses, because to accept them would be to pretend."""

_SPECIAL: Final[Mapping[tuple[type[Struct], str], Form]] = {
    (SupervisorLimits, "state_dir"): forms.PATH,
    (SupervisorLimits, "log_dir"): forms.PATH,
    (ApiLimits, "socket"): forms.PATH_OR_NONE,
    (ApiLimits, "token_file"): forms.PATH_OR_NONE,
    (ApiLimits, "allowed_roots"): forms.PATHS,
    (ScheduleSpec, "cron"): schedule_forms.CRON,
    (ScheduleSpec, "priority"): forms.PRIORITY,
    (WorkerSpec, "command"): worker_forms.COMMAND,
    (WorkerSpec, "env"): worker_forms.ENVIRONMENT,
    (WorkerSpec, "cwd"): worker_forms.PLACE,
    (WorkerSpec, "umask"): worker_forms.UMASK,
    (WorkerSpec, "progress"): worker_forms.PROGRESS,
    (WorkerSpec, "priority"): forms.PRIORITY,
    (WorkerSpec, "phases"): worker_forms.PHASES,
}

_TEXT_OPTIONS: Final = frozenset({"SAM2_MODEL_SIZE", "SAM2_DEVICE"})
OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "JOB_BACKEND": ("jobs", "backend"),
    "JOB_MAX_WORKERS": ("jobs", "max_running"),
    "JOB_CLEANUP_AGE": ("jobs", "keep_finished"),
}
"""Environment names from before Warden, for keys. JOB_CLEANUP_AGE is in seconds."""

OPTION_NAMES: Final[Mapping[str, tuple[str, Form]]] = {
    name: (name.removeprefix("SAM2_").lower(), forms.TEXT if name in _TEXT_OPTIONS else forms.FLAG_OR_VALUE)
    for name in ("SAM2_MODEL_SIZE", "SAM2_DEVICE", "SAM2_QUANTIZE", "SAM2_MEMORY_BANK_SIZE", "SAM2_DISABLE_POSTPROC")
}
"""Environment names from before Warden, for options of every worker that serves sam.*"""


JOB_FIELDS: Final = ("kind", "params", "priority")
"""The fields of ScheduleSpec that stand in its table `job`."""


def key_of(field: str) -> str:
    """Return the key that fills a field: "stall_after_s" -> "stall_after"."""
    for unit in ("_s", "_bytes"):
        if field.endswith(unit):
            return field.removesuffix(unit)
    return field


def form_of(owner: type[Struct], field: str, kind: object) -> Form:
    """Return the form of a field, from its unit, its type and the few that are special."""
    if (owner, field) in _SPECIAL:
        return _SPECIAL[owner, field]
    if field.endswith("_s"):
        return forms.DURATION
    if field.endswith("_bytes"):
        return forms.SIZE
    if get_origin(kind) is Literal:
        return forms.choice(get_args(kind), _NOT_YET.get((owner, field), ()))
    plain: dict[object, Form] = {str: forms.TEXT, int: forms.COUNT, bool: forms.SWITCH, tuple: forms.TEXTS}
    return plain.get(get_origin(kind) or kind, forms.OPTIONS)


def _keys(owner: type[Struct]) -> dict[str, Leaf | Table]:
    """Return the keys that a Struct's fields make."""
    keys: dict[str, Leaf | Table] = {}
    for field in structs.fields(owner):
        if field.type is Watchdog:
            keys |= _keys(Watchdog)
        elif field.type is Retries:
            keys[field.name] = Table(_keys(Retries), Retries, field.name)
        elif owner is ScheduleSpec and field.name in JOB_FIELDS:
            job = keys.setdefault("job", Table({}))
            keys["job"] = Table({**(job.keys if isinstance(job, Table) else {}), field.name: Leaf(form_of(owner, field.name, field.type), owner, field.name)})
        else:
            keys[key_of(field.name)] = Leaf(form_of(owner, field.name, field.type), owner, field.name)
    return keys


def _root() -> dict[str, Table]:
    """Return every table of the file."""
    owners: dict[str, type[Struct]] = {
        "supervisor": SupervisorLimits,
        "api": ApiLimits,
        "watchdog": Watchdog,
        "memory": MemoryLimits,
        "gpu": GpuLimits,
        "jobs": JobLimits,
        "notify": NotifyLimits,
        "workers": WorkerSpec,
        "schedules": ScheduleSpec,
    }
    return {name: Table(_keys(owner), owner, name, named=name in {"workers", "schedules"}) for name, owner in owners.items()}


ROOT: Final = _root()
