"""Schemas as the engine is to get them. tests/whole/test_schemas.py shows what answers are then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidField
from router.proxy.schema_words import WORDS, read

TEXT, FLAG = {"type": "string"}, {"type": "boolean"}


def sent(schema: Any) -> Any:
    return read(schema, "format", is_strict=True).schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False},
        {"$defs": {"T": {"properties": {"t": {"$ref": "#/$defs/T"}}}}, "$ref": "#/$defs/T"},
        {"type": "array", "items": {"anyOf": [TEXT, {"type": "null"}]}, "title": "x"},
        {"$defs": {"Unused": {"not": {}}}, "type": "boolean"},
        {},
    ],
)
def test_what_is_fine_stays_as_it_is(schema: Any) -> None:
    assert sent(schema) is schema


@pytest.mark.parametrize(
    ("schema", "becomes"),
    [
        ({"allOf": [TEXT]}, TEXT),
        ({"allOf": [{"$ref": "#/$defs/T"}], "default": 1, "$defs": {"T": TEXT}}, None),
        ({"allOf": [{"type": "number"}, {"type": "integer", "minimum": 1}]}, {"type": "integer", "minimum": 1}),
        ({"allOf": [{"minimum": 1}, {"minimum": 3}], "type": "integer"}, {"type": "integer", "minimum": 3}),
        ({"allOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, {"enum": [2]}),
        ({"allOf": [{"allOf": [TEXT, {"minLength": 1}]}, True]}, {**TEXT, "minLength": 1}),
        ({"oneOf": [TEXT, FLAG]}, {"anyOf": [TEXT, FLAG]}),
        ({"anyOf": [TEXT, FLAG], "description": "x"}, None),
        (
            {"type": "object", "anyOf": [{"properties": {"a": TEXT}}]},
            {"anyOf": [{"type": "object", "properties": {"a": TEXT}}]},
        ),
        ({"type": "array", "items": {}}, {"type": "array", "items": {"title": ""}}),
        ({"type": "array", "items": True}, {"type": "array", "items": {"title": ""}}),
        ({"type": "array", "uniqueItems": False}, {"type": "array"}),
        ({"type": "string", "format": "uri"}, TEXT),
        ({"type": "string", "format": "uuid4"}, {**TEXT, "format": "uuid"}),
        ({"type": "string", "format": "date", "pattern": "^2$"}, {**TEXT, "pattern": "^2$"}),
        ({"type": "object", "unevaluatedProperties": False, "properties": {}}, None),
    ],
)
def test_other_words_for_the_same(schema: Any, becomes: Any) -> None:  # B-C9
    found = sent(schema)
    assert becomes is None or found == becomes
    assert sent(found) == found


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"allOf": [TEXT, FLAG]}, "format"),
        ({"allOf": [{"const": 1}, {"const": 2}]}, "format"),
        (
            {"allOf": [{"additionalProperties": False, "properties": {"a": TEXT}}, {"properties": {"b": TEXT}}]},
            "format",
        ),
        ({"properties": {"x": {"not": TEXT}}}, "format.properties.x.not"),
        ({"$defs": {"T": {"not": TEXT}}, "items": {"$ref": "#/$defs/T"}}, "format.$defs.T.not"),
        ({"anyOf": [FLAG], "oneOf": [TEXT]}, "format"),
        ({"$ref": "https://example.com/x"}, "format.$ref"),
        ({"$ref": "#anchor"}, "format.$ref"),
        ({"$ref": "#/nowhere"}, "format.$ref"),
        ({"$ref": 5}, "format.$ref"),
        ({"$ref": "#", "type": "object"}, "format"),
        ({"$defs": {"T": {"$ref": "#/$defs/T", "type": "object"}}, "$ref": "#/$defs/T"}, "format.$defs.T"),
        ({"prefixItems": [TEXT], "minItems": 2}, "format.prefixItems"),
        ({"type": "object", "required": [{}]}, "format"),
        ({"type": "object", "required": 5, "minProperties": 2}, "format"),
        ({"properties": [], "required": ["x"]}, "format.required"),
        ({"type": "number", "minimum": 1}, "format.minimum"),
        ({"type": ["number", "null"], "multipleOf": 2}, "format.multipleOf"),
        ({"type": "string", "pattern": "^a$", "maxLength": 1}, "format.maxLength"),
        ({"minLength": 2}, "format.minLength"),
    ],
)
def test_what_no_grammar_holds_is_named(schema: Any, place: str) -> None:  # B-C9
    with pytest.raises(InvalidField) as caught:
        sent(schema)
    assert caught.value.param == place


def test_a_small_schema_cannot_take_long() -> None:
    doubled = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2, "title": str(n)} for n in range(40)}
    deep: Any = TEXT
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    wide = {"properties": {str(n): TEXT for n in range(300)}, "anyOf": [{"required": ["1"]}] * 150}
    many = {"required": ["1"], "anyOf": [TEXT] * 300}
    values = {name: {"enum": [f"{name}{n}" for n in range(4000)] + ["x"]} for name in "ab"}
    compared = {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    again = {"$defs": values, "properties": {str(n): compared for n in range(400)}}
    growing = {"type": "object", "allOf": [{"properties": {str(n): {}}} for n in range(20_000)]}
    doubling = {"$defs": {**doubled, "d40": TEXT}, "allOf": [{"$ref": "#/$defs/d0"}, TEXT]}
    for schema in (doubling, deep, wide, many, again, growing):
        with pytest.raises(InvalidField):
            sent(schema)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["a", "#/a", "object", "string", "^a$"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*sorted(WORDS), "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(schema=st.dictionaries(st.sampled_from([*sorted(WORDS), "a"]), VALUES, max_size=5), strict=st.booleans())
def test_whatever_is_sent_is_read_or_refused(schema: Any, strict: bool) -> None:
    before = json.dumps(schema, default=str)
    try:
        found = read(schema, "format", is_strict=strict)
        json.dumps(found.schema)
        assert not strict or not found.lost
    except InvalidField:
        pass
    assert json.dumps(schema, default=str) == before, "the client's own stays as it is"
