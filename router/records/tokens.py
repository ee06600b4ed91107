"""PURE: the engine's counts of tokens, read from the beginning and the end of an answer.

The engine tells them in `timings` at the end of a generation, else in `usage`, which stands at the end of a chat and
before the vectors of embeddings. In a string JSON escapes each quotation mark, so what looks like a key here is one,
whatever a model has written.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

TAIL_BYTES = 4096  # of an answer, at either end
MAX_TOKENS = 10**12  # a larger number of tokens is none


class Tokens(NamedTuple):
    """`cached` are part of `prompt`. `prompt_seconds` and `generation_seconds` are by the engine's clock."""

    prompt: int | None = None
    cached: int | None = None
    generated: int | None = None
    per_second: float | None = None
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0


class _Timings(msgspec.Struct, gc=False):
    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int = 0


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None


NO_TOKENS = Tokens()
_TIMINGS = msgspec.json.Decoder(_Timings)
_USAGE = msgspec.json.Decoder(_Usage)
# An object that has objects without further ones, behind its name.
_USAGE_OBJECT = re.compile(rb'"usage":\s?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def tokens_of(tail: bytes, beginning: bytes = b"") -> Tokens:
    """The counts in the last TAIL_BYTES of an answer, or the first. What makes no sense counts as missing."""
    start = tail.rfind(b'"timings":')
    if start >= 0:
        try:
            found = _TIMINGS.decode(tail[start + 10 : tail.index(b"}", start) + 1])
        except (ValueError, msgspec.MsgspecError):
            found = None
        if found is not None and (counts := _of_timings(found)):
            return counts
    return _of_usage(tail) or (_of_usage(beginning) if beginning else None) or NO_TOKENS


def _of_timings(found: _Timings) -> Tokens | None:
    prompt, generated, ms = found.cache_n + found.prompt_n, found.predicted_n, found.predicted_ms
    if not (0 <= found.cache_n <= prompt < MAX_TOKENS and 0 <= generated < MAX_TOKENS):
        return None
    # A time that is no time (not a number, without an end) must not get into sums.
    seconds = ms / 1000 if 0 < ms < 1e12 else 0.0
    prompt_seconds = found.prompt_ms / 1000 if 0 < found.prompt_ms < 1e12 else 0.0
    per_second = generated / seconds if seconds and generated else None
    return Tokens(prompt, found.cache_n, generated, per_second, prompt_seconds, seconds)


def _of_usage(data: bytes) -> Tokens | None:
    start = data.rfind(b'"usage":')
    match = _USAGE_OBJECT.match(data, start) if start >= 0 else None
    if not match:
        return None
    try:
        found = _USAGE.decode(match[1])
    except (ValueError, msgspec.MsgspecError):
        return None
    counts = found.prompt_tokens, found.completion_tokens
    cached = found.prompt_tokens_details.cached_tokens if found.prompt_tokens_details else None
    if any(count is not None and not 0 <= count < MAX_TOKENS for count in (*counts, cached)):
        return None
    return Tokens(counts[0], cached, counts[1])
