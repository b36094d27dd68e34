"""The check of a plain schema agrees with a library that compiles it, for any schema and value."""

from typing import Any

import fastjsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.adapters.misfits import sentence
from supervisor.adapters.plain_schema import plain
from supervisor.adapters.schema_check import misfit

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 70) | st.sampled_from([0.5, 1.5, -0.25]) | st.sampled_from(["", "a", "bb", "ccc"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.just("d"), inner, max_size=3), max_leaves=6)
TYPES = st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string"])


def rules(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return schemas that hold others."""
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "minItems": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "maxProperties": st.integers(0, 2),
        },
    )


LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES,
        "enum": st.lists(SCALARS, max_size=3),
        "const": SCALARS,
        "minimum": st.integers(-2, 2),
        "maximum": st.integers(0, 64),
        "exclusiveMinimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(0, 64),
        "multipleOf": st.sampled_from([1, 2, 32]),
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 3),
        "minProperties": st.integers(0, 2),
    },
)
SCHEMAS = st.recursive(LEAVES, rules, max_leaves=6)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a slow machine is not a failure
@given(SCHEMAS, VALUES)
def test_it_agrees_with_the_library_and_has_a_sentence_for_each_misfit(schema: dict[str, Any], value: Any) -> None:
    reduced = plain(schema)
    compiled = fastjsonschema.compile(reduced, use_default=False)
    try:
        compiled(value)
        fits = True
    except fastjsonschema.JsonSchemaValueException:
        fits = False

    found = misfit(reduced, value)

    assert (found is None) == fits
    if found is not None:
        assert sentence(found).startswith("params")
