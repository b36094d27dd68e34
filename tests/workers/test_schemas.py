"""What a worker says of its parameters is what it holds them to: what passes at the door passes in the worker, and the other way round."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from supervisor.adapters.kinds import KnownKinds
from workers import fake
from workers.given import held_to, schema_of, schemas_of
from workers.report import BadInput
from workers.sam.requests import PropagateParams, SegmentParams
from workers.yolo.params import PredictParams, TrainParams

MASKS = {"video": "/v.mp4", "masks_dir": "/m"}
PROMPT: dict[str, Any] = {"points": [[1, 2.5]]}


class Pair(Struct, frozen=True):
    """Forms that the workers here do not use, but others may."""

    both: tuple[int, str]
    names: dict[str, float] = {}
    self_: "list[int] | None" = None


SHAPES: dict[str, type[Struct]] = {"train": TrainParams, "predict": PredictParams, "propagate": PropagateParams, "segment": SegmentParams, "fake": fake.Params}
SHAPES["pair"] = Pair

GOOD: list[tuple[str, Any]] = [
    ("train", {"data": "set"}),
    ("train", {"masks": MASKS}),
    ("train", {"masks": {**MASKS, "classes": {"1": "street"}, "val_share": 0.5, "every": 3}, "epochs": 2}),
    ("train", {"data": "set", "lr0": 0.1, "optimizer": "SGD", "image_size": 96, "mosaic": 0, "cos_lr": True}),
    ("train", {"data": "set", "lr0": None, "image_size": None}),
    ("predict", {"image": "a.jpg"}),
    ("predict", {"image": ["a.jpg", "b.jpg"], "conf": 1, "weights": None}),
    ("propagate", {"video": "/v", "prompts": []}),
    ("propagate", {"video": "/v", "prompts": [PROMPT, {"frame": 3, "object": 2, "box": [1, 2, 3, 4], "labels": [1, 0]}], "max_frames": 9}),
    ("segment", {"image": "/i", "boxes": [[1, 2, 3, 4]], "multimask": True}),
    ("fake", {}),
    ("fake", {"steps": 3, "fault": "hold", "step_s": 1}),
    ("pair", {"both": [1, "x"], "names": {"a": 1, "b": 0.5}, "self_": [1]}),
]
NO_PARAMS: list[Any] = [[], None, "text", 3, {"zzz": 1}]
BAD: list[tuple[str, Any]] = [
    *((kind, values) for kind in SHAPES for values in NO_PARAMS),
    ("train", {}),
    ("train", {"data": "set", "masks": MASKS}),
    ("train", {"data": None}),
    ("train", {"data": ""}),
    ("train", {"data": "set", "epoch": 3}),
    ("train", {"data": "set", "epochs": "3"}),
    ("train", {"data": "set", "epochs": 0}),
    ("train", {"data": "set", "epochs": 2.0}),
    ("train", {"data": "set", "epochs": True}),
    ("train", {"data": "set", "lr0": 0}),
    ("train", {"data": "set", "mosaic": 1.01}),
    ("train", {"data": "set", "optimizer": "sgd"}),
    ("train", {"data": "set", "image_size": 32}),
    ("train", {"data": "set", "cos_lr": 1}),
    ("train", {"masks": {"video": "/v.mp4"}}),
    ("train", {"masks": {**MASKS, "val_share": 1}}),
    ("train", {"masks": {**MASKS, "every": 0}}),
    ("train", {"masks": {**MASKS, "classes": {"1": ""}}}),
    ("train", {"masks": {**MASKS, "clases": {}}}),
    ("predict", {"image": []}),
    ("predict", {"image": [1]}),
    ("predict", {"image": "a", "conf": -0.1}),
    ("propagate", {"video": "/v"}),
    ("propagate", {"video": "/v", "prompts": [{"pints": [[1, 2]]}]}),
    ("propagate", {"video": "/v", "prompts": [{"points": [[1]]}]}),
    ("propagate", {"video": "/v", "prompts": [{"points": [[1, 2]], "labels": [2]}]}),
    ("propagate", {"video": "/v", "prompts": [{"box": [1, 2, 3]}]}),
    ("propagate", {"video": "/v", "prompts": [PROMPT], "first_frame": -1}),
    ("segment", {"image": "/i", "points": [[1, "x"]]}),
    ("fake", {"fault": "sleepy"}),
    ("pair", {"both": [1, "x", 2]}),
    ("pair", {"both": [1]}),
    ("pair", {"both": ["x", 1]}),
    ("pair", {"both": [1, "x"], "names": {"a": "b"}}),
]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> KnownKinds:
    known = KnownKinds(tmp_path_factory.mktemp("kinds") / "kinds.json")
    known.learn("worker", schemas_of(SHAPES))
    assert set(known.known()) == set(SHAPES)
    assert known.refused == {}
    return known


@pytest.mark.parametrize(("kind", "values"), GOOD)
def test_what_the_worker_takes_passes_at_the_door(kinds: KnownKinds, kind: str, values: Any) -> None:
    held_to(SHAPES[kind], values, what="params")

    assert kinds.wrong(kind, values) == ""


@pytest.mark.parametrize(("kind", "values"), BAD)
def test_what_the_worker_refuses_is_refused_at_the_door(kinds: KnownKinds, kind: str, values: Any) -> None:
    with pytest.raises(BadInput):
        held_to(SHAPES[kind], values, what="params")

    assert kinds.wrong(kind, values).startswith(f"{kind}: params")


def test_a_shape_that_no_schema_can_say_is_left_out_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd(Struct):
        path: Path

    assert set(schemas_of({"odd": Odd, "pair": Pair})) == {"pair"}
    assert "the parameters of odd cannot be told as a JSON Schema" in capsys.readouterr().out


def test_the_schema_is_for_people_as_well() -> None:
    named = schema_of(TrainParams)["$defs"]["TrainParams"]

    assert named["description"].startswith("One training.")
    assert named["properties"]["epochs"] == {"type": "integer", "minimum": 1, "maximum": 1000000, "default": 100}
