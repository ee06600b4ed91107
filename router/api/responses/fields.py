"""PURE: single fields of a request, checked. Every mistake of the client is an InvalidRequest that names the field.

The fields are those of https://platform.openai.com/docs/api-reference/responses. A field that is null counts as
missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from router.errors import InvalidRequest
from router.proxy.body import json_type

Fields = Mapping[str, Any]


def invalid(message: str, param: str) -> InvalidRequest:
    """The error for the field `param`, which may be a path like `input[2].content`."""
    error = InvalidRequest(message)
    error.param = param
    return error


def text(fields: Fields, name: str, where: str = "") -> str:
    """A string; empty if it is missing. `where` is the path of `fields`."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(where, name, "a string", value)
    return value


def required_text(fields: Fields, name: str, where: str = "") -> str:
    value = text(fields, name, where)
    if not value:
        raise invalid(f"{path(where, name)!r} is missing; it must be a string.", path(where, name))
    return value


def flag(fields: Fields, name: str, default: bool, where: str = "") -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(where, name, "true or false", value)
    return value


def number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise _wrong("", name, "a number", value)
    return value


def integer(fields: Fields, name: str, least: int, most: int | None = None) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        upper = "" if most is None else f" to {most}"
        raise invalid(f"{name!r} must be an integer from {least}{upper}.", name)
    return value


def mapping(fields: Fields, name: str, where: str = "") -> Fields:
    """An object; empty if it is missing."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where, name, "an object", value)
    return value


def objects(fields: Fields, name: str, where: str = "") -> list[dict[str, Any]]:
    """A list of objects; empty if it is missing."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(where, name, "a list", value)
    for index, each in enumerate(value):
        if not isinstance(each, dict):
            raise _wrong(where, f"{name}[{index}]", "an object", each)
    return value


def choice(fields: Fields, name: str, known: Collection[str], where: str = "") -> str | None:
    """One of the `known` words; None if it is missing."""
    value = fields.get(name)
    if value is not None and (not isinstance(value, str) or value not in known):
        raise invalid(f"{path(where, name)!r} must be one of {', '.join(known)}.", path(where, name))
    return value


def path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, name: str, expected: str, value: Any) -> InvalidRequest:
    return invalid(f"{path(where, name)!r} must be {expected}, not {json_type(value)}.", path(where, name))
