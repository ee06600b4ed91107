"""PURE: what a child's JSON says, read with suspicion. A child may be broken, of another build, or hostile.

`parse_json` returns values that can be sent on as JSON to any client: no NaN, no infinity, no lone surrogates, and no
more nesting than a client can take. `blame_child` is for code that takes such values apart and relies on their shape:
if the shape is wrong, that is a failure of the child and not a defect of the router.

Called wherever the router reads an answer of a child itself: `api.reply`, `api.native`, `proxy.conversation`,
`proxy.error_response` and `node.process` (states).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from router.errors import UpstreamFailed

MAX_DEPTH = 64  # lists and objects within each other
MAX_CONTAINERS = 50_000  # lists and objects in all: creating them takes most of the time and blocks the event loop
MAX_MESSAGE_CHARS = 16_384  # of a child's error message

# A number that may not fit a float: a large exponent, or very many digits.
_MAY_OVERFLOW = re.compile(r"[eE]\+?\d{3}|(?<!\d)\d{300}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(data: bytes, *, limit_depth: bool = True) -> Any:
    """The value that `data` holds. Raises ValueError.

    What JSON cannot express (NaN, infinity) becomes None. A byte that is not UTF-8 becomes the replacement character.
    `limit_depth=False` is for a value that is not sent on: then only the parser limits its nesting.
    """
    text = data.decode(errors="replace")
    count = text.count("[") + text.count("{")
    if count > MAX_CONTAINERS:
        raise ValueError(f"its JSON has more than {MAX_CONTAINERS} lists and objects")
    try:
        value = (_FINITE_DECODER if _MAY_OVERFLOW.search(text) else _DECODER).decode(text)
        if _SURROGATE.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        if limit_depth and count > MAX_DEPTH and _is_deep(value):
            raise ValueError(f"its JSON is nested more than {MAX_DEPTH} times")
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    return value


def _none(word: str) -> None:
    return None


def _finite_or_none(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) < float("inf") else None


def _is_deep(value: Any) -> bool:
    """Whether the nesting exceeds MAX_DEPTH. Goes level by level, because recursion itself could run too deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        if not inner:
            return False
        level = [each for one in inner for each in one if isinstance(each, (dict, list))]
    return True


# `parse_float` costs a Python call for each number, so only texts that need it get it.
_DECODER = json.JSONDecoder(parse_constant=_none)
_FINITE_DECODER = json.JSONDecoder(parse_constant=_none, parse_float=_finite_or_none)


def object_or_empty(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def printable(value: Any, limit: int = MAX_MESSAGE_CHARS) -> str:
    """The value as text that any dialect can carry, of at most `limit` characters."""
    text = value if isinstance(value, str) else str(value)
    return text[:limit].encode(errors="replace").decode()


def error_type(data: bytes) -> str:
    """The type of an error in llama-server's shape; empty if it has another shape."""
    with contextlib.suppress(ValueError):
        kind = object_or_empty(object_or_empty(parse_json(data)).get("error")).get("type")
        return printable(kind, 100) if isinstance(kind, str) else ""
    return ""


def error_message(data: bytes) -> str:
    """The message of an error in llama-server's shape; the start of `data` if it has another shape."""
    with contextlib.suppress(ValueError):
        error = object_or_empty(object_or_empty(parse_json(data)).get("error"))
        if "message" in error:
            return printable(error["message"])
    return printable(data[:500].decode(errors="replace"))


@contextlib.contextmanager
def blame_child() -> Iterator[None]:
    """Raise UpstreamFailed for any error that a value of the wrong shape causes in this block.

    with blame_child():
        tokens = found["tokens"][:limit]
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as exc:
        raise UpstreamFailed(
            f"The model's server answered what makes no sense ({type(exc).__name__}: {printable(exc, 200)}). "
            "Another build of the engine may help."
        ) from exc
