"""What the file, the environment and the command line set, as one list in rising precedence, with every name that means nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from supervisor.config import forms, worker_forms
from supervisor.config.forms import suggestion
from supervisor.config.keys import OTHER_NAMES, ROOT, Leaf, Table
from supervisor.config.source import KeyPath, Source
from supervisor.errors import Problem

SCHEMA_VERSION: Final = 1
_PREFIX: Final = "WARDEN_"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")
_REPLICA: Final = re.compile(r".*-[0-9]+")


class Setting(Struct, frozen=True):
    """One key that somebody set. `origin` is "file:12", "environment NAME" or "flag"."""

    path: KeyPath
    value: object
    leaf: Leaf
    origin: str
    where: str
    line: int = 0

    @property
    def key(self) -> str:
        """Return the dotted name."""
        return ".".join(self.path)


class Layers(Struct):
    """All settings, lowest precedence first, and what was wrong with their names."""

    settings: list[Setting]
    problems: list[Problem]


def collect(source: Source, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Layers:
    """Return what is set. Values are not looked at here."""
    layers = Layers([], [])
    _check_version(source, layers)
    for key, value in source.values.items():
        if key == "schema_version":
            continue
        if key in ROOT:
            _walk(source, layers, (key,), value, ROOT[key])
        else:
            layers.problems.append(_at(source, (key,), _unknown_top(key, isinstance(value, dict | list))))
    for name, path in OTHER_NAMES.items():
        if environ.get(name):
            seconds = name == "JOB_CLEANUP_AGE" and environ[name].isdigit()
            text = f"{environ[name]}s" if seconds else environ[name]
            _set_text(source, layers, path, text, f"environment {name}")
    for name in sorted(environ):
        if name.startswith(_PREFIX) and "__" in name:
            path = tuple(name.removeprefix(_PREFIX).split("__"))
            _set_text(source, layers, path, environ[name], f"environment {name}")
    for key, text in overrides.items():
        _set_text(source, layers, tuple(key.split(".")), text, "flag")
    return layers


def _at(source: Source, path: KeyPath, sentence: str) -> Problem:
    line = source.line_of(path)
    return Problem(source.where(line), sentence, line)


def _check_version(source: Source, layers: Layers) -> None:
    """Refuse a file of another schema, because its words may mean other things."""
    version = source.values.get("schema_version")
    if version is None:
        sentence = f"schema_version is missing: add the line schema_version = {SCHEMA_VERSION} at the top of the file"
    elif type(version) is not int or version != SCHEMA_VERSION:
        sentence = f"schema_version = {forms.spell(version)} must be {SCHEMA_VERSION}, the only one this release reads: write schema_version = {SCHEMA_VERSION}"
    else:
        return
    layers.problems.append(_at(source, ("schema_version",), sentence))


def _walk(source: Source, layers: Layers, path: KeyPath, value: object, node: Leaf | Table) -> None:
    """Add what the file sets at this place and below."""
    if isinstance(node, Leaf):
        line = source.line_of(path)
        layers.settings.append(Setting(path, value, node, f"file:{line}", source.where(line), line))
        return
    dotted = ".".join(path)
    named_here = node.named and len(path) == 1
    if not isinstance(value, dict):
        header = f"[{dotted}.NAME]" if named_here else f"[{dotted}]"
        layers.problems.append(_at(source, path, f"{dotted} must be a table, found {forms.kind_of(value)}: write it as {header} with its keys below"))
        return
    for key, inner in value.items():
        here = (*path, key)
        if named_here:
            sentence = _wrong_name(path[0], key)
            if sentence:
                layers.problems.append(_at(source, here, sentence))
            _walk(source, layers, here, inner, node)
        elif key in node.keys:
            _walk(source, layers, here, inner, node.keys[key])
        else:
            layers.problems.append(_at(source, here, _unknown_key(here, node)))


def _wrong_name(table: str, name: str) -> str:
    """Return what is wrong with the NAME of [workers.NAME] or [schedules.NAME], or ""."""
    if not _NAME.fullmatch(name):
        return f'{table}."{name}" has a name that must begin with a letter and hold only a-z, 0-9, _ and -: rename it'
    if table == "workers" and _REPLICA.fullmatch(name):
        return f'{table}.{name} must not end in "-" and a number, because replicas are named so ("{name.rsplit("-", 1)[0]}-0"): rename it'
    return ""


def _unknown_top(key: str, table: bool) -> str:  # noqa: FBT001 - private, and one call
    """Return the sentence for a name at the top of the file that means nothing."""
    tables = list(ROOT)
    if not table:
        homes = [name for name, node in ROOT.items() if key in node.keys and not node.named]
        if homes:
            return f"{key}: unknown key; it belongs in {' or '.join(f'[{home}]' for home in homes)}"
    meant = suggestion(key, tables)
    return f"{f'[{key}]' if table else key}: unknown {'table' if table else 'key'}; " + (f"did you mean [{meant}]?" if meant else f"there are {_list(tables)}")


def _unknown_key(path: KeyPath, table: Table) -> str:
    """Return the sentence for a key that its table does not have, with the key that was meant."""
    key = path[-1]
    start = f"{'.'.join(path)}: unknown key; "
    homes = [name for name, node in ROOT.items() if key in node.keys and not node.named]
    meant = suggestion(key, list(table.keys))
    if len(homes) == 1 and path[0] != homes[0]:
        return f"{start}it belongs in [{homes[0]}]"
    return start + (f'did you mean "{meant}"?' if meant else f"[{'.'.join(path[:-1])}] has {', '.join(sorted(table.keys))}")


def _list(tables: list[str]) -> str:
    return ", ".join(f"[{name}]" for name in tables)


def _set_text(source: Source, layers: Layers, path: KeyPath, text: str, origin: str) -> None:
    """Add what one environment variable or flag sets."""
    flag = origin == "flag"
    where = "command line" if flag else origin
    try:
        found, leaf = _resolve(source, path, exact=flag)
    except LookupError as error:
        layers.problems.append(Problem(where, str(error)))
        return
    layers.settings.append(Setting(found, leaf.form.from_text(text), leaf, origin, where))


def _resolve(source: Source, path: KeyPath, *, exact: bool) -> tuple[KeyPath, Leaf]:
    """Return the key that a name means. The names of the environment are in upper case, with _ for -. Raises LookupError with the sentence."""

    def find(word: str, known: list[str]) -> str:
        matches = [name for name in known if (name == word if exact else name.upper().replace("-", "_") == word.upper())]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise LookupError(f'"{word}" could mean {" or ".join(matches)}: set it in the file')
        meant = suggestion(word if exact else word.lower(), known)
        raise LookupError(f'"{word}" names nothing; ' + (f'did you mean "{meant if exact else meant.upper()}"?' if meant else f"there are {', '.join(known)}"))

    words: Iterator[str] = iter(path)
    table = find(next(words), list(ROOT))
    node: Leaf | Table = ROOT[table]
    found = [table]
    if ROOT[table].named:
        names = source.values.get(table)
        word = next(words, "")
        if not isinstance(names, dict) or not names:
            raise LookupError(f'"{word}" names nothing; the file has no [{table}.NAME]')
        found.append(find(word, list(names)))
    for word in words:
        if isinstance(node, Leaf):
            return _resolve_inside(source, tuple(found), node, (word, *words), exact=exact)
        found.append(find(word, list(node.keys)))
        node = node.keys[found[-1]]
    if isinstance(node, Leaf):
        return tuple(found), node
    raise LookupError(f"{'.'.join(found)} is a table: name one of its keys, {', '.join(node.keys)}")


def _resolve_inside(source: Source, found: KeyPath, leaf: Leaf, rest: KeyPath, *, exact: bool) -> tuple[KeyPath, Leaf]:
    """Return the entry of `options`, `env` or `phases` that a name means; it need not be in the file."""
    if leaf.form not in (forms.OPTIONS, worker_forms.ENVIRONMENT, worker_forms.PHASES) or len(rest) != 1:
        raise LookupError(f"{'.'.join(found)} has no keys of its own, found {'.'.join(rest)} below it")
    if leaf.form is worker_forms.ENVIRONMENT:
        return (*found, rest[0]), Leaf(worker_forms.FILLED_TEXT, leaf.owner, leaf.field)
    in_file = [path[-1] for path in source.lines if path[:-1] == found and path[-1].upper() == rest[0].upper()]
    name = rest[0] if exact else (in_file or [rest[0].lower()])[0]
    return (*found, name), Leaf(forms.DURATION if leaf.form is worker_forms.PHASES else forms.ANYTHING, leaf.owner, leaf.field)
