"""PURE: values of a request, checked. An error names the field, in the way Anthropic's own errors do:
`messages.0.content.1.source: ...`.

A field that is null counts as missing. Every mistake of the client is an InvalidRequest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import InvalidRequest
from router.proxy.body import json_type

Fields = Mapping[str, Any]


def mistake(where: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {sentence}")


def object_at(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise mistake(where, f"must be an object, not {json_type(value)}.")
    return value


def list_at(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise mistake(where, f"must be a list, not {json_type(value)}.")
    return value


def text_at(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise mistake(where, f"must be a string, not {json_type(value)}.")
    return value


def name_at(value: Any, where: str) -> str:
    """A string that is not empty."""
    if not text_at(value, where):
        raise mistake(where, "must not be empty.")
    return str(value)


def flag_at(value: Any, where: str) -> bool:
    """False if it is missing."""
    if value is not None and not isinstance(value, bool):
        raise mistake(where, f"must be true or false, not {json_type(value)}.")
    return bool(value)


def count_at(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        kind = "a fraction" if isinstance(value, float) else json_type(value)
        raise mistake(where, f"must be a whole number, not {kind}.")
    return value


def type_at(fields: Fields, where: str) -> str:
    """The `type` of a block, a tool, a source."""
    return name_at(fields.get("type"), f"{where}.type")
