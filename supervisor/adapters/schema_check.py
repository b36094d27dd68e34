"""Holds a value against a plain schema: the first place where it does not fit, and which rule it breaks.

fastjsonschema does the same after it compiled the schema to code: 10 to 30 ms for yolo.train alone, which the supervisor's loop cannot spare, and code made of
a worker's words. This needs no compiling and checks those parameters in 0.05 ms (2026-11-25, 2 shared cores); the tests hold the two against each other.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from supervisor.adapters.plain_schema import Plain

MAX_STEPS: Final = 100_000  # places of a value that are looked at: 0.1 s; beyond that the worker is the judge


class Misfit(Struct, frozen=True):
    """What does not fit. where: `params.prompts[0].box`.  keyword: the rule that it breaks, one of `rule`."""

    where: str
    value: Any
    keyword: str
    rule: Plain


class TooLarge(Exception):
    """The value has more places than can be looked at here."""


def misfit(schema: Plain, value: object) -> Misfit | None:
    """Return the first misfit, or None when all fits. A whole number is one that is written so: 2.0 is none. Raises TooLarge."""
    return _Look().at(schema, value, "params")


class _Look:
    """One value on its way through one schema."""

    def __init__(self) -> None:
        self._steps = 0

    def at(self, rule: Plain, value: object, where: str) -> Misfit | None:
        """Return the first misfit here or below."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooLarge(f"more than {MAX_STEPS} places")
        for keyword, fits in _HERE.items():
            if keyword in rule and not fits(rule[keyword], value):
                return Misfit(where, value, keyword, rule)
        return self._ways(rule, value, where) or self._below(rule, value, where)

    def _ways(self, rule: Plain, value: object, where: str) -> Misfit | None:
        for part in rule.get("allOf", ()):
            found = self.at(part, value, where)
            if found is not None:
                return found
        for keyword in ("anyOf", "oneOf"):
            if keyword in rule:
                found = self._choice(rule, keyword, value, where)
                if found is not None:
                    return found
        return None

    def _choice(self, rule: Plain, keyword: str, value: object, where: str) -> Misfit | None:
        misfits = [self.at(way, value, where) for way in rule[keyword]]
        fitting = misfits.count(None)
        if fitting == 1 or (fitting > 1 and keyword == "anyOf"):
            return None
        below = [found for found in misfits if found is not None and found.where != where]
        # Where one way alone was meant (a list of boxes, or null), the place inside it says more than that no way fits.
        return below[0] if len(below) == 1 and not fitting else Misfit(where, value, keyword, rule)

    def _below(self, rule: Plain, value: object, where: str) -> Misfit | None:
        if isinstance(value, dict):
            named, others = rule.get("properties", {}), rule.get("additionalProperties", True)
            for name, inner in value.items():
                part = named.get(name, others)
                if part is False:
                    return Misfit(where, value, "additionalProperties", rule)
                found = None if part is True else self.at(part, inner, f"{where}.{name}")
                if found is not None:
                    return found
        if isinstance(value, list):
            items, others = rule.get("items", {}), rule.get("additionalItems", {})
            places = items if isinstance(items, list) else ()
            if others is False and len(value) > len(places) and isinstance(items, list):
                return Misfit(where, value, "additionalItems", rule)
            each = others if isinstance(items, list) else items
            for index, inner in enumerate(value if each else value[: len(places)]):
                found = self.at(places[index] if index < len(places) else each, inner, f"{where}[{index}]")
                if found is not None:
                    return found
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS_A: Final[Mapping[str, Callable[[object], bool]]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # in Python 1 is True


def _holds(kind: type | Callable[[object], bool], compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a rule that holds for values of this kind alone: others are the business of `type`."""
    return lambda limit, value: not (isinstance(value, kind) if isinstance(kind, type) else kind(value)) or compare(limit, value)


_HERE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "type": lambda types, value: any(_IS_A[one](value) for one in ([types] if isinstance(types, str) else types)),
    "enum": lambda allowed, value: any(_same(one, value) for one in allowed),
    "minimum": _holds(_is_number, lambda low, value: value >= low),
    "maximum": _holds(_is_number, lambda high, value: value <= high),
    "exclusiveMinimum": _holds(_is_number, lambda low, value: value > low),
    "exclusiveMaximum": _holds(_is_number, lambda high, value: value < high),
    "multipleOf": _holds(_is_number, lambda factor, value: value % factor == 0),
    "minLength": _holds(str, lambda low, value: len(value) >= low),
    "maxLength": _holds(str, lambda high, value: len(value) <= high),
    "minItems": _holds(list, lambda low, value: len(value) >= low),
    "maxItems": _holds(list, lambda high, value: len(value) <= high),
    "minProperties": _holds(dict, lambda low, value: len(value) >= low),
    "maxProperties": _holds(dict, lambda high, value: len(value) <= high),
    "required": _holds(dict, lambda names, value: all(name in value for name in names)),
}
"""What can be said of a value without a look inside it."""
