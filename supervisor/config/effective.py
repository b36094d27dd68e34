"""The effective limits: file, environment and flags checked key by key and built into the frozen values that the core reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from msgspec import Struct, structs

from supervisor.config import forms
from supervisor.config.forms import FormError
from supervisor.config.keys import OPTION_NAMES, ROOT, Leaf, Table, key_of
from supervisor.config.layers import Layers, Setting, collect
from supervisor.config.source import KeyPath, Source, read
from supervisor.config.spelled import spelled
from supervisor.core.limits import ApiLimits, Limits, ScheduleSpec, Watchdog, WorkerSpec
from supervisor.core.rules import Conflict, conflicts
from supervisor.errors import ConfigError, Problem

NO_COMMAND: Final = ("?",)
"""Stands for a command that is missing or wrong."""
_NO_FLAGS: Final[Mapping[str, str]] = MappingProxyType({})
_StructT = TypeVar("_StructT", bound=Struct)


class Loaded(Struct, frozen=True):
    """A configuration that holds: its limits, and where each came from.

    path: absolute.  digest: SHA-256 of the file's bytes, hexadecimal.  origins: "watchdog.stall_after" -> "default" | "file:12" | "environment NAME" | "flag",
    for every key of `spelled(limits)`.
    """

    limits: Limits
    path: Path
    digest: str
    origins: Mapping[str, str]


def load(path: Path, environ: Mapping[str, str], overrides: Mapping[str, str] = _NO_FLAGS) -> Loaded:
    """Return the configuration. overrides: dotted keys and their text, from flags: {"gpu.backend": "host"}.

    Raises ConfigError with every problem at once, in the order of the file; only a file that is no TOML ends the search at its first mistake.
    """
    loaded, problems = inspect(path, environ, overrides)
    if problems:
        raise ConfigError(problems)
    return loaded


def inspect(path: Path, environ: Mapping[str, str], overrides: Mapping[str, str] = _NO_FLAGS) -> tuple[Loaded, tuple[Problem, ...]]:
    """Return the configuration as far as it holds, with what is wrong at its default, and everything that is wrong. Raises ConfigError for what is no TOML."""
    source = read(path)
    layers = collect(source, environ, overrides)
    draft = _Draft(source, layers)
    draft.check_values(environ)
    limits = draft.build()
    draft.check_rules(limits)
    loaded = Loaded(limits, path.absolute(), source.digest, draft.origins(limits))
    return loaded, in_order(draft.problems)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return each problem once, in the order of the file."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line == 0, problem.line)))


class _Draft:
    """A configuration on the way: the values that hold so far, and what is wrong with the others."""

    def __init__(self, source: Source, layers: Layers) -> None:
        self.source = source
        self.problems = layers.problems
        self._settings = layers.settings
        self._set: dict[KeyPath, Setting] = {}
        self._values: dict[KeyPath, Any] = {}
        self._wrong: set[KeyPath] = set()

    def check_values(self, environ: Mapping[str, str]) -> None:
        """Read each value in its form. The last one set wins; a wrong one is reported even where a later one hides it."""
        for setting in self._settings:
            self._check(setting)
        for setting in self._old_names(environ):
            self._check(setting)

    def _check(self, setting: Setting) -> None:
        try:
            value = setting.leaf.form.read(setting.value)
        except FormError as error:
            self._wrong.add(setting.path)
            self.problems.append(self._misfit(setting, error))
            return
        self._values[setting.path] = value
        self._set[setting.path] = setting

    def _misfit(self, setting: Setting, error: FormError) -> Problem:
        line = self.source.line_of(setting.path + error.inside) if setting.line else 0
        key = setting.key + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in error.inside)
        return Problem(self.source.where(line) if line else setting.where, f"{key} = {forms.spell(error.value)} {error.sentence}", line)

    def _old_names(self, environ: Mapping[str, str]) -> list[Setting]:
        """Return the SAM2_* settings for each worker that serves sam.*, where no WARDEN_ name or flag has set the same option."""
        settings = []
        for name in self._named("workers"):
            if not any(kind.startswith("sam.") for kind in self._values.get(("workers", name, "serves"), ())):
                continue
            for variable, (option, form) in OPTION_NAMES.items():
                path = ("workers", name, "options", option)
                whole = self._set.get(path[:-1])
                if environ.get(variable) and path not in self._set and (whole is None or whole.line):
                    origin = f"environment {variable}"
                    settings.append(Setting(path, form.from_text(environ[variable]), Leaf(form, WorkerSpec, "options"), origin, origin))
        return settings

    def _named(self, kind: str) -> list[str]:
        """Return the NAMEs of [workers.NAME] or [schedules.NAME]."""
        named = self.source.values.get(kind)
        return [name for name, table in named.items() if isinstance(table, dict)] if isinstance(named, dict) else []

    def build(self) -> Limits:
        """Return the limits; a value that is wrong is left at its default, so that the rules between fields can still be looked at."""
        tables: dict[str, Any] = {
            name: self._struct(table.owner, (name,), table) for name, table in ROOT.items() if table.owner is not None and not table.named
        }
        folder = self.source.path.absolute().parent
        service = tables["supervisor"]
        tables["supervisor"] = structs.replace(service, state_dir=str(folder / service.state_dir), log_dir=str(folder / service.log_dir))
        tables["api"] = _absolute(tables["api"], folder)
        workers = {name: self._worker(name, tables["watchdog"], folder) for name in self._named("workers")}
        schedules = {name: self._schedule(name) for name in self._named("schedules")}
        return Limits(**tables, workers=workers, schedules=schedules)

    def _struct(self, owner: type[_StructT], path: KeyPath, table: Table) -> _StructT:
        return owner(**self._fields(owner, path, table))

    def _fields(self, owner: type[Struct], path: KeyPath, table: Table) -> dict[str, Any]:
        """Return the fields of one Struct that somebody set."""
        fields: dict[str, Any] = {}
        for key, node in table.keys.items():
            here = (*path, key)
            if isinstance(node, Table):
                if node.owner is not None:
                    fields[node.field] = self._struct(node.owner, here, node)
            elif node.owner is owner:
                inside = {path[-1]: value for path, value in self._values.items() if path[:-1] == here}
                if inside:
                    fields[node.field] = {**self._values.get(here, {}), **inside}
                elif here in self._values:
                    fields[node.field] = self._values[here]
        return fields

    def _worker(self, name: str, watchdog: Watchdog, folder: Path) -> WorkerSpec:
        path = ("workers", name)
        table = ROOT["workers"]
        fields = self._fields(WorkerSpec, path, table)
        if "command" not in fields:
            self._need((*path, "command"), f'add what to run, such as command = ["{{python}}", "-P", "-m", "workers.{name}"]')
            fields["command"] = NO_COMMAND
        program = fields["command"][0] if fields["command"] else ""
        if "/" in program and not program.startswith(("/", "{")):
            fields["command"] = (str(folder / program), *fields["command"][1:])
        if "cwd" in fields and not fields["cwd"].startswith(("/", "{")):
            fields["cwd"] = str(folder / fields["cwd"])
        source, _, path_shown = fields.get("progress", "").partition(":")
        if path_shown and not path_shown.startswith(("/", "{")):
            fields["progress"] = f"{source}:{folder / path_shown}"
        return WorkerSpec(**fields, watchdog=structs.replace(watchdog, **self._fields(Watchdog, path, table)))

    def _schedule(self, name: str) -> ScheduleSpec:
        path = ("schedules", name)
        table = ROOT["schedules"]
        fields = self._fields(ScheduleSpec, path, table)
        job = table.keys["job"]
        if isinstance(job, Table):
            fields |= self._fields(ScheduleSpec, (*path, "job"), job)
        if "cron" not in fields:
            self._need((*path, "cron"), 'add when it runs, such as cron = "0 3 * * *"')
            fields["cron"] = "?"
        if "kind" not in fields:
            self._need((*path, "job", "kind"), 'add what it runs, such as job = { kind = "yolo.train" }')
            fields["kind"] = "?"
            self._wrong.add((*path, "job", "kind"))  # said once
        return ScheduleSpec(**fields)

    def _need(self, path: KeyPath, remedy: str) -> None:
        """Say that a key is missing, unless somebody did set it, to something that is wrong."""
        if not any(setting.path == path for setting in self._settings):
            line = self.source.line_of(path)
            self.problems.append(Problem(self.source.where(line), f"{'.'.join(path)} is missing: {remedy}", line))

    def check_rules(self, limits: Limits) -> None:
        """Add the broken rules between fields, except where one of the fields was wrong already."""
        seen: set[tuple[str, str]] = set()
        for conflict in conflicts(limits):
            key = key_of(conflict.field)
            path = tuple(part for part in (*conflict.table.split("."), key) if part)
            inherited = path[0] == "workers" and path not in self._set and conflict.field in Watchdog.__struct_fields__
            if self._follows(path, conflict.sentence) or (inherited and ("watchdog", key) in self._wrong):
                continue
            if inherited and (conflict.field, conflict.sentence) in seen:
                continue
            seen.add((conflict.field, conflict.sentence))
            self.problems.append(self._broken(conflict, path, limits))

    def _follows(self, path: KeyPath, sentence: str) -> bool:
        """Return whether a broken rule may come from a value that is wrong, and stands at its default meanwhile: of this key, or of one that the rule names."""
        words = set(sentence.replace(".", " ").replace(",", " ").split())
        near = [wrong for wrong in self._wrong if not (wrong[0] == path[0] == "workers" and wrong[:2] != path[:2])]  # a worker's rules are its own
        return any(wrong == path or wrong[-1] in words for wrong in near)

    def _broken(self, conflict: Conflict, path: KeyPath, limits: Limits) -> Problem:
        setting = self._set.get(path)
        line = setting.line if setting else self.source.line_of(path)
        where = setting.where if setting else self.source.where(line)
        key = ".".join(path)
        value = spelled(limits).get(key)
        if value is None or value.startswith(("[", "{")):
            return Problem(where, f"{key}: {conflict.sentence}", line)
        return Problem(where, f"{key} = {value}{'' if setting else ' (the default)'} {conflict.sentence}", line)

    def origins(self, limits: Limits) -> Mapping[str, str]:
        """Return who set each key; a worker's watchdog keys that it does not set are those of [watchdog]."""
        origins = {}
        for key in spelled(limits):
            path = tuple(key.split("."))
            setting = self._set.get(path)
            if setting is None and path[0] == "workers":
                setting = self._set.get(("watchdog", path[-1])) if path[-1] in ROOT["watchdog"].keys else None
            origins[key] = setting.origin if setting else "default"
        return origins | {setting.key: setting.origin for setting in self._set.values()}


def _absolute(api: ApiLimits, folder: Path) -> ApiLimits:
    """Return the limits with each path as it is seen from the file's folder."""
    return structs.replace(
        api,
        socket=str(folder / api.socket) if api.socket else "",
        token_file=str(folder / api.token_file) if api.token_file else "",
        allowed_roots=tuple(str(folder / root) for root in api.allowed_roots),
    )
