"""Takes from a JSON Schema that a worker sent what can be checked safely and at a bounded cost: whole in itself, finite, without patterns.

What is left out makes the check milder, never stricter; the worker checks again. Patterns are left out because one can take for ever (and the check runs in
the supervisor); references are put in place of themselves.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_PARTS: Final = 2000  # references put in; 10 ms
_MAX_DEPTH: Final = 24
_MAX_NAME: Final = 200
_LOCAL: Final = re.compile(r"#/(\$defs|definitions)/([^/~%]{1,200})")

_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SAY_NOTHING: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)

Plain = dict[str, Any]


class BadSchema(Exception):
    """A schema that cannot be used, and why."""


def plain(schema: object) -> Plain:
    """Return what can be checked of a schema (of draft 7 to 2020-12; the answer is draft 7). Raises BadSchema that says what is wrong with it."""
    try:
        data = msgspec.json.encode(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSchema(f"it is not JSON: {error}") from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"it has {len(data)} bytes, at most {MAX_SCHEMA_BYTES} were expected")
    if not isinstance(schema, Mapping):
        raise BadSchema(f"it is a {type(schema).__name__}, names with values were expected")
    return _Reduction(schema).of(schema, depth=0)


class _Reduction:
    """One schema on its way. dropped: how many rules were left out so far."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._parts = 0
        self.dropped = 0

    def of(self, schema: object, *, depth: int) -> Plain:
        """Return the plain form of one part."""
        self._parts += 1
        if self._parts > MAX_PARTS or depth > _MAX_DEPTH:
            raise BadSchema(f"it has over {MAX_PARTS} parts or {_MAX_DEPTH} levels with its references put in (does it refer to itself?)")
        if isinstance(schema, bool):
            self.dropped += not schema
            return {}
        if not isinstance(schema, Mapping):
            raise BadSchema(f"a part of it is a {type(schema).__name__}, names with values were expected")
        found: Plain = {}
        for keyword, value in schema.items():
            read = _KEYWORDS.get(keyword)
            if read is not None:
                read(self, found, schema, keyword, value, depth + 1)
            elif keyword not in _SAY_NOTHING:
                self.dropped += 1
        if "$ref" in schema:
            target = self.of(self._target(schema["$ref"]), depth=depth + 1)
            return {"allOf": [target, found]} if found else target
        return found

    def _target(self, reference: object) -> object:
        match = _LOCAL.fullmatch(reference) if isinstance(reference, str) else None
        named = self._root.get(match[1]) if match else None
        if match is None or not isinstance(named, Mapping) or match[2] not in named:
            raise BadSchema(f"it refers to {str(reference)[:100]!r}, which is not in it")
        return named[match[2]]

    def types(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, _depth: int) -> None:
        """Keep one type, or several."""
        types = [value] if isinstance(value, str) else value
        if not isinstance(types, list) or not types or not all(isinstance(one, str) and one in _TYPES for one in types):
            raise BadSchema(f"{keyword} is {str(value)[:100]!r}, {', '.join(sorted(_TYPES))} were expected")
        found["type"] = types[0] if len(types) == 1 else types

    def values(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, _depth: int) -> None:
        """Keep the values that are allowed."""
        allowed = [value] if keyword == "const" else value
        if not isinstance(allowed, list) or not all(_is_scalar(one) for one in allowed):
            self.dropped += 1
        else:
            self._parts += len(allowed)
            found["enum"] = allowed

    def names(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, _depth: int) -> None:
        """Keep the names that must be there."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise BadSchema(f"{keyword} is {str(value)[:100]!r}, a list of names was expected")
        found[keyword] = list(dict.fromkeys(_plain_name(name) for name in value))

    def number(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, _depth: int) -> None:
        """Keep a bound."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadSchema(f"{keyword} is {str(value)[:100]!r}, a number was expected")
        found[keyword] = value

    def factor(self, found: Plain, schema: Mapping[str, Any], keyword: str, value: object, depth: int) -> None:
        """Keep a factor of whole numbers; parts of decimal fractions are nobody's business here."""
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            self.number(found, schema, keyword, value, depth)
        else:
            self.dropped += 1

    def count(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, _depth: int) -> None:
        """Keep how many there must be."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadSchema(f"{keyword} is {str(value)[:100]!r}, a whole number from 0 was expected")
        found[keyword] = value

    def properties(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, depth: int) -> None:
        """Keep what is said of each name."""
        if not isinstance(value, Mapping):
            raise BadSchema(f"{keyword} is a {type(value).__name__}, names with values were expected")
        found[keyword] = {_plain_name(name): self.of(part, depth=depth) for name, part in value.items()}

    def others(self, found: Plain, schema: Mapping[str, Any], keyword: str, value: object, depth: int) -> None:
        """Keep what is said of all other names, unless a pattern, which is left out, would have allowed some of them."""
        if "patternProperties" not in schema and value is not True:
            found[keyword] = False if value is False else self.of(value, depth=depth)

    def items(self, found: Plain, schema: Mapping[str, Any], keyword: str, value: object, depth: int) -> None:
        """Keep what is said of the values of a list; draft 7 has other words for a list of fixed places."""
        if keyword == "prefixItems" or isinstance(value, list):
            if not isinstance(value, list):
                raise BadSchema(f"{keyword} is a {type(value).__name__}, a list was expected")
            found["items"] = [self.of(part, depth=depth) for part in value]
        elif "prefixItems" in schema:
            found["additionalItems"] = False if value is False else self.of(value, depth=depth)
        elif value is False:
            found["items"] = []
            found["additionalItems"] = False
        else:
            found.setdefault("items", self.of(value, depth=depth))

    def choices(self, found: Plain, _schema: Mapping[str, Any], keyword: str, value: object, depth: int) -> None:
        """Keep several ways; exactly one of them only where each is kept as it was, as a milder one would fit more often."""
        if not isinstance(value, list) or not value:
            raise BadSchema(f"{keyword} is {str(value)[:100]!r}, a list was expected")
        before = self.dropped
        ways = [self.of(part, depth=depth) for part in value]
        if keyword != "oneOf" or self.dropped == before:
            found[keyword] = ways


_Read = Callable[[_Reduction, Plain, Mapping[str, Any], str, object, int], None]

_KEYWORDS: Final[Mapping[str, _Read]] = {
    "type": _Reduction.types,
    "enum": _Reduction.values,
    "const": _Reduction.values,
    "required": _Reduction.names,
    **dict.fromkeys(_NUMBERS, _Reduction.number),
    "multipleOf": _Reduction.factor,
    **dict.fromkeys(_COUNTS, _Reduction.count),
    "properties": _Reduction.properties,
    "additionalProperties": _Reduction.others,
    "items": _Reduction.items,
    "prefixItems": _Reduction.items,
    "anyOf": _Reduction.choices,
    "allOf": _Reduction.choices,
    "oneOf": _Reduction.choices,
    "$ref": lambda *_: None,  # put in place at the end, beside what else is said
}


def _plain_name(name: object) -> str:
    if not isinstance(name, str) or len(name) > _MAX_NAME:
        raise BadSchema(f"it has the name {str(name)[:100]!r}, text of at most {_MAX_NAME} characters was expected")
    return name


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
