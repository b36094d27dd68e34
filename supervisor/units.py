"""Durations and sizes as people write them: "10m", "1h30m", "8GiB"; and named numbers as they read them: silent=0.4s free=2.27GiB.

Strict on purpose: a bare number is refused, because a number without a unit is how a 10-minute limit becomes a 10-second one.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
# What the float sum of exact parts may be off by, in milliseconds.
_ROUNDING: Final = 1e-6
# Nine digits hold 2,700 years in days and 900 million terabytes, and keep every figure exact in a float.
_DURATION_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([kKMGT]B|[KMGT]iB|B)")

DURATION_FORM: Final = 'a duration with its unit, such as "90s", "10m" or "1h30m"'
SIZE_FORM: Final = 'a size with its unit, such as "8GiB" or "512MiB" ("0" for none)'


def parse_duration(text: str) -> float:
    """Return seconds, a whole number of milliseconds. Units: ms s m h d, each once, in any order ("1h30m"); "0" means none.

    Raises ValueError with the expected form.
    """
    if text == "0":
        return 0.0
    parts = _DURATION_PART.findall(text) if _DURATION.fullmatch(text) else []
    units = [unit for _, unit in parts]
    milliseconds: float = sum(float(number) * _MILLISECONDS[unit] for number, unit in parts)
    if not parts or len(set(units)) < len(units) or abs(milliseconds - round(milliseconds)) > _ROUNDING:
        raise ValueError(f"expected {DURATION_FORM}")
    return round(milliseconds) / 1000


def parse_size(text: str) -> int:
    """Return bytes. GB is 10^9, GiB is 2^30; "0" means none. Raises ValueError with the expected form."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {SIZE_FORM}")
    # A whole number stays an int, because a float would lose the last bytes above 8 PiB.
    number = float(match[1]) if "." in match[1] else int(match[1])
    return round(number * _BYTES[match[2]])


def format_duration(seconds: float) -> str:
    """Return the spelling that `parse_duration` reads back, exact to the millisecond, for configuration: 600.0 -> "10m"."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    if milliseconds < 0:
        return f"-{format_duration(-seconds)}"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_size(size_bytes: int) -> str:
    """Return a size for people, three figures at most below 1000: 2437922816 -> "2.27GiB". Exact for whole binary units."""
    if size_bytes < 0:
        return f"-{format_size(-size_bytes)}"
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        amount = size_bytes / _BYTES[unit]
        if amount >= 999.5:  # noqa: PLR2004 - "%.3g" turns to "1e+03" from here on
            return f"{round(amount)}{unit}"
        if amount >= 1:
            return f"{amount:.3g}{unit}"
    return f"{size_bytes}B" if size_bytes else "0"


def spell_size(size_bytes: int) -> str:
    """Return the shortest exact spelling that `parse_size` reads back, for configuration: 2147483648 -> "2GiB"."""
    if size_bytes == 0:
        return "0"
    spellings = [f"{size_bytes // size}{unit}" for unit, size in _BYTES.items() if size_bytes % size == 0 and unit != "KB"]
    return min(spellings, key=len)


def short_duration(seconds: float) -> str:
    """Return a time span short enough for a column: 0.4 s, 18 min, 3 h 05 min, 4 d 02 h."""
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"  # noqa: PLR2004  # three figures
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60:02d} min" if not days else f"{days} d {hours % 24:02d} h"


def format_count(value: float) -> str:
    """Return how much of some work is done, for people: whole where it is, else with one figure behind the point. 21.3333 -> "21.3"."""
    return f"{value:.1f}".removesuffix(".0")


def say_attempt(attempt: int, failures: int, allowed: int) -> str:
    """Return which attempt of a job this is. A pause or a recycle begins an attempt and costs none: those that failed are counted where that shows."""
    return f"attempt {attempt} of {allowed}" if failures in (attempt - 1, attempt) else f"attempt {attempt}, {failures} of {allowed} failed"


def say_duration(seconds: float) -> str:
    """Return a duration in words for sentences: 600 -> "10 minutes", 90 -> "1 minute 30 seconds", 1.5 -> "1.5 seconds".

    From a minute on it is rounded to whole seconds.
    """
    if seconds < 60 and seconds != round(seconds):  # noqa: PLR2004 - a minute
        return f"{seconds:.4g} seconds"
    words = []
    left = round(seconds)
    for word, size in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {word}{'s' if count != 1 else ''}")
    return " ".join(words) or "0 seconds"


def spell(key: str, value: object) -> tuple[str, str]:
    """Return a key and value as people read them: silent_s=0.41 as silent=0.4s, free_bytes as free=2.27GiB."""
    if key.endswith("_s") and isinstance(value, int | float):
        return key.removesuffix("_s"), f"{value:.0f}s" if abs(value) >= 10 else f"{value:.2g}s" if abs(value) < 1 else f"{value:.1f}s"  # noqa: PLR2004  # three figures at most
    if key.endswith("_bytes") and isinstance(value, int):
        return key.removesuffix("_bytes"), format_size(value)
    if isinstance(value, float):
        return key, f"{value:.4g}"
    if isinstance(value, list | tuple):
        return key, ",".join(str(item) for item in value) or "-"
    text = str(value)
    return key, msgspec.json.encode(text).decode() if not text or any(c.isspace() or c in '"=' for c in text) else text


def spelled(fields: Mapping[str, object]) -> str:
    """Return key=value for each, in their order, and key=value/limit where there is one for it."""
    limits = {limit for key in fields if (limit := _limit_of(key)) in fields}
    return " ".join("=".join(_pair(fields, key)) for key in fields if key not in limits)


def _limit_of(key: str) -> str:
    """Return the key of the limit for a number, which has the same unit: age_limit_s for age_s, mem_limit_bytes for mem_bytes."""
    stem, _, unit = key.rpartition("_")
    return f"{stem}_limit_{unit}" if unit in {"s", "bytes"} else ""


def _pair(fields: Mapping[str, object], key: str) -> tuple[str, str]:
    name, text = spell(key, fields[key])
    limit = _limit_of(key)
    return name, f"{text}/{spell(limit, fields[limit])[1]}" if limit in fields else text
