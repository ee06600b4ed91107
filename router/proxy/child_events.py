"""PURE: one event of a child's stream, read with suspicion.

Events come often, so msgspec reads them. What it does not read (broken UTF-8, half surrogates, NaN) `wire.child_json`
does. Translations in `api` and `collected` call this.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from router.errors import RouterError
from router.proxy.child_errors import error_of
from router.wire.child_json import blame_child, parse_json

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """The value that `data` holds, of the decoder's type. Raises UpstreamFailed."""
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        with blame_child():
            value = parse_json(data)
            try:
                found: T = msgspec.convert(value, decoder.type)
            except msgspec.MsgspecError as exc:
                raise ValueError(str(exc)) from None
        return found


def reported_error(error: Any, unknown: int = 0) -> RouterError:
    """The value of `error` in an event, as an error. `unknown` is its status if it says none."""
    fields = error if isinstance(error, dict) else {"message": error}
    status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else unknown
    return error_of(status, json.dumps({"error": fields}).encode())
