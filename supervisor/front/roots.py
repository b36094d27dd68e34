"""Which files may be named over HTTP, and how one is opened without leaving its folder."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from supervisor.front.problems import Refusal

_DEPTH_MAX: Final = 64
_NAMES_MAX: Final = 10_000


class Roots:
    """The folders from which jobs and sessions may name files: the state folder, and those of api.allowed_roots."""

    def __init__(self, state_dir: Path, allowed: tuple[Path, ...]) -> None:
        """Resolve them once: a root may itself be reached through a link, what lies in it may not leave it."""
        self._state_dir = state_dir
        self._roots = tuple(root.resolve() for root in (state_dir, *allowed))

    def allowed(self, path: str) -> Path:
        """Return the file that a path names, all links followed. Raises Refusal (422) where it is outside of the roots."""
        try:
            found = (self._state_dir / Path(path).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise Refusal(422, "path", f"the path {path[:200]!r} cannot be followed: {error}") from error
        if not any(found.is_relative_to(root) for root in self._roots):
            say = (
                f"the path {path[:200]!r} is not under a folder that HTTP may name: add its folder to api.allowed_roots in supervisor.toml, or upload the file"
            )
            raise Refusal(422, "path", say, evidence=f"allowed: {', '.join(str(root) for root in self._roots)}")
        return found

    async def file(self, path: str, *, what: str) -> Path:
        """Return a file that is there and may be named. Raises Refusal."""
        return await asyncio.to_thread(self._file, path, what)

    async def check_params(self, params: dict[str, Any]) -> None:
        """Refuse parameters that name a file outside of the roots. Raises Refusal."""
        await asyncio.to_thread(self._check_params, params)

    def names_inside(self, params: Any, folder: Path) -> bool:
        """Return whether parameters of a job name a folder, or something in it, by its own path or by a link."""
        return any(self._lies_in(text, folder) for text in _texts(params, depth_max=None))

    def _lies_in(self, text: str, folder: Path) -> bool:
        try:
            return (self._state_dir / Path(text).expanduser()).resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError, ValueError):  # no path
            return False

    def _file(self, path: str, what: str) -> Path:
        found = self.allowed(path)
        try:
            there = found.is_file()
        except OSError:  # a name that no file system takes
            there = False
        if not there:
            raise Refusal(422, "path", f"there is no {what} at {path[:200]!r}: expected the path of a file")
        return found

    def _check_params(self, params: dict[str, Any]) -> None:
        for text in _texts(params, depth_max=_DEPTH_MAX):
            if self._is_path(text):
                self.allowed(text)

    def _is_path(self, text: str) -> bool:
        """Return whether a worker could open something by this text; what can only be prose is let through."""
        if text.startswith(("/", "~")) or ".." in text.split("/"):
            return True
        try:
            return (self._state_dir / text).exists()
        except (OSError, ValueError):  # too long for a name, or with a NUL in it: no file can be opened by it
            return False


def _texts(value: Any, *, depth_max: int | None) -> Iterator[str]:
    """Yield each text in a JSON value, the keys too. Raises Refusal (422) for what is nested deeper than depth_max."""
    left = [(value, 0)]
    while left:
        one, depth = left.pop()
        if depth_max is not None and depth > depth_max:
            raise Refusal(422, "invalid", f"the parameters are nested deeper than {depth_max}: make them flatter")
        match one:
            case str():
                yield one
            case dict():
                yield from one
                left += [(inner, depth + 1) for inner in one.values()]
            case list():
                left += [(inner, depth + 1) for inner in one]
            case _:
                pass


def open_inside(folder: Path, name: str) -> int:
    """Return the descriptor of a regular file in a folder. No part of the name may be a link or "..", at the moment of the opening itself.

    Raises Refusal (404).
    """
    parts = name.split("/")
    gone = Refusal(404, "unknown", f"there is no file {name[:200]!r}: see the list at …/files")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise gone
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts[:-1]:
            at = _step(at, part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        found = _step(at, parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        raise gone from None
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise gone
    return found


def _step(at: int, part: str, flags: int) -> int:
    try:
        return os.open(part, flags, dir_fd=at)
    finally:
        os.close(at)


def files_inside(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Return the regular files of a folder by name, links left out, at most 10,000 of them."""
    found: list[tuple[str, os.stat_result]] = []
    for at, folders, names in os.walk(folder):  # follows no links
        folders.sort()
        for name in sorted(names):
            path = Path(at) / name
            try:
                facts = path.lstat()
                relative = path.relative_to(folder).as_posix()
                relative.encode()
            except (OSError, UnicodeEncodeError):
                continue
            if stat.S_ISREG(facts.st_mode):
                found.append((relative, facts))
        if len(found) >= _NAMES_MAX:
            break
    return found[:_NAMES_MAX]
