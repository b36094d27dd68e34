"""The file as it stands: its values, the line of each key, and what is wrong with it as TOML."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import tomli
from msgspec import Struct

from supervisor.errors import ConfigError, Problem

KeyPath = tuple[str, ...]
"""("workers", "sam", "command", "1") is the second item of workers.sam.command."""

MAX_FILE_BYTES: Final = 2**20

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}' + r"|'''.*?''''{0,2}" + r'|"(?:\\.|[^"\\])*"' + r"|'[^']*'" + r"|\#[^\n]*|\n|[A-Za-z0-9_-]+|[^\s]",
    re.DOTALL,
)
_UNQUOTED: Final = re.compile(r"^[^=#]*=\s*([0-9][0-9.]*\s?(?:ms|s|m|h|d|[kKMGT]?i?B)[0-9a-z]*)\s*(?:#.*)?$")


class Source(Struct, frozen=True):
    """One configuration file, read once."""

    path: Path
    digest: str
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]

    def line_of(self, path: KeyPath) -> int:
        """Return the line of a key; of the table or array around it when the key is not in the file; 0 when neither is."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return 0

    def where(self, line: int) -> str:
        """Return "supervisor.toml:31", or the name alone when there is no line to name."""
        return f"{self.path.name}:{line}" if line else self.path.name


def read(path: Path) -> Source:
    """Return the file's values and lines. Raises ConfigError when it cannot be read or is not TOML."""
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        sentence = f"byte 0x{content[error.start]:02x} is not UTF-8 text: save the file as UTF-8"
        raise ConfigError([Problem(f"{path.name}:{line}", sentence, line)]) from error
    text = text.replace("\r\n", "\n")
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(path, text, error)]) from error
    except RecursionError as error:
        raise ConfigError([Problem(path.name, "its arrays or tables are nested too deep to be read: make it flatter")]) from error
    return Source(path, hashlib.sha256(content).hexdigest(), values, key_lines(text))


def _read_bytes(path: Path) -> bytes:
    """Return the file's bytes, or say why not."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError([Problem(str(path), "there is no such file: write one, or name another with --config")]) from error
    except IsADirectoryError as error:
        raise ConfigError([Problem(str(path), f"is a folder, expected a file: did you mean {path / 'supervisor.toml'}?")]) from error
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read ({error.strerror}): check the path and its permissions")]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Problem(str(path), "is larger than 1 MiB, so it is hardly a configuration: check the path")])
    return content


def _syntax_problem(path: Path, text: str, error: tomli.TOMLDecodeError) -> Problem:
    """Return the parser's complaint with its line, and the remedy for the mistake that people make most."""
    lines = text.split("\n")
    # The parser may stop at the newline after the mistake, or behind the last line.
    number = min(error.lineno, len(lines))
    sentence = f"this is not TOML: {error.msg} (column {error.colno})"
    unquoted = _UNQUOTED.match(lines[number - 1])
    if unquoted:
        sentence += f'; write the value in quotes: "{unquoted[1].strip()}"'
    return Problem(f"{path.name}:{number}", sentence, number)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line of each table, key and array item of a text that is valid TOML."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Walks the tokens of valid TOML. It checks nothing: the parser has done that before."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._tokens: list[tuple[str, int]] = []
        self._next = 0
        self._arrays: dict[KeyPath, int] = {}
        line, end = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", end, match.start())
            end = match.start()
            if not match[0].startswith("#"):
                self._tokens.append((match[0], line))

    def document(self) -> None:
        """Record every line."""
        table: KeyPath = ()
        while self._skip_newlines():
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else 0

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _skip_newlines(self) -> str:
        while self._peek() == "\n":
            self._take()
        return self._peek()

    def _record(self, path: KeyPath, line: int) -> None:
        """Keep the first line of the path and of each table that it makes on the way."""
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> KeyPath:
        line = self._line()
        self._take()
        several = self._peek() == "["
        if several:
            self._take()
        path = self._key()
        # A header that stands later than [workers.sam] did is still the right line for [workers] itself.
        self.lines[path] = line
        self._record(path, line)
        while self._peek() not in {"\n", ""}:
            self._take()
        if several:
            count = self._arrays.get(path, 0)
            self._arrays[path] = count + 1
            path = (*path, str(count))
            self._record(path, line)
        return path

    def _key(self) -> KeyPath:
        parts = [self._name()]
        while self._peek() == ".":
            self._take()
            parts.append(self._name())
        return tuple(parts)

    def _name(self) -> str:
        token = self._take()
        return next(iter(tomli.loads(f"{token} = 0"))) if token[:1] in {'"', "'"} else token

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table + self._key()
        self._record(path, line)
        self._take()  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opening = self._peek()
        if opening not in {"{", "["}:
            while self._peek() not in {"\n", ",", "]", "}", ""}:
                self._take()
            return
        self._take()
        count = 0
        while self._skip_newlines() not in {"}", "]", ""}:
            if self._peek() == ",":
                self._take()
            elif opening == "{":
                self._pair(path)
            else:
                item = (*path, str(count))
                self._record(item, self._line())
                self._value(item)
                count += 1
        self._take()
