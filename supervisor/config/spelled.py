"""Limits written as the file writes them, for `config show`, for messages, and for the test that compares the shipped file with the code."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from supervisor.config import forms
from supervisor.config.keys import JOB_FIELDS, key_of
from supervisor.core.limits import Limits, ScheduleSpec
from supervisor.units import format_duration, spell_size


def spell_field(field: str, value: object) -> str:
    """Return a field's value as TOML: ("stall_after_s", 600.0) -> '"10m"'."""
    if field == "phases" and isinstance(value, Mapping):
        return forms.spell({phase: format_duration(limit_s) for phase, limit_s in value.items()}, shown=1_000_000)
    if isinstance(value, float) and field.endswith("_s"):
        return f'"{format_duration(value)}"'
    if isinstance(value, int) and field.endswith("_bytes"):
        return f'"{spell_size(value)}"'
    return forms.spell(value, shown=1_000_000)


def spelled(limits: Limits, *, inside: bool = False) -> dict[str, str]:
    """Return every effective key and its value as TOML, in the order of the file: {"watchdog.stall_after": '"10m"', ...}.

    inside: each key of an inline table by itself: {"workers.sam.options.image_size": "1024", ...}.
    """
    keys: dict[str, str] = {}
    for table in limits.__struct_fields__:
        value = getattr(limits, table)
        if isinstance(value, Mapping):
            for name, spec in value.items():
                keys |= _spelled(f"{table}.{name}", spec, inside=inside)
        else:
            keys |= _spelled(table, value, inside=inside)
    return keys


def _spelled(prefix: str, values: Struct, *, inside: bool) -> Iterator[tuple[str, str]]:
    """Yield the keys of one Struct; those of a worker's watchdog stand among its own."""
    for field in values.__struct_fields__:
        value = getattr(values, field)
        if isinstance(value, Struct):
            yield from _spelled(prefix if field == "watchdog" else f"{prefix}.{field}", value, inside=inside)
        elif value is not None:  # a key that nobody set and that has no default
            job = "job." if isinstance(values, ScheduleSpec) and field in JOB_FIELDS else ""
            key = f"{prefix}.{job}{key_of(field)}"
            yield from _parts(key, field, value) if inside else [(key, spell_field(field, value))]


def _parts(key: str, field: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield a value, or where it is a table each key of it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _parts(f"{key}.{forms.spell_key(name)}", "limit_s" if field == "phases" else "", item)
    else:
        yield key, spell_field(field, value)
