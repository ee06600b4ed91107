"""What a child's stream of chat completions says, event by event, for translations into other APIs.

Each event is parsed once, into a `Chunk` of the few fields that translations read; msgspec skips the rest. Children are
read with suspicion: an event of a wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from router.errors import RouterError, UpstreamFailed
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.units import limit_size
from router.wire.child_json import blame_child, parse_json, printable

MAX_EVENT_BYTES = 8 << 20


class FunctionPiece(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct):
    """A piece of a tool call. The first piece of a call has its id and its name."""

    index: int = 0
    id: str | None = None
    function: FunctionPiece | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int = 0


class Usage(msgspec.Struct, gc=False):
    """In tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class Chunk(msgspec.Struct):
    """One event. The last one has the `usage`, and no choices."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = msgspec.UNSET


_DECODER = msgspec.json.Decoder(Chunk)


async def chunks_of(post: PostToChild, target: bytes, body: bytes) -> AsyncIterator[list[Chunk]]:
    """Posts `body`, which asks for a stream, and yields what has come since the last time: [] when the answer begins,
    then one or more events.

    Raises the error that the child answers, or reports in an event, and UpstreamFailed for what makes no sense."""
    answer = await post(target, body)
    try:
        if answer.status != 200:
            raise await read_upstream_error(answer)
        yield []
        held = b""
        while not answer.is_at_end:
            data = await answer.read()
            end = data.rfind(b"\n") + 1
            lines, held = (held + data[:end], data[end:]) if end else (b"", held + data)
            if len(held) > MAX_EVENT_BYTES:
                raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(MAX_EVENT_BYTES)}.")
            if chunks := [_chunk(line[6:]) for line in lines.split(b"\n") if line.startswith(b"data: {")]:
                yield chunks
    finally:
        answer.close()


def _chunk(data: bytes) -> Chunk:
    try:
        chunk = _DECODER.decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        with blame_child():  # it reads what msgspec does not: broken UTF-8, half surrogates, NaN
            chunk = _convert(parse_json(data))
    if chunk.error is not msgspec.UNSET:
        raise _reported_error(chunk.error)
    return chunk


def _convert(value: Any) -> Chunk:
    try:
        return msgspec.convert(value, Chunk)
    except msgspec.MsgspecError as exc:
        raise ValueError(str(exc)) from None


def _reported_error(error: Any) -> RouterError:
    fields = error if isinstance(error, dict) else {"message": error}
    failure = UpstreamFailed(printable(fields.get("message")))
    failure.status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else failure.status
    failure.code = printable(kind, 100) if isinstance(kind := fields.get("type"), str) else failure.code
    return failure
