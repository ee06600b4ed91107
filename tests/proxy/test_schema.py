"""A schema in each form that clients send becomes the one that the engine takes, or an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import InvalidField
from router.proxy.schema import with_schema

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": None, "grammar": None},
        {"response_format": WRAPPED},
        {"response_format": {"type": "text"}, "json_schema": SCHEMA},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
        {"grammar": 'root ::= "a"'},
        {"grammar": "", "json_schema": SCHEMA},
    ],
)
def test_what_the_engine_takes_stays(fields: dict[str, Any]) -> None:
    assert with_schema(fields) is fields


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA},
        {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA, "json_schema": None},
    ],
)
def test_a_schema_without_its_wrapper_gets_it(given: Any) -> None:  # B-C9
    assert with_schema({"response_format": given, "x": 1}) == {"response_format": WRAPPED, "x": 1}


def test_a_schema_in_the_place_of_the_wrapper_gets_one() -> None:  # B-C9
    given = {"type": "json_schema", "json_schema": SCHEMA}
    assert with_schema({"response_format": given})["response_format"]["json_schema"] == {"schema": SCHEMA}
    assert with_schema({"response_format": {}}) == {"response_format": None}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"schema": SCHEMA}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": ["text"]}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema", "schema": "x"}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "schema": "x"}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"grammar": 5}, "grammar"),
        ({"json_schema": "x"}, "json_schema"),
        ({"json_schema": SCHEMA, "grammar": "root ::= x"}, "grammar"),
        ({"response_format": WRAPPED, "grammar": "root ::= x"}, "grammar"),
        ({"response_format": {"type": "json_object"}, "json_schema": SCHEMA}, "json_schema"),
    ],
)
def test_what_would_be_refused_or_ignored_names_its_field(fields: dict[str, Any], field: str) -> None:  # B-C9
    with pytest.raises(InvalidField) as caught:
        with_schema(fields)
    assert caught.value.param == field
    assert f'"{field}"' in caught.value.message
