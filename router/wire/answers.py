"""PURE: what a child's JSON says, read with suspicion: a child may be broken, of another build, or hostile.

`parsed` gives values that can be told again as JSON to any client: no NaN, no infinity, no halves of characters, and no
more nesting than whoever handles them can take. `understood` is for code that goes through such values and trusts their
shape: what does not fit is the child's failure, not a defect of the router.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from router.errors import UpstreamFailed

DEEPEST = 64  # lists and objects within each other
MOST = 50_000  # lists and objects in all: to make them takes most of the time, in which nobody else is served
MESSAGE = 16_384  # characters of an error that a child tells

# A number that may be none any more: a large exponent, or very many digits.
_HUGE = re.compile(r"[eE]\+?\d{3}|(?<!\d)\d{300}")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parsed(data: bytes, *, is_shallow: bool = True) -> Any:
    """Raises ValueError. What JSON cannot say is None; a byte that is no UTF-8 is the replacement character. Without
    `is_shallow`, nesting is bounded only by what can be parsed at all: that need not be told again."""
    text = data.decode(errors="replace")
    count = text.count("[") + text.count("{")
    if count > MOST:
        raise ValueError(f"its JSON has more than {MOST} lists and objects")
    try:
        value = (_FINITE if _HUGE.search(text) else _USUAL).decode(text)
        if _HALF.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        if is_shallow and count > DEEPEST and _is_deep(value):
            raise ValueError(f"its JSON is nested more than {DEEPEST} times")
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    return value


def _nothing(word: str) -> None:
    return None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) < float("inf") else None


def _is_deep(value: Any) -> bool:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        if not inner:
            return False
        level = [each for one in inner for each in one if isinstance(each, (dict, list))]
    return True


_USUAL = json.JSONDecoder(parse_constant=_nothing)
_FINITE = json.JSONDecoder(parse_constant=_nothing, parse_float=_finite)


def object_of(value: Any) -> dict[str, Any]:
    """An object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sentence(value: Any, limit: int = MESSAGE) -> str:
    """What a child says went wrong, as text that can be told in any dialect."""
    text = value if isinstance(value, str) else str(value)
    return text[:limit].encode(errors="replace").decode()


def error_message(data: bytes) -> str:
    """Of an error in llama-server's shape; another one is told as it is."""
    with contextlib.suppress(ValueError):
        error = object_of(object_of(parsed(data)).get("error"))
        if "message" in error:
            return sentence(error["message"])
    return sentence(data[:500].decode(errors="replace"))


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Raises UpstreamFailed for what is not as it should be."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as exc:
        raise UpstreamFailed(
            f"The model's server answered what makes no sense ({type(exc).__name__}: {sentence(exc, 200)}). "
            "Another build of the engine may help."
        ) from exc
