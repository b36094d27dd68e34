"""Says in one sentence what of somebody's parameters does not fit their schema: where, what was found, what was expected."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from supervisor.adapters.schema_check import Misfit

_SHOWN: Final = 60  # characters of what was found
_LISTED: Final = 20  # values or names that are listed
_TYPES: Final[Mapping[str, str]] = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "names with values",
    "string": "text",
}
_MEANT: Final[Mapping[str, Sequence[str]]] = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties", "required", "properties"),
}
"""Which type a rule is about that names none."""
_WAYS: Final = frozenset({"anyOf", "oneOf", "allOf"})


def sentence(found: Misfit) -> str:
    """Return what does not fit, such as `params.epochs: found "3", expected a whole number from 1 to 1000000`."""
    where, value, rule = _cut(found.where), found.value, found.rule
    if found.keyword == "required":
        return _missing(where, value, rule)
    if found.keyword == "additionalProperties":
        return _unknown(where, value, rule)
    names = _one_of_names(rule) if found.keyword == "oneOf" and isinstance(value, dict) else []
    if names:
        there = [name for name in names if name in value]
        return f"{where}: found {' and '.join(there) or 'none of them'}, expected exactly one of {', '.join(names)}"
    if found.keyword == "additionalItems":
        return f"{where}: found {_found(value)}, expected at most {len(rule['items'])} values"
    # A rule may say several things; where its type fits, what it says of ways is the one that was broken.
    said = {found.keyword: rule[found.keyword]} if found.keyword in {"anyOf", "oneOf"} else {key: part for key, part in rule.items() if key not in _WAYS}
    return f"{where}: found {_found(value)}, expected {expected(said)}"


def expected(rule: Mapping[str, Any]) -> str:
    """Return in words what a schema allows."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in rule:
            return " or ".join(dict.fromkeys(expected(way) for way in rule[keyword]))
    if "allOf" in rule:
        return " and ".join(dict.fromkeys(expected(part) for part in rule["allOf"]))
    if "enum" in rule:
        listed = [_json(value) for value in rule["enum"][:_LISTED]]
        more = f", ... ({len(rule['enum'])} in all)" if len(rule["enum"]) > _LISTED else ""
        return f"one of {', '.join(listed)}{more}" if len(listed) != 1 else listed[0]
    types = rule.get("type", [])
    if not types:  # bounds alone
        types = [name for name, keywords in _MEANT.items() if any(keyword in rule for keyword in keywords)]
    return " or ".join(_of_type(one, rule) for one in ([types] if isinstance(types, str) else types)) or "something else"


def _of_type(name: str, rule: Mapping[str, Any]) -> str:
    words = _TYPES[name]
    if name in {"integer", "number"}:
        return f"{words}{_bounds(rule)}"
    if name == "string":
        return f"{words}{_size(rule, 'Length', ' of', 'characters')}"
    if name == "array":
        return f"{words}{_size(rule, 'Items', ' of', 'values')}"
    return words


def _bounds(rule: Mapping[str, Any]) -> str:
    low, high = rule.get("minimum"), rule.get("maximum")
    both = low is not None and high is not None
    parts = [
        f"above {rule['exclusiveMinimum']}" if "exclusiveMinimum" in rule else "",
        f"from {low} to {high}" if both else "",
        f"of at least {low}" if low is not None and not both else "",
        f"of at most {high}" if high is not None and not both else "",
        f"below {rule['exclusiveMaximum']}" if "exclusiveMaximum" in rule else "",
        f"a multiple of {rule['multipleOf']}" if "multipleOf" in rule else "",
    ]
    return " " + ", ".join(part for part in parts if part) if any(parts) else ""


def _size(rule: Mapping[str, Any], what: str, of: str, unit: str) -> str:
    low, high = rule.get(f"min{what}"), rule.get(f"max{what}")
    if low is not None and low == high:
        return f"{of} {low} {unit}"
    if low == 1 and high is None:
        return " that is not empty"
    parts = [f"at least {low}"] if low is not None else []
    parts += [f"at most {high}"] if high is not None else []
    return f"{of} {' and '.join(parts)} {unit}" if parts else ""


def _missing(where: str, value: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    missing = [name for name in rule.get("required", []) if name not in value]
    parts = [f"{name} ({expected(rule.get('properties', {}).get(name, {}))})" for name in missing[:_LISTED]]
    return f"{where}: {', '.join(parts)} {'is' if len(parts) == 1 else 'are'} missing"


def _unknown(where: str, value: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    known = list(rule.get("properties", {}))
    name = next((name for name in value if name not in known), "?")
    near = difflib.get_close_matches(name[:_SHOWN], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known[:_LISTED]) or 'none'}{', ...' if len(known) > _LISTED else ''}"
    return f"{where}: {_cut(name)} is unknown ({hint})"


def _one_of_names(rule: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of which exactly one must be there, where that is what the schema says."""
    ways = rule["oneOf"]
    if all(set(way) == {"required"} and len(way["required"]) == 1 for way in ways):
        return [way["required"][0] for way in ways]
    return []


def _found(value: object) -> str:
    if isinstance(value, list) and value:
        text = _json(value)
        return text if len(text) <= _SHOWN else f"a list of {len(value)} values"
    if isinstance(value, dict) and value:
        return f"names with values ({_cut(', '.join(map(str, value)))})"
    return _cut(_json(value))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
