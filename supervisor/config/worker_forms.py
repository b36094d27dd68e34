"""The forms of what only [workers.NAME] holds: commands and paths with placeholders, the environment, sources of progress, limits of phases."""

import re
from typing import Final

from supervisor.config.forms import Form, FormError, must_be, read_duration, read_path, read_text, read_texts, spell
from supervisor.config.placeholders import unknown_placeholders
from supervisor.config.source import KeyPath


def _read_umask(value: object) -> str:
    expected = 'an octal mask in quotes, such as "0077"'
    text = read_text(value, expected)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise FormError(f"must be {expected}", value)
    return text


def _filled(text: str, inside: KeyPath = ()) -> None:
    """Refuse a {placeholder} that nobody fills in."""
    for name, sentence in unknown_placeholders(text):
        raise FormError(f"has the unknown placeholder {{{name}}}: {sentence}", text, inside)


def _read_command(value: object) -> tuple[str, ...]:
    words = read_texts(value)
    for index, word in enumerate(words):
        _filled(word, (str(index),))
    if words and not words[0]:
        raise FormError("must name a program, found an empty string", "", ("0",))
    return words


def _read_place(value: object) -> str:
    text = read_path(value)
    _filled(text)
    return text


def _read_filled_text(value: object) -> str:
    text = read_text(value)
    _filled(text)
    return text


def _read_environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise must_be('a table of strings, such as { OMP_NUM_THREADS = "2" }', value, dict)
    for name, item in value.items():
        if not name or "=" in name or "\0" in name:
            raise FormError("has a name that no environment can hold: it must not be empty or hold = or NUL", item, (name,))
        try:
            _filled(read_text(item, f"a string, such as {spell(str(item))}"))
        except FormError as error:
            raise FormError(error.sentence, item, (name,)) from error
    return dict(value)


def _read_phases(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise must_be('a table of durations, such as { "validate" = "30m" }', value, dict)
    limits = {}
    for phase, item in value.items():
        try:
            limits[phase] = read_duration(item)
        except FormError as error:
            raise FormError(error.sentence, item, (phase,)) from error
    return limits


_PROGRESS: Final = ("sdk", "notify", "output", "none")


def _read_progress(value: object) -> str:
    expected = '"sdk", "notify", "output", "none" or "file:PATH", such as "file:{state_dir}/progress.json"'
    text = read_text(value, expected)
    if text.startswith("file:") and len(text) > len("file:"):
        _filled(text)
    elif text not in _PROGRESS:
        raise FormError(f"must be {expected}", value)
    return text


PROGRESS: Final = Form("a source of progress", _read_progress, verbatim=True)
PLACE: Final = Form("a path, placeholders allowed", _read_place, verbatim=True)
UMASK: Final = Form("an octal mask", _read_umask, verbatim=True)
COMMAND: Final = Form("an array of strings, placeholders allowed", _read_command)
ENVIRONMENT: Final = Form("a table of strings", _read_environment)
PHASES: Final = Form("a table of durations", _read_phases)
FILLED_TEXT: Final = Form("a string, placeholders allowed", _read_filled_text, verbatim=True)
