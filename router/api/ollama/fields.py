"""PURE: single fields of an Ollama request, checked. Every mistake of the client is an InvalidRequest.

The fields are those of Ollama's docs/api.md and api/types.go. A field that is null counts as missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from router.errors import InvalidRequest

Fields = Mapping[str, Any]

MAX_TOP_LOGPROBS = 20
MAX_KEEP_ALIVE_S = 10 * 365 * 86400.0  # ten years; clocks do not count much further

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
# Go's durations, as Ollama reads them: "1h30m", "-1s", "300" (seconds).
_DURATION = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{1,9})?|(?:\d{1,18}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_NUMBER_AND_UNIT = re.compile(r"([\d.]+)([a-zµμ]*)")


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


def keep_alive(fields: Fields) -> float | None:
    """Seconds that the model stays loaded after this request; `math.inf` for ever; None if the request does not say."""
    value = fields.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in _NUMBER_AND_UNIT.findall(value))
        seconds = -seconds if value.startswith("-") else seconds
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # not NaN
        seconds = max(-1.0, min(value, MAX_KEEP_ALIVE_S))  # an integer may be too large for a float
    else:
        raise InvalidRequest('"keep_alive" must be seconds or a duration like "5m", "1h30m", 0 or -1.')
    return math.inf if seconds < 0 else min(float(seconds), MAX_KEEP_ALIVE_S)


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
