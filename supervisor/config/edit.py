"""Sets one key of supervisor.toml in place: comments, order and layout stay, and a value that would not hold is refused before the file is touched."""

import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

import tomlkit
from msgspec import Struct
from tomlkit.exceptions import TOMLKitError

from supervisor.config.changes import changes
from supervisor.config.effective import Loaded, load
from supervisor.errors import ConfigError, Problem


class Edited(Struct, frozen=True):
    """A file that was written. changed: what it changes of what the file said before, a line each; overruled: who wins over the file, empty if nobody."""

    path: Path
    changed: list[str]
    overruled: str


def set_key(path: Path, key: str, text: str, environ: Mapping[str, str]) -> Edited:
    """Set a dotted key ("watchdog.stall_after") and return what that changes. text: a TOML value, else a string as it stands (10m).

    Written to a file beside it, checked there, and renamed into place. Raises ConfigError, with nothing changed, where the outcome would not be valid.
    """
    target = path.resolve()  # where the name is a link, the link stays
    content = target.read_bytes()
    try:
        document = tomlkit.parse(content.decode("utf-8-sig"))
        _put(document, key.split("."), _value(text))
    except (TOMLKitError, TypeError) as error:
        raise ConfigError([Problem(path.name, f"{key} cannot be set here ({error}): edit the file by hand")]) from error
    new = tomlkit.dumps(document).encode()
    to_check, to_keep = (folder / f".{path.name}.{os.getpid()}.{what}" for folder, what in ((path.parent, "check"), (target.parent, "draft")))
    try:
        _write_like(to_check, new, target)  # beside the name that people use: that is what paths in it are relative to
        after = _checked(to_check, path, environ)
        lines = _changed(path, after, environ)
        _write_like(to_keep, new, target)
        if target.read_bytes() != content:
            raise ConfigError([Problem(path.name, "somebody else edited it just now: look at it, and try again")])
        to_keep.replace(target)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written ({error.strerror}): check who owns it and its folder")]) from error
    finally:
        for one in (to_check, to_keep):
            with suppress(OSError):
                one.unlink(missing_ok=True)
    origin = after.origins.get(key, "")
    return Edited(path, lines, "" if origin.startswith("file:") or not origin else origin)


def _changed(path: Path, after: Loaded, environ: Mapping[str, str]) -> list[str]:
    try:
        return [str(change) for change in changes(load(path, environ).limits, after.limits)]
    except ConfigError as error:  # this edit mends it
        return [f"the file holds again; before: {error}"]


def _value(text: str) -> object:
    """Return the TOML value that the text is, or the text itself: 10m, 8GiB and TERM need no quotes."""
    try:
        return tomlkit.value(text)
    except (TOMLKitError, ValueError):
        return text


def _put(document: MutableMapping[str, object], words: list[str], value: object) -> None:
    *tables, last = words
    here = document
    for number, word in enumerate(tables):
        inner = here.get(word)
        if inner is None:
            inner = tomlkit.table(is_super_table=number < len(tables) - 1)
            here[word] = inner
            inner = here[word]
        if not isinstance(inner, MutableMapping):
            raise TypeError(f"{'.'.join(words[: number + 1])} is no table")
        here = inner
    here[last] = value


def _write_like(draft: Path, content: bytes, target: Path) -> None:
    """Write the draft to the disk with the owner and the permissions of the file that it is to replace. Raises OSError."""
    old = target.stat()
    with draft.open("wb") as file:
        os.fchmod(file.fileno(), old.st_mode & 0o7777)
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(PermissionError):  # only root may give a file away; the group and the mode that count are kept where they can be
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _checked(draft: Path, path: Path, environ: Mapping[str, str]) -> Loaded:
    """Return the draft as a configuration. Raises ConfigError in the name of the file that it is for."""
    try:
        return load(draft, environ)
    except ConfigError as error:
        problems = [Problem(problem.where.replace(draft.name, path.name), problem.sentence, problem.line) for problem in error.problems]
        raise ConfigError(problems) from error
