"""PURE: how long a request wants its model to stay loaded: its field `keep_alive`, in every API.

The field is Ollama's (its docs/api.md, and `Duration` in its api/types.go). `endpoints` and the translations read it,
and hand it to the pool with the lease.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from router.errors import InvalidRequest

MAX_KEEP_ALIVE_S = 10 * 365 * 86400.0  # ten years; clocks do not count much further

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
# Go's durations, as Ollama reads them: "1h30m", "-1s", "300" (seconds).
_DURATION = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{1,9})?|(?:\d{1,18}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_NUMBER_AND_UNIT = re.compile(r"([\d.]+)([a-zµμ]*)")


def keep_alive(fields: Mapping[str, Any]) -> float | None:
    """Seconds that the model stays loaded after this request; `math.inf` for ever; None if the request does not say.

    Raises InvalidRequest."""
    value = fields.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in _NUMBER_AND_UNIT.findall(value))
        seconds = -seconds if value.startswith("-") else seconds
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # not NaN
        seconds = max(-1.0, min(value, MAX_KEEP_ALIVE_S))  # an integer may be too large for a float
    else:
        error = InvalidRequest('"keep_alive" must be seconds or a duration like "5m", "1h30m", 0 or -1.')
        error.param = "keep_alive"
        raise error
    return math.inf if seconds < 0 else min(float(seconds), MAX_KEEP_ALIVE_S)
