"""Options and parameters as they were given, held to the shape that the worker declared."""

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from workers.report import BadInput


def held_to(shape: type[Struct], values: Any, *, what: str) -> Struct:
    """Return values as the Struct. Raises BadInput that names an unknown name with the nearest known one, or what did not fit and where."""
    if not isinstance(values, dict):
        raise BadInput(f"{what}: expected names with values, found {type(values).__name__}")
    known = shape.__struct_fields__
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
            raise BadInput(f"{what}: {name} is unknown ({hint})")
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rpartition(" - at `$.")[2].rstrip("`") if " - at `$." in text else ""
        raise BadInput(f"{what}{'.' + where if where else ''}: {text.partition(' - at ')[0]}") from error


def schemas_of(shapes: Mapping[str, type[Struct]]) -> dict[str, Any]:
    """Return kind -> JSON Schema (draft 2020-12, whole in itself) of what `held_to` takes. A shape that no schema can say is left out."""
    found = {}
    for kind, shape in shapes.items():
        try:
            found[kind] = schema_of(shape)
        except TypeError as error:
            print(f"warden: the parameters of {kind} cannot be told as a JSON Schema, so they are checked when the job begins: {error}", flush=True)
    return found


def schema_of(shape: type[Struct]) -> dict[str, Any]:
    """Return the JSON Schema of one shape. Raises TypeError for what JSON cannot say.

    A shape may add to it what types cannot say, with a class attribute `schema_extra`, which its __post_init__ must hold to as well.
    """
    whole = msgspec.json.schema(shape)
    named: dict[str, Any] = whole["$defs"][whole["$ref"].rpartition("/")[2]]
    named["additionalProperties"] = False  # held_to refuses unknown names, also where the Struct does not
    named.update(getattr(shape, "schema_extra", {}))
    return whole
