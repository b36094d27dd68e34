"""The {placeholders} of a worker's command, folder and environment: which there are, and filling them in."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from supervisor.errors import ConfigError, Problem

PLACEHOLDERS: Final = ("python", "config_dir", "state_dir", "name")

# Only {word}: other braces, as in a JSON argument, are the program's own.
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def unknown_placeholders(text: str) -> Iterator[tuple[str, str]]:
    """Yield each placeholder that nobody fills in, with what could be meant."""
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            close = get_close_matches(name, PLACEHOLDERS, n=1)
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            yield name, f"did you mean {{{close[0]}}}?" if close else f"there are {known}"


def fill(text: str, *, python: str, config_dir: str, state_dir: str, name: str) -> str:
    """Return the text with its placeholders filled in, once: what was filled in is not looked at again.

    Raises ConfigError for an unknown placeholder, which a loaded configuration cannot hold.
    """
    for unknown, sentence in unknown_placeholders(text):
        raise ConfigError([Problem(f"workers.{name}", f"{text!r} has the unknown placeholder {{{unknown}}}: {sentence}")])
    values = {"python": python, "config_dir": config_dir, "state_dir": state_dir, "name": name}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)
