"""PURE: structured output, in the one form of it that the engine takes.

Clients send a JSON schema in several forms: OpenAI's `response_format` with its wrapper, without the wrapper, with the
schema in the wrapper's place. The engine takes the first. It ignores the others without a word, and answers text that
no schema holds for. So each form becomes the first one, and what cannot become it is an error that names the field.
Translations from other APIs write `response_format` too. `chat` calls this.
"""

from __future__ import annotations

from typing import Any

from router.errors import InvalidField
from router.proxy.body import json_type

Fields = dict[str, Any]

SCHEMA_FIELDS = ("response_format", "json_schema", "grammar")

# A JSON schema has at least one of these; the wrapper around a schema has none of them.
_SCHEMA_WORDS = frozenset(("type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items", "$defs"))


def with_schema(fields: Fields) -> Fields:
    """The request with its schema where the engine looks for it; the same object if it is there already, or if there
    is none. Raises InvalidField."""
    if all(fields.get(name) is None for name in SCHEMA_FIELDS):
        return fields
    given = fields.get("response_format")
    wanted = None if given is None else _response_format(given)
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
    return fields if wanted == given else {**fields, "response_format": wanted}


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
