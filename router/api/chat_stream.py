"""What a child's stream of chat completions says, event by event, for translations into other APIs.

Each event is parsed once, into a `Chunk` of the few fields that translations read; msgspec skips the rest. Nearly all
events of a stream are the same but for a piece of text, so from the second one on only that text is parsed: events that
follow each other become one `Texts`. Children are read with suspicion: an event of a wrong shape is an UpstreamFailed,
never a defect of the router.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import msgspec

from router.errors import RouterError, UpstreamFailed
from router.proxy.child_errors import error_of
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.units import limit_size
from router.wire.child_json import blame_child, parse_json

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
    message: Delta | None = None  # only in a whole answer, which has no delta
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: int = 0


class Usage(msgspec.Struct, gc=False):
    """In tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class PromptProgress(msgspec.Struct, gc=False):
    """`cache` of the `total` tokens of the prompt need not be computed again."""

    total: int = 0
    cache: int = 0


class Verbose(msgspec.Struct, gc=False):
    """`stopping_word` is the word of `stop` that ended the answer; empty if none did."""

    stopping_word: str | None = None


class Chunk(msgspec.Struct):
    """One event. The last one has the `usage`, and no choices."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = msgspec.UNSET
    prompt_progress: PromptProgress | None = None  # with `return_progress`
    verbose: Verbose | None = msgspec.field(default=None, name="__verbose")  # with `verbose`

    @property
    def is_text(self) -> bool:
        """Whether it has a piece of text, and nothing else."""
        if len(self.choices) != 1 or self.usage is not None:
            return False
        (choice,) = self.choices
        delta = choice.delta
        has_one = (delta.content is None) != (delta.reasoning_content is None)
        return has_one and delta.tool_calls is None and choice.finish_reason is None and choice.logprobs is None


class Texts(NamedTuple):
    """Pieces of text that follow each other: of the answer, or of the thoughts."""

    are_thoughts: bool
    pieces: list[str]


_DECODER = msgspec.json.Decoder(Chunk)
_PIECES_DECODER = msgspec.json.Decoder(list[str])

# An event with a piece of text, and nothing else that matters: up to the text, and the text.
_TEXT_EVENT = re.compile(rb'data: \{[^\n]*?"delta":\{"(reasoning_)?content":(?=("(?:[^"\\]|\\.)*"))')


async def chunks_of(post: PostToChild, target: bytes, body: bytes) -> AsyncGenerator[Sequence[Chunk | Texts]]:
    """Posts `body`, which asks for a stream, and yields what has come since the last time: [] when the answer begins,
    then one or more events.

    Raises the error that the child answers, or reports in an event, and UpstreamFailed for what makes no sense."""
    answer, reader = await post(target, body), EventReader()
    try:
        if answer.status != 200:
            raise await read_upstream_error(answer)
        yield []
        while not answer.is_at_end:
            if found := reader.read(await answer.read()):
                yield found
    finally:
        answer.close()


class EventReader:
    """Takes the bytes of a stream, and returns its events.

    It learns from an event with a piece of text how such events begin and end. Then the bytes between are the texts."""

    def __init__(self) -> None:
        self._held = b""  # of an event that is not whole
        self._prefix = self._suffix = b"\n\n"  # nothing begins like that
        self._are_thoughts = False

    def __repr__(self) -> str:
        return f"<EventReader {len(self._held)} bytes held>"

    def read(self, data: bytes) -> list[Chunk | Texts]:
        """Raises UpstreamFailed, and the error that an event reports."""
        start = max(0, len(self._held) - 1)
        data = self._held + data if self._held else data
        end = data.rfind(b"\n\n", start) + 2
        data, self._held = (data[:end], data[end:]) if end > 1 else (b"", data)
        if len(self._held) > MAX_EVENT_BYTES:
            raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(MAX_EVENT_BYTES)}.")
        texts = self._texts(data[:-2])
        if texts is not None:
            return [texts]
        return self._events(data)

    def _events(self, data: bytes) -> list[Chunk | Texts]:
        found: list[Chunk | Texts] = []
        for line in data.split(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            texts = self._texts(line)
            if texts is None:
                chunk = chunk_of(line[6:])
                if chunk.is_text:
                    self._learn(line)
                found.append(chunk)
            elif found and isinstance(last := found[-1], Texts):
                last.pieces.extend(texts.pieces)
            else:
                found.append(texts)
        return found

    def _texts(self, data: bytes) -> Texts | None:
        """The pieces of text in `data`, if it consists of events like the last one with a piece of text."""
        prefix, suffix = self._prefix, self._suffix
        start, stop = len(prefix), -len(suffix)
        if not (data.startswith(prefix) and data.endswith(suffix)):
            return None
        literals = [event[start:stop] for event in data.split(b"\n\n")]
        if len(literals) > 1 and (suffix + b"\n\n" + prefix).join(literals) != data[start:stop]:
            return None  # some events are others
        try:
            pieces = _PIECES_DECODER.decode(b"[%b]" % b",".join(literals))
        except (ValueError, msgspec.MsgspecError):
            return None
        if len(pieces) != len(literals):
            return None
        return Texts(self._are_thoughts, pieces)

    def _learn(self, line: bytes) -> None:
        if match := _TEXT_EVENT.match(line):
            self._prefix, self._suffix = line[: match.end()], line[match.end(2) :]
            self._are_thoughts = match[1] is not None


def chunk_of(data: bytes) -> Chunk:
    """Raises UpstreamFailed, and the error that the child reports in it."""
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
    status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else 0
    return error_of(status, json.dumps({"error": fields}).encode())
