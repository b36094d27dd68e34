"""Options and parameters as they were given, held to the shape that the worker declared."""

import difflib
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
