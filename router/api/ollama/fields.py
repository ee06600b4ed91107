"""PURE: single fields of an Ollama request, checked. Every mistake of the client is an InvalidRequest.

The fields are those of Ollama's docs/api.md and api/types.go. A field that is null counts as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.errors import InvalidRequest

Fields = Mapping[str, Any]

MAX_TOP_LOGPROBS = 20


def text(fields: Fields, name: str) -> str:
    """A string; empty if it is missing."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f'"{name}" must be a string.')
    return value


def flag(fields: Fields, name: str, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f'"{name}" must be true or false.')
    return value


def model_name(fields: Fields) -> str | None:
    """`model`, or `name` from older clients. It is printable, so answers can repeat it."""
    name = text(fields, "model") or text(fields, "name")
    if not name.isprintable():
        raise InvalidRequest('"model" must be the name of a model, without control characters.')
    return name or None


def required_model_name(fields: Fields) -> str:
    """For requests that delete or download: they have no default model."""
    name = model_name(fields)
    if name is None:
        raise InvalidRequest('Name a "model".')
    return name


def wants_thinking(fields: Fields) -> bool:
    """Whether the request demands thinking, or a level of it."""
    value = fields.get("think")
    return value is True or (isinstance(value, str) and value not in ("", "none"))


def embedding_inputs(fields: Fields) -> list[str]:
    """The texts to embed."""
    given = fields.get("input", [])
    given = [given] if isinstance(given, str) else given or []
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise InvalidRequest('"input" must be a string or a list of strings.')
    return given


def dimensions(fields: Fields) -> int:
    """The length that vectors are cut to; 0 leaves them as they are."""
    value = fields.get("dimensions") or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest('"dimensions" must be a positive integer.')
    return value


def top_logprobs(fields: Fields) -> int:
    """How many alternatives the client wants to see for each token."""
    count = fields.get("top_logprobs") or 0
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f'"top_logprobs" must be an integer from 0 to {MAX_TOP_LOGPROBS}.')
    return count
