"""The forms that a value may have (a duration, a whole number, a list of strings), and the sentence when it has another."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Final

import tomli
from msgspec import Struct

from supervisor.config.source import KeyPath
from supervisor.units import DURATION_FORM, SIZE_FORM, parse_duration, parse_size

_SHOWN_CHARACTERS: Final = 60
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


class FormError(Exception):
    """A value has the wrong form. `sentence` goes on after "KEY = VALUE"; `inside` leads to the item of an array or table that is meant."""

    def __init__(self, sentence: str, value: object, inside: KeyPath = ()) -> None:
        """Keep the parts that a problem is made of."""
        super().__init__(sentence)
        self.sentence = sentence
        self.value = value
        self.inside = inside


class Form(Struct, frozen=True):
    """One form: `read` returns the plain value for the code, or raises FormError."""

    expected: str
    read: Callable[[object], object]
    verbatim: bool = False
    """A text from the environment is the value itself, not to be read as TOML first."""
    switch: bool = False
    """A text from the environment may also be 1, 0, yes, no, on or off."""

    def from_text(self, text: str) -> object:
        """Return what a text from the environment or the command line stands for, before `read`. Never raises: a wrong text stays a text."""
        if self.switch and text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        return text if self.verbatim else guess(text)


def guess(text: str) -> object:
    """Return the TOML value that the text is (7, true, "x", [..], {..}), else the text."""
    try:
        values = tomli.loads(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text


def kind_of(value: object) -> str:
    """Return what a TOML value is, in words."""
    names: dict[type, str] = {
        bool: "true or false",
        str: "a string",
        int: "a whole number",
        float: "a number with a fraction",
        list: "an array",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def spell(value: object, shown: int = _SHOWN_CHARACTERS) -> str:
    """Return the value as TOML writes it, cut when it is long."""
    text = _spell(value)
    return text if len(text) <= shown else f"{text[: shown - 3]}..."


def _spell(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return f"[{', '.join(_spell(item) for item in value)}]"
        case Mapping():
            pairs = [f"{spell_key(key)} = {_spell(item)}" for key, item in value.items()]
            return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
        case _:
            return str(value)


def spell_key(key: str) -> str:
    """Return the key as TOML writes it: in quotes where it must be."""
    return key if _BARE_KEY.fullmatch(key) else _spell(key)


def suggestion(found: str, known: list[str]) -> str:
    """Return the known word that was most likely meant, or ""."""
    close = get_close_matches(found, known, n=1, cutoff=0.6)
    return close[0] if close else ""


def must_be(expected: str, value: object, wanted: type) -> FormError:
    """Return the error; it says what kind was found when that is the trouble."""
    return FormError(f"must be {expected}" + ("" if type(value) is wanted else f", found {kind_of(value)}"), value)


def read_text(value: object, expected: str = "a string") -> str:
    """Return a string. Raises FormError for another kind, or with a NUL in it."""
    if not isinstance(value, str):
        raise must_be(expected, value, str)
    if "\0" in value:
        raise FormError("must not hold a NUL character: take it out", value)
    return value


def read_duration(value: object) -> float:
    """Return seconds. Raises FormError for a bare number or another form."""
    if type(value) in {int, float}:
        raise FormError(f'must be {DURATION_FORM}, found a bare number: write "{value}s" if seconds are meant', value)
    text = read_text(value, DURATION_FORM)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise FormError(f"must be {DURATION_FORM}", value) from error


def _read_size(value: object) -> int:
    if type(value) in {int, float}:
        raise FormError(f'must be {SIZE_FORM}, found a bare number: write "{value}B" if bytes are meant', value)
    text = read_text(value, SIZE_FORM)
    try:
        return parse_size(text)
    except ValueError as error:
        raise FormError(f"must be {SIZE_FORM}", value) from error


def _read_count(value: object) -> int:
    if type(value) is not int:
        raise must_be("a whole number, such as 2", value, int)
    if abs(value) > 10**9:  # far above every count there is, and inside what SQLite and the kernel take
        raise FormError("must be at most 1000000000", value)
    return value


def _read_priority(value: object) -> int:
    number = _read_count(value)
    if number < 0:
        raise FormError("must be 0 or more; 0 is the most urgent", value)
    return number


def _read_switch(value: object) -> bool:
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        raise FormError(f"must be true or false, found a string: write {'true' if value.lower() in _TRUE else 'false'} without quotes", value)
    if not isinstance(value, bool):
        raise must_be("true or false", value, bool)
    return value


def read_path(value: object) -> str:
    """Return a path as it is written. Raises FormError for an empty one, or one with ~."""
    text = read_text(value, "a path")
    if text.startswith("~"):
        raise FormError("must be a path without ~, which is not expanded here: write the whole path", value)
    if not text:
        raise FormError("must be a path, found an empty string", value)
    return text


def _read_path_or_none(value: object) -> str:
    return read_path(value) if value else read_text(value, 'a path, or "" for none')


def _read_paths(value: object) -> tuple[str, ...]:
    paths = read_texts(value)
    for index, path in enumerate(paths):
        try:
            read_path(path)
        except FormError as error:
            raise FormError(error.sentence, path, (str(index),)) from error
    return paths


def read_texts(value: object) -> tuple[str, ...]:
    """Return the strings of an array. Raises FormError that leads to the item which is none."""
    expected = 'an array of strings, such as ["one", "two"]'
    if not isinstance(value, list):
        raise must_be(expected, value, list)
    for index, item in enumerate(value):
        try:
            read_text(item)
        except FormError as error:
            raise FormError(error.sentence, item, (str(index),)) from error
    return tuple(value)


def _read_options(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise must_be('a table, such as { device = "auto" }', value, dict)
    for name, item in value.items():
        _plain(item, (name,))
    return dict(value)


def _read_anything(value: object) -> object:
    _plain(value, ())
    return value


def _plain(value: object, inside: KeyPath) -> None:
    """Refuse what TOML can write and JSON cannot hold: options travel to the worker as JSON values."""
    if isinstance(value, datetime | date | time) or (isinstance(value, float) and not math.isfinite(value)):
        raise FormError("must be a string, a finite number, true, false, an array or a table: write it in quotes", value, inside)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        _plain(item, (*inside, str(key)))


def choice(offered: tuple[str, ...], later: tuple[str, ...] = ()) -> Form:
    """Return the form of a closed set of words. `later` are words of the contract that this release does not offer."""
    words = [f'"{word}"' for word in offered]
    expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

    def read(value: object) -> str:
        text = read_text(value, expected)
        if text in offered:
            return text
        if text in later:
            raise FormError(f"is not offered by this release yet: it offers {expected}", value)
        meant = suggestion(text, list(offered))
        raise FormError(f"must be {expected}" + (f'; did you mean "{meant}"?' if meant and len(words) > 1 else ""), value)

    return Form(expected, read, verbatim=True)


TEXT: Final = Form("a string", read_text, verbatim=True)
DURATION: Final = Form(DURATION_FORM, read_duration, verbatim=True)
SIZE: Final = Form(SIZE_FORM, _read_size, verbatim=True)
COUNT: Final = Form("a whole number", _read_count)
PRIORITY: Final = Form("a whole number from 0", _read_priority)
SWITCH: Final = Form("true or false", _read_switch, switch=True)
FLAG_OR_VALUE: Final = Form("a value", _read_anything, switch=True)
PATH: Final = Form("a path", read_path, verbatim=True)
PATH_OR_NONE: Final = Form("a path, or nothing", _read_path_or_none, verbatim=True)
PATHS: Final = Form("an array of paths", _read_paths)
TEXTS: Final = Form("an array of strings", read_texts)
OPTIONS: Final = Form("a table", _read_options)
ANYTHING: Final = Form("a value", _read_anything)
