"""What an edit of the configuration changes, key by key, and what each change takes."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from supervisor.config.keys import key_of
from supervisor.config.spelled import spelled
from supervisor.core.limits import Limits
from supervisor.core.reload import LAUNCH_FIELDS
from supervisor.core.rules import conflicts

_NEEDS_RESTART: Final = ("supervisor.state_dir", "supervisor.log_dir", "gpu.backend", "jobs.backend", "api.bind", "api.socket")
_COMES: Final = {"workers": "live", "schedules": "live"}
_GOES: Final = {"workers": "leaves", "schedules": "live"}
"""The tables with a NAME, and what it takes that one comes or goes."""
_LAUNCH_KEYS: Final = frozenset(field.removesuffix("_bytes") for field in LAUNCH_FIELDS)


_WORDS: Final = {
    "live": "at once",
    "worker": "with a fresh process, at the next boundary of its work",
    "restart": "after a restart of Warden",
    "leaves": "at the next boundary of its work",
}
_UNSET: Final = "not set"


class Change(Struct, frozen=True, kw_only=True):
    """One key.

    takes: live, worker (a fresh process of that worker, at a boundary; for [api] of api-0), restart (of Warden), leaves (as it may).
    """

    key: str
    old: str
    new: str
    takes: str

    def __str__(self) -> str:
        """Return the line that a person reads."""
        what = f"{self.old} -> {self.new}" if self.old else self.new
        return f"{self.key}: {what} ({_WORDS[self.takes]})"


def changes(old: Limits, new: Limits) -> list[Change]:
    """Return every key whose value differs, in the order of the file.

    A worker or schedule that came or went is one change, and so is a key that workers inherit.
    """
    before, after = spelled(old, inside=True), spelled(new, inside=True)
    came, went = _comings(old, new, "added", _COMES), _comings(new, old, "removed", _GOES)
    whole = {change.key for change in (*came, *went)}
    found = []
    for key in [*after, *(key for key in before if key not in after)]:
        was, is_now = before.get(key), after.get(key)
        table, _, name = key.rpartition(".")
        model = table.partition(".")[2] if table.startswith("workers.") else ""
        inherited = model and (was, is_now) == (before.get(f"watchdog.{name}"), after.get(f"watchdog.{name}"))
        if was != is_now and not inherited and ".".join(key.split(".")[:2]) not in whole:
            found.append(Change(key=key, old=was or _UNSET, new=is_now or _UNSET, takes=_takes(key)))
    return [*found, *came, *went]


def _comings(without: Limits, with_it: Limits, word: str, named: Mapping[str, str]) -> list[Change]:
    """Return a change for each worker and schedule that the second has and the first has not."""
    return [
        Change(key=f"{table}.{name}", old="", new=word, takes=takes)
        for table, takes in named.items()
        for name in getattr(with_it, table)
        if name not in getattr(without, table)
    ]


def _takes(key: str) -> str:
    if key in _NEEDS_RESTART:
        return "restart"
    parts = key.split(".")
    if parts[0] == "api":  # its process got them at its start
        return "worker"
    return "worker" if parts[0] == "workers" and len(parts) > 2 and parts[2] in _LAUNCH_KEYS else "live"  # noqa: PLR2004  # workers.NAME.KEY


def without_restart(old: Limits, new: Limits) -> Limits:
    """Return the new limits with those values kept that only a restart of Warden can change."""
    kept = {key.split(".")[1] for key in _NEEDS_RESTART if key.startswith("supervisor.")}
    fields = {name: getattr(old.supervisor, name) for name in old.supervisor.__struct_fields__ if name.removesuffix("_bytes") in kept}
    return replace(
        new,
        supervisor=replace(new.supervisor, **fields),
        api=replace(new.api, bind=old.api.bind, socket=old.api.socket),
        gpu=replace(new.gpu, backend=old.gpu.backend),
        jobs=replace(new.jobs, backend=old.jobs.backend),
    )


def clashes(acting: Limits, file: str) -> list[str]:
    """Return the rules that limits from `without_restart` break: a file may hold as a whole, and not beside what only a restart can change."""
    found = []
    for conflict in conflicts(acting):
        key = ".".join(part for part in (conflict.table, key_of(conflict.field)) if part)
        found.append(f"{file}: {key}: {conflict.sentence}. The file alone would hold: restart Warden to take it whole")
    return found
