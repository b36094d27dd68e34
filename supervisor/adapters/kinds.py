"""What the parameters of each kind of job must look like, as the workers said when they started: kept over restarts, held against what people submit."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from supervisor.adapters.misfits import sentence
from supervisor.adapters.plain_schema import BadSchema, Plain, plain
from supervisor.adapters.schema_check import TooLarge, misfit

MAX_KINDS: Final = 200
_MAX_FILE_BYTES: Final = 16 * 2**20
_MAX_NAME: Final = 100


class KnownKind(Struct, frozen=True):
    """One kind: the model whose worker serves it, and the JSON Schema of its parameters as it came."""

    worker: str
    params: Any


class KnownKinds:
    """The kinds, in the order in which they were learnt. refused counts what was not taken, by reason; it never raises for what a worker or a file says.

    `learn` and `wrong` take under a millisecond for the kinds of SAM and YOLO; they belong to one thread.
    """

    def __init__(self, path: Path) -> None:
        """Read what was kept at the path; what is not whole counts as nothing."""
        self.refused: Counter[str] = Counter()
        self._path = path
        self._kinds: dict[str, KnownKind] = {}
        self._plain: dict[str, Plain] = {}
        self._load()

    def known(self) -> Mapping[str, KnownKind]:
        """Return every kind."""
        return dict(self._kinds)

    def schema(self, kind: str) -> Any:
        """Return the schema of a kind's parameters as it came, None for a kind of which nothing is known."""
        known = self._kinds.get(kind)
        return known.params if known is not None else None

    def learn(self, model: str, params: Mapping[str, Any]) -> bool:
        """Take what a worker of this model says of its kinds, in place of what one said before. Returns whether there is something new to `save`."""
        if all(self._kinds.get(kind) == KnownKind(model, schema) for kind, schema in params.items()) and len(params) == self._count(model):
            return False
        said: dict[str, KnownKind] = {}
        plains: dict[str, Plain] = {}
        for kind, schema in params.items():
            reduced = self._reduced(model, kind, schema)
            if reduced is not None:
                said[kind], plains[kind] = KnownKind(model, schema), reduced
        gone = {kind for kind, known in self._kinds.items() if known.worker == model and kind not in said}
        after = {**{kind: known for kind, known in self._kinds.items() if kind not in gone}, **said}
        if after == self._kinds or len(after) > MAX_KINDS:
            return False
        self._kinds = after
        self._plain = {**{kind: known for kind, known in self._plain.items() if kind in after}, **plains}
        return True

    def save(self) -> None:
        """Keep all for the next start, whole or not at all. It waits for the disk: for a thread. Raises OSError."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(self._kinds))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def wrong(self, kind: str, params: object) -> str:
        """Return one sentence about what does not fit (what was found, what was expected, where); nothing when all fits or the kind is unknown."""
        schema = self._plain.get(kind)
        if schema is None:
            return ""
        try:
            found = misfit(schema, params)
        except (TooLarge, RecursionError, ArithmeticError):
            self.refused[f"parameters of {kind} that are too large to be looked at"] += 1
            return ""
        return "" if found is None else f"{kind}: {sentence(found)}"

    def _count(self, model: str) -> int:
        return sum(1 for known in self._kinds.values() if known.worker == model)

    def _reduced(self, model: str, kind: str, schema: object) -> Plain | None:
        """Return what of a schema is checked, or None, counted, when it is of no use."""
        if not 0 < len(kind) <= _MAX_NAME:
            self.refused[f"{model}: a kind with a name of {len(kind)} characters"] += 1
            return None
        try:
            return plain(schema)
        except (BadSchema, RecursionError) as error:
            self.refused[f"{model}: the schema of {kind} is of no use: {str(error)[:200]}"] += 1
            return None

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                found = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=dict[str, KnownKind])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            self.refused[f"{self._path.name} cannot be read: {type(error).__name__}"] += 1
            return
        for kind, known in list(found.items())[:MAX_KINDS]:
            reduced = self._reduced(known.worker, kind, known.params)
            if reduced is not None:
                self._kinds[kind], self._plain[kind] = known, reduced
