"""What an edit of the configuration changes, key by key, and what each change takes."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.config.spelled import spelled
from supervisor.core.limits import Limits
from supervisor.core.reload import LAUNCH_FIELDS

_NEEDS_RESTART: Final = ("supervisor.state_dir", "supervisor.log_dir", "gpu.backend", "jobs.backend")
_LAUNCH_KEYS: Final = frozenset(field.removesuffix("_bytes") for field in LAUNCH_FIELDS)


class Change(Struct, frozen=True, kw_only=True):
    """One key. takes: live (at once), worker (a fresh process of that worker, at a boundary), restart (of Warden itself; until then the old value stands)."""

    key: str
    old: str
    new: str
    takes: str

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"{self.key}: {self.old} -> {self.new} ({self.takes})"


def changes(old: Limits, new: Limits) -> list[Change]:
    """Return every key whose value differs, in the order of the file. A worker that came or went is one change, and so is a key that workers inherit."""
    before, after = spelled(old), spelled(new)
    found = []
    for key in [*after, *(key for key in before if key not in after)]:
        was, is_now = before.get(key), after.get(key)
        table, _, name = key.rpartition(".")
        model = table.partition(".")[2] if table.startswith("workers.") else ""
        inherited = model and (was, is_now) == (before.get(f"watchdog.{name}"), after.get(f"watchdog.{name}"))
        if was != is_now and not inherited and (not model or (model in old.workers and model in new.workers)):
            found.append(Change(key=key, old=was or "-", new=is_now or "-", takes=_takes(key)))
    came = [Change(key=f"workers.{model}", old="-", new="added", takes="worker") for model in new.workers if model not in old.workers]
    went = [Change(key=f"workers.{model}", old="there", new="removed", takes="worker") for model in old.workers if model not in new.workers]
    return [*found, *came, *went]


def _takes(key: str) -> str:
    if key in _NEEDS_RESTART:
        return "restart"
    parts = key.split(".")
    return "worker" if parts[0] == "workers" and len(parts) > 2 and parts[2] in _LAUNCH_KEYS else "live"  # noqa: PLR2004  # workers.NAME.KEY


def without_restart(old: Limits, new: Limits) -> Limits:
    """Return the new limits with those values kept that only a restart of Warden can change."""
    kept = {key.split(".")[1] for key in _NEEDS_RESTART if key.startswith("supervisor.")}
    fields = {name: getattr(old.supervisor, name) for name in old.supervisor.__struct_fields__ if name.removesuffix("_bytes") in kept}
    return replace(
        new,
        supervisor=replace(new.supervisor, **fields),
        gpu=replace(new.gpu, backend=old.gpu.backend),
        jobs=replace(new.jobs, backend=old.jobs.backend),
    )
