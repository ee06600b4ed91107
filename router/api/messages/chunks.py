"""A child's streamed chat completion, event by event, each parsed once into the few fields that an answer is made of.

Children are read with suspicion: an event of a wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.api.messages.failures import client_error
from router.errors import RouterError, UpstreamFailed
from router.units import limit_size
from router.wire.child_json import object_or_empty, parse_json, printable

MAX_EVENT_BYTES = 8 << 20


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct, gc=False):
    """A piece of the tool call number `index`."""

    index: int = 0
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(msgspec.Struct, gc=False):
    """`delta` is in a stream, `message` in a whole answer."""

    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int = 0


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class PromptProgress(msgspec.Struct, gc=False):
    """`cache` of `total` tokens need not be computed again."""

    total: int = 0
    cache: int = 0


class Verbose(msgspec.Struct, gc=False):
    stopping_word: str | None = None


class Chunk(msgspec.Struct, gc=False):
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


class ChunkReader:
    """Splits what a child sends into events::

    reader.feed(data)   # the chunks that are whole; None for each comment, which says that the child is at work
    """

    def __init__(self) -> None:
        self._held = b""
        self.last_line = b""  # the last event that was whole

    def __repr__(self) -> str:
        return f"<ChunkReader holds {len(self._held)} bytes>"

    @property
    def is_between_events(self) -> bool:
        return not self._held

    def feed(self, data: bytes) -> list[Chunk | None]:
        """Raises UpstreamFailed, and the error that the child reports in an event."""
        if self._held:
            data = self._held + data
        *lines, self._held = data.split(b"\n")
        if len(self._held) > MAX_EVENT_BYTES:
            raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(MAX_EVENT_BYTES)}.")
        found: list[Chunk | None] = []
        for line in lines:
            if line.startswith(b"data: {"):
                found.append(chunk_of(line[6:]))
                self.last_line = line
            elif line.startswith(b":"):
                found.append(None)
        return found


def _reported_error(raw: bytes) -> RouterError:
    try:
        value: Any = parse_json(raw)
    except ValueError:
        value = raw[:500].decode(errors="replace")
    fields = value if isinstance(value, dict) else {"message": value}
    failure = UpstreamFailed(printable(fields.get("message")))
    failure.status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else failure.status
    return client_error(failure)
