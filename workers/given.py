"""Options and parameters as they were given, held to the shape that the worker declared, and the files that they name."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from workers.report import BadInput

_STEP: Final = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")
_SAYS_WHAT_IT_FOUND: Final = re.compile(r", got |^Invalid")
_SHOWN: Final = 60


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
        expected = text.partition(" - at ")[0]
        raise BadInput(f"{what}{'.' + where if where else ''}: {expected}{'' if _SAYS_WHAT_IT_FOUND.search(expected) else _found(values, where)}") from error


def _found(values: Any, where: str) -> str:
    """Return what stands at the place that does not fit, for a rule that does not say it; nothing where the place cannot be told."""
    for number, name in _STEP.findall(where):
        try:
            values = values[int(number)] if number else values[name]
        except (LookupError, TypeError, ValueError):  # `[...]` is some value of a dict, and none knows which
            return ""
    text = msgspec.json.encode(values).decode()
    return f", found {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"


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


def named_path(path: str, *, what: str, base: Path) -> Path:
    """Return the whole path of what a parameter names. base: the folder of supervisor.toml. Raises BadInput for a relative one that is not there.

    The command line makes a relative path whole where it finds it in its own folder: one that comes here as it was typed was not found there.
    """
    found = base / Path(path).expanduser()
    if not Path(path).expanduser().is_absolute() and not found.exists():
        looked = f"neither in the folder where the job was submitted nor in {base}, where supervisor.toml is"
        raise BadInput(f'{what} = "{path}" does not exist, {looked}. Check the path, or give the whole one.')
    return found


def existing_file(path: str, *, what: str) -> Path:
    """Return the path of a file that can be opened. what: "video", "image". Raises BadInput."""
    found = Path(path).expanduser()
    if not path or found.is_dir():
        raise BadInput(f'{what} = "{path}" is {"a folder" if path else "empty"}: the path of one {what} file was expected.')
    if not found.is_absolute():
        looked = "in the folder where the job was submitted, and the worker looks in no other"
        raise BadInput(f'{what} = "{path}" does not exist {looked}. Check the path, or give the whole one.')
    try:
        with found.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise BadInput(f"{what}: there is no file {found}. Check the path.") from error
    except OSError as error:
        raise BadInput(f"{what}: {found} cannot be read ({error.strerror}). Check its permissions.") from error
    if empty:
        raise BadInput(f"{what}: {found} is empty (0 bytes). Give a file with a picture in it.")
    return found
