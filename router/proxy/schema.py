"""PURE: structured output, in the one form of it that the engine takes.

Clients send a JSON schema in several forms: OpenAI's `response_format` with its wrapper, without the wrapper, with the
schema in the wrapper's place. The engine takes the first. It ignores the others without a word, and answers text that
no schema holds for. So each form becomes the first one, and what cannot become it is an error that names the field. The
schema itself is read by `schema_words`. Translations from other APIs write `response_format` too. `chat` calls this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from router.errors import InvalidField
from router.proxy.body import json_type
from router.proxy.schema_words import read

Fields = dict[str, Any]

SCHEMA_FIELDS = frozenset(("response_format", "json_schema", "grammar"))

# A JSON schema has at least one of these; the wrapper around a schema has none of them.
_SCHEMA_WORDS = frozenset(("type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items", "$defs"))


def with_schema(fields: Fields) -> Fields:
    """The request with its schema where the engine looks for it, in words that it enforces; the same object if it is so
    already, or if there is none. Raises InvalidField."""
    if all(fields.get(name) is None for name in SCHEMA_FIELDS):
        return fields
    given = fields.get("response_format")
    wanted = None if given is None else _enforced(_response_format(given))
    grammar, schema = fields.get("grammar"), fields.get("json_schema")
    if grammar is not None and not isinstance(grammar, str):
        raise InvalidField("grammar", f"must be a string in GBNF, not {json_type(grammar)}.")
    if schema is not None and not isinstance(schema, dict):
        raise InvalidField("json_schema", f"must be an object, not {json_type(schema)}.")
    has_format = wanted is not None and wanted["type"] != "text"
    ways = {"response_format": has_format, "json_schema": schema is not None, "grammar": bool(grammar)}
    used = [name for name, is_used in ways.items() if is_used]
    if len(used) > 1:
        raise InvalidField(used[1], f'cannot be combined with "{used[0]}": send one of them.')
    if schema is not None:
        return with_native_schema(fields)
    return fields if wanted is given else {**fields, "response_format": wanted}


def with_native_schema(fields: Fields) -> Fields:
    """The same for `json_schema`, the field of the engine's own API. Raises InvalidField."""
    schema = fields.get("json_schema")
    if not isinstance(schema, dict):
        return fields  # the engine says what is wrong
    found = read(schema, "json_schema", is_strict=False).schema
    return fields if found is schema else {**fields, "json_schema": found}


def lost_words(fields: Mapping[str, Any]) -> list[str]:
    """The places in the schema of a request that the engine does not enforce. The request has been through
    `with_schema`."""
    if SCHEMA_FIELDS.isdisjoint(fields):
        return []
    with contextlib.suppress(InvalidField):
        if isinstance(schema := fields.get("json_schema"), dict):
            return read(schema, "json_schema", is_strict=False).lost
        if isinstance(given := fields.get("response_format"), dict):
            name, schema, _ = _place_of(_response_format(given))
            if isinstance(schema, dict):
                return read(schema, name, is_strict=False).lost
    return []


def _enforced(wanted: Fields | None) -> Fields | None:
    """With a schema that the engine enforces; the same object if it is one. Raises InvalidField."""
    name, schema, is_strict = _place_of(wanted)
    if wanted is None or not isinstance(schema, dict):
        return wanted
    found = read(schema, name, is_strict=is_strict).schema
    if found is schema:
        return wanted
    if wanted["type"] == "json_object":
        return {**wanted, "schema": found}
    return {**wanted, "json_schema": {**wanted["json_schema"], "schema": found}}


def _place_of(wanted: Fields | None) -> tuple[str, Any, bool]:
    """Where the schema is, the schema, and whether it is strict."""
    if wanted is None or wanted.get("type") == "text":
        return "", None, False
    if wanted["type"] == "json_object":
        return "response_format.schema", wanted.get("schema"), False
    wrapper = wanted["json_schema"]
    return "response_format.json_schema.schema", wrapper.get("schema"), wrapper.get("strict") is True


def _response_format(value: Any) -> Fields | None:
    """In OpenAI's form; None for an empty object."""
    if not isinstance(value, dict):
        example = 'must be an object, such as {"type": "json_object"}'
        raise InvalidField("response_format", f"{example}, not {json_type(value)}.")
    match value.get("type"):
        case "text":
            return value
        case "json_object" | "json_schema" as kind:
            pass
        case None if not value:
            return None
        case _:
            raise InvalidField("response_format.type", 'must be "text", "json_object" or "json_schema".')
    if kind == "json_object":
        if value.get("schema") is not None:
            _checked(value["schema"], "response_format.schema")
        return value
    wrapper = value.get("json_schema")
    if wrapper is None:  # without the wrapper: its members stand beside `type`
        _checked(value.get("schema"), "response_format.schema")
        inner = {name: member for name, member in value.items() if name not in ("type", "json_schema")}
        return {"type": "json_schema", "json_schema": inner}
    if not isinstance(wrapper, dict):
        raise InvalidField("response_format.json_schema", f"must be an object, not {json_type(wrapper)}.")
    if "schema" not in wrapper and not _SCHEMA_WORDS.isdisjoint(wrapper):
        return {"type": "json_schema", "json_schema": {"schema": wrapper}}
    _checked(wrapper.get("schema"), "response_format.json_schema.schema")
    return value


def _checked(schema: Any, name: str) -> None:
    if not isinstance(schema, dict):
        raise InvalidField(name, f"must be a JSON schema, an object, not {json_type(schema)}.")
