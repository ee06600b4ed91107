"""The keys of a preset file that are the router's own, and how their values are read.

All other keys are llama-server's flags. `OWN_KEYS` is the table: a key, the field of `Preset` that it fills, and the
function that reads its value. `alias`, `tags` and `device` are flags too, and every spelling of them leads here: a
child gets its alias and its GPUs from the router. Called by `presets` for each line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from router.engine.flags import boolean
from router.models.ini import Line, Mistake
from router.models.spec import comma_separated

# Keys whose values are text or JSON: a `$` in them is no variable (`expansion`).
TEXT_KEYS = frozenset(
    ("description", "system-prefix", "set-params", "default-params", "set-params-by-name", "strip-params")
)
# Fields of a request that no preset may change: the router goes by them, and the client reads the answer by `stream`.
CLIENTS_FIELDS = frozenset(("model", "stream"))


@dataclass(frozen=True, slots=True)
class OwnKey:
    """`field` is that of `Preset`. `read` makes its value of a line, or raises Mistake."""

    field: str
    read: Callable[[Line], object]


def read_switch(line: Line) -> bool:
    on = boolean(line.value)
    if on is None:
        raise Mistake(f"{line.key} is a switch: write on or off, not {line.value[:80]!r}")
    return on


def read_seconds(line: Line) -> float:
    try:
        number = float(line.value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise Mistake(f"{line.key} is a number of seconds, 0 or more, not {line.value[:80]!r}")
    return number


def _read_integer(line: Line) -> int:
    try:
        return int(line.value)
    except ValueError:
        raise Mistake(f"{line.key} is a whole number, not {line.value[:80]!r}") from None


def _read_words(line: Line) -> tuple[str, ...]:
    return comma_separated(line.value)


def _read_text(line: Line) -> str:
    return line.value


def _read_prose(line: Line) -> str:
    """A text in which `\\n` stands for a new line."""
    return line.value.replace("\\n", "\n")


def _read_params(line: Line) -> tuple[tuple[str, str], ...]:
    """Fields of a request with their values, from a JSON object."""
    value = _read_object(line)
    _check_fields(line, value)
    return tuple((name, json.dumps(value[name])) for name in value)


def _read_param_names(line: Line) -> tuple[str, ...]:
    """Names of fields of a request."""
    names = _read_words(line)
    _check_fields(line, names)
    return names


def _read_params_by_name(line: Line) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Fields of a request with their values, by the name by which the request calls the model."""
    by_name = _read_object(line)
    for name, fields in by_name.items():
        if not isinstance(fields, dict):
            raise Mistake(
                f'{line.key} is an object of objects, as {{"NAME": {{"temperature": 0.7}}}}: see {name[:80]!r}'
            )
        _check_fields(line, fields)
    return tuple((name, tuple((key, json.dumps(fields[key])) for key in fields)) for name, fields in by_name.items())


def _read_object(line: Line) -> dict[str, Any]:
    try:
        value = json.loads(line.value)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Mistake(f"{line.key} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Mistake(f'{line.key} is a JSON object, as {{"temperature": 0.7}}, not {line.value[:80]!r}')
    return value


def _check_fields(line: Line, names: Iterable[str]) -> None:
    for name in CLIENTS_FIELDS.intersection(names):
        raise Mistake(f"{line.key} cannot change {name!r}: only the client decides about it")


OWN_KEYS = {
    "alias": OwnKey("aliases", _read_words),
    "tags": OwnKey("tags", _read_words),
    "load-on-startup": OwnKey("load_on_startup", read_switch),
    "stop-timeout": OwnKey("stop_timeout", read_seconds),
    "dedup-cache-models": OwnKey("dedup_cache_models", read_switch),
    "pin": OwnKey("pin", read_switch),
    "ttl": OwnKey("ttl", read_seconds),
    "min-loaded": OwnKey("min_loaded", read_seconds),
    "priority": OwnKey("priority", _read_integer),
    "engine": OwnKey("engine", _read_text),
    "device": OwnKey("device", _read_words),
    "unlisted": OwnKey("unlisted", read_switch),
    "description": OwnKey("description", _read_text),
    "set-params": OwnKey("set_params", _read_params),
    "default-params": OwnKey("default_params", _read_params),
    "set-params-by-name": OwnKey("set_params_by_name", _read_params_by_name),
    "strip-params": OwnKey("strip_params", _read_param_names),
    "system-prefix": OwnKey("system_prefix", _read_prose),
}
