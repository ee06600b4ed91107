"""A child's streamed chat completion, event by event, each parsed once into the few fields that an answer is made of.

Children are read with suspicion: an event of a wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from router.api.messages.failures import client_error
from router.errors import RouterError, UpstreamFailed
from router.units import limit_size
from router.wire.child_json import object_or_empty, parse_json, printable
from router.wire.response import Response as Answer

MAX_EVENT_BYTES = 8 << 20


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct):
    """A piece of the tool call number `index`."""

    index: int = 0
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(msgspec.Struct):
    """`delta` is in a stream, `message` in a whole answer."""

    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class PromptProgress(msgspec.Struct, gc=False):
    """`cache` of `total` tokens need not be computed again."""

    total: int = 0
    cache: int = 0


class Verbose(msgspec.Struct, gc=False):
    stopping_word: str | None = None


class Chunk(msgspec.Struct):
    """One event, or a whole answer."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    prompt_progress: PromptProgress | None = None
    error: msgspec.Raw = msgspec.Raw(b"")
    verbose: Verbose | None = msgspec.field(default=None, name="__verbose")


_DECODER = msgspec.json.Decoder(Chunk)


def chunk_of(data: bytes) -> Chunk:
    """Raises UpstreamFailed, and the error that the child reports in it."""
    try:
        chunk = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        chunk = _read_patiently(data)
    if chunk.error:
        raise _reported_error(bytes(chunk.error))
    return chunk


def _read_patiently(data: bytes) -> Chunk:
    """JSON that msgspec does not read: lone surrogates, bytes that are no UTF-8, NaN."""
    try:
        value = object_or_empty(parse_json(data))
        if "error" in value:
            value["error"] = msgspec.Raw(msgspec.json.encode(value["error"]))
        return msgspec.convert(value, Chunk)
    except (ValueError, msgspec.MsgspecError, RecursionError) as exc:
        raise UpstreamFailed(
            f"The model's server answered what makes no sense ({printable(exc, 200)}). "
            "Another build of the engine may help."
        ) from exc


async def chunks(answer: Answer) -> AsyncIterator[list[Chunk | None]]:
    """The events that have come together; None for each comment, which says that the child is at work."""
    held = b""
    while not answer.is_at_end:
        data = await answer.read()
        end = data.rfind(b"\n") + 1
        if not end:
            held += data
            if len(held) > MAX_EVENT_BYTES:
                raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(MAX_EVENT_BYTES)}.")
            continue
        found: list[Chunk | None] = []
        for line in (held + data[:end]).split(b"\n"):
            if line.startswith(b"data: {"):
                found.append(chunk_of(line[6:]))
            elif line.startswith(b":"):
                found.append(None)
        held = data[end:]
        if found:
            yield found


def _reported_error(raw: bytes) -> RouterError:
    try:
        value: Any = parse_json(raw)
    except ValueError:
        value = raw[:500].decode(errors="replace")
    fields = value if isinstance(value, dict) else {"message": value}
    failure = UpstreamFailed(printable(fields.get("message")))
    failure.status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else failure.status
    return client_error(failure)
