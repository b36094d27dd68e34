"""What workers say of their kinds is kept, used to say what does not fit, and never believed too much."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.adapters.kinds import KnownKinds
from supervisor.adapters.plain_schema import MAX_SCHEMA_BYTES

COUNT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {"type": "integer", "minimum": 1, "maximum": 9},
        "name": {"type": "string", "minLength": 1},
        "mode": {"enum": ["fast", "slow", None]},
        "rate": {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "null"}]},
        "boxes": {"type": "array", "items": {"$ref": "#/$defs/Box"}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
        "on": {"type": "boolean"},
        "size": {"type": "integer", "multipleOf": 32},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["steps"],
    "additionalProperties": False,
    "$defs": {"Box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}},
}


@pytest.fixture
def kinds(tmp_path: Path) -> KnownKinds:
    known = KnownKinds(tmp_path / "kinds.json")
    known.learn("fake", {"demo.count": COUNT})
    return known


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"steps": 3, "name": "x", "mode": None, "rate": 0.5, "boxes": [[1, 2, 3.5, 4]], "pair": [1, "x"], "on": True, "size": 64, "labels": {"1": "bus"}}, ""),
        ({"steps": "3"}, 'params.steps: found "3", expected a whole number from 1 to 9'),
        ({"steps": 2.0}, "params.steps: found 2.0, expected a whole number from 1 to 9"),
        ({"steps": True}, "params.steps: found true, expected a whole number from 1 to 9"),
        ({"steps": 10}, "params.steps: found 10, expected a whole number from 1 to 9"),
        ({"step": 3, "steps": 1}, "params: step is unknown (did you mean steps?)"),
        ({"steps": 1, "zzz": 3}, "params: zzz is unknown (known are steps, name, mode, rate, boxes, pair, on, size, labels)"),
        ({}, "params: steps (a whole number from 1 to 9) is missing"),
        ([], "params: found [], expected names with values"),
        (None, "params: found null, expected names with values"),
        ({"steps": 1, "name": ""}, 'params.name: found "", expected text that is not empty'),
        ({"steps": 1, "mode": "fats"}, 'params.mode: found "fats", expected one of "fast", "slow", null'),
        ({"steps": 1, "rate": 0}, "params.rate: found 0, expected a number above 0, of at most 1 or null"),
        ({"steps": 1, "boxes": [[1, 2, 3, 4], [1, 2]]}, "params.boxes[1]: found [1,2], expected a list of 4 values"),
        ({"steps": 1, "boxes": [[1, 2, "x", 4]]}, 'params.boxes[0][2]: found "x", expected a number'),
        ({"steps": 1, "pair": ["x", 1]}, 'params.pair[0]: found "x", expected a whole number'),
        ({"steps": 1, "pair": [1, "x", 2]}, 'params.pair: found [1,"x",2], expected at most 2 values'),
        ({"steps": 1, "size": 33}, "params.size: found 33, expected a whole number a multiple of 32"),
        ({"steps": 1, "on": 1}, "params.on: found 1, expected true or false"),
        ({"steps": 1, "labels": {"1": 2}}, "params.labels.1: found 2, expected text"),
        ({"steps": 1, "name": {"a": 1}}, "params.name: found names with values (a), expected text that is not empty"),
        ({"steps": list(range(99))}, "params.steps: found a list of 99 values, expected a whole number from 1 to 9"),
    ],
)
def test_one_sentence_says_where_what_was_found_and_what_was_expected(kinds: KnownKinds, params: object, says: str) -> None:
    assert kinds.wrong("demo.count", params) == (f"demo.count: {says}" if says else "")


def test_of_two_names_exactly_one(tmp_path: Path) -> None:
    kinds = KnownKinds(tmp_path / "kinds.json")
    kinds.learn("yolo", {"train": {"type": "object", "oneOf": [{"required": ["data"]}, {"required": ["masks"]}]}})

    assert kinds.wrong("train", {"data": 1}) == ""
    assert kinds.wrong("train", {}) == "train: params: found none of them, expected exactly one of data, masks"
    assert kinds.wrong("train", {"data": 1, "masks": 2}) == "train: params: found data and masks, expected exactly one of data, masks"


def test_of_a_kind_that_nobody_described_nothing_is_wrong(kinds: KnownKinds) -> None:
    assert kinds.wrong("demo.other", {"x": 1}) == ""


def test_what_was_learnt_outlives_the_supervisor(kinds: KnownKinds, tmp_path: Path) -> None:
    kinds.save()

    again = KnownKinds(tmp_path / "kinds.json")

    assert again.known() == kinds.known()
    assert again.known()["demo.count"].worker == "fake"
    assert again.wrong("demo.count", {"steps": 0}) == kinds.wrong("demo.count", {"steps": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["kinds.json"]


def test_a_worker_that_starts_anew_replaces_what_it_said_and_only_that(kinds: KnownKinds) -> None:
    kinds.learn("other", {"other.kind": {"type": "object"}})

    assert not kinds.learn("fake", {"demo.count": COUNT}), "nothing new"
    assert kinds.learn("fake", {"demo.more": {"type": "object"}})

    assert {kind: known.worker for kind, known in kinds.known().items()} == {"other.kind": "other", "demo.more": "fake"}
    assert kinds.wrong("demo.count", {}) == "", "it is not served any more"


def test_an_old_schema_does_not_outlive_a_worker_that_sends_none(kinds: KnownKinds) -> None:
    assert kinds.learn("fake", {})

    assert kinds.wrong("demo.count", {}) == ""


NESTED: dict[str, Any] = {"type": "integer"}
for _ in range(100):
    NESTED = {"type": "array", "items": NESTED}
WIDE: dict[str, Any] = {"$defs": {f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(20)}, "$ref": "#/$defs/d0"}
WIDE["$defs"]["d20"] = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (7, "it is a int"),
        (["object"], "it is a list"),
        ({"type": "objekt"}, "'objekt'"),
        ({"type": []}, "type is '[]'"),
        ({"minimum": "3"}, "minimum is '3', a number was expected"),
        ({"minLength": -1}, "minLength is '-1'"),
        ({"minItems": True}, "minItems is 'True'"),
        ({"required": "steps"}, "a list of names was expected"),
        ({"properties": ["steps"]}, "properties is a list"),
        ({"properties": {"a": 3}}, "a part of it is a int"),
        ({"properties": {"a" * 201: {}}}, "at most 200 characters"),
        ({"anyOf": []}, "anyOf is '[]', a list was expected"),
        ({"prefixItems": {}}, "prefixItems is a dict"),
        ({"$ref": "#/$defs/nowhere"}, "which is not in it"),
        ({"$ref": "https://example.com/schema.json"}, "which is not in it"),
        ({"$ref": "file:///etc/passwd"}, "which is not in it"),
        ({"$ref": 7}, "which is not in it"),
        ({"$defs": {"A": {"items": {"$ref": "#/$defs/A"}}}, "$ref": "#/$defs/A"}, "does it refer to itself?"),
        (NESTED, "does it refer to itself?"),
        (WIDE, "does it refer to itself?"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, f"at most {MAX_SCHEMA_BYTES} were expected"),
        ({"type": "object", "x": object()}, "it is not JSON"),
    ],
)
def test_a_schema_that_is_of_no_use_is_counted_and_checks_nothing(kinds: KnownKinds, schema: Any, why: str) -> None:
    kinds.learn("hostile", {"bad": schema, "good": {"type": "object"}})

    assert kinds.wrong("bad", {"anything": 1}) == ""
    [counted] = kinds.refused
    assert counted.startswith("hostile: the schema of bad is of no use: ")
    assert why in counted
    assert set(kinds.known()) == {"demo.count", "good"}


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "(a+)+$", "type": "string"},
        {"type": "string", "format": "date-time"},
        {"enum": ["a" * 40 + "b", {"not": "scalar"}]},
        {"not": {"type": "string"}},
        {"if": {"type": "string"}, "then": False},
        {"oneOf": [{"type": "string", "pattern": "x"}, {"type": "string"}]},
        {"anyOf": [{"type": "string", "pattern": "x"}, {"type": "integer"}]},
        True,
    ],
)
def test_rules_that_are_left_out_make_the_check_milder(tmp_path: Path, schema: Any) -> None:
    kinds = KnownKinds(tmp_path / "kinds.json")
    kinds.learn("other", {"kind": {"type": "object", "properties": {"text": schema}}})

    assert kinds.wrong("kind", {"text": "a" * 40 + "b"}) == ""
    assert kinds.refused == {}


def test_names_that_a_pattern_would_have_allowed_are_not_refused(tmp_path: Path) -> None:
    kinds = KnownKinds(tmp_path / "kinds.json")
    kinds.learn("other", {"kind": {"type": "object", "patternProperties": {"^x-": {}}, "additionalProperties": False}})

    assert kinds.wrong("kind", {"x-1": 1}) == ""


def test_parameters_that_are_too_large_to_look_at_are_left_to_the_worker(kinds: KnownKinds) -> None:
    assert kinds.wrong("demo.count", {"steps": 1, "boxes": [[1, 2, 3, 4]] * 50_000}) == ""
    assert kinds.refused == {"parameters of demo.count that are too large to be looked at": 1}


def test_a_long_name_of_somebody_is_cut(kinds: KnownKinds) -> None:
    assert len(kinds.wrong("demo.count", {"steps": 1, "x" * 100_000: 1})) < 300
    assert len(kinds.wrong("demo.count", {"steps": 1, "labels": {"y" * 100_000: 1}})) < 300


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"demo.count": {"worker": 3}}', b"\xff\xfe", b'{"demo.count": {"worker": "x", "params": {"type": "objekt"}}}']
)
def test_a_file_that_is_not_whole_counts_as_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kinds.json").write_bytes(content)

    kinds = KnownKinds(tmp_path / "kinds.json")

    assert kinds.known() == {}
    assert sum(kinds.refused.values()) == 1
    kinds.learn("fake", {"demo.count": COUNT})
    kinds.save()
    assert KnownKinds(tmp_path / "kinds.json").known() == kinds.known()


def test_too_many_kinds_are_not_taken(kinds: KnownKinds) -> None:
    many: Mapping[str, Any] = {f"kind-{number}": {"type": "object"} for number in range(300)}

    assert not kinds.learn("hostile", many)
    assert not kinds.learn("hostile", {"": {"type": "object"}, "x" * 101: {"type": "object"}})

    assert set(kinds.known()) == {"demo.count"}
