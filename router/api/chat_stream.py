"""What a child's stream of chat completions says, event by event, for translations into other APIs.

Each event is parsed once, into a `Chunk` of the few fields that translations read; msgspec skips the rest. Nearly all
events of a stream are the same but for a piece of text, so from the second one on only that text is parsed: events that
have come together become one `Texts`. Translations make one event of it. Nobody would see the pieces one by one, and
under load, when many come together, the work for each is then next to nothing. Nothing waits for more to come.

Children are read with suspicion: an event of a wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import msgspec

from router.errors import RouterError, UpstreamFailed
from router.proxy.child_events import decode, reported_error
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.units import limit_size

MAX_EVENT_BYTES = 8 << 20
MOST_OTHERS = 4  # events at either end of what has come that may be others than those between


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
    timings: Any = None

    @property
    def is_text(self) -> bool:
        """Whether it has a piece of text, or of the arguments of a call, and nothing else."""
        if len(self.choices) != 1 or self.usage is not None or self.timings is not None:
            return False
        (choice,) = self.choices
        delta = choice.delta
        if choice.finish_reason is not None or choice.logprobs is not None:
            return False
        if (calls := delta.tool_calls) is not None:
            is_alone = delta.content is None and delta.reasoning_content is None and len(calls) == 1
            return is_alone and calls[0].id is None and _has_only_arguments(calls[0].function)
        return (delta.content is None) != (delta.reasoning_content is None)


def _has_only_arguments(function: FunctionPiece | None) -> bool:
    return function is not None and function.name is None and function.arguments is not None


class Texts(NamedTuple):
    """Pieces of text that follow each other: of the answer, or of the thoughts."""

    are_thoughts: bool
    pieces: list[str]


_DECODER = msgspec.json.Decoder(Chunk)
_PIECES_DECODER = msgspec.json.Decoder(list[str])

# An event with a piece of text, and nothing else that matters: up to the text, and the text.
_TEXT_EVENT = re.compile(
    rb'data: \{[^\n]*?"delta": ?\{'
    rb'(?:"(reasoning_)?content": ?|"tool_calls": ?\[\{"index": ?(\d{1,4}), ?"function": ?\{"arguments": ?)'
    rb'(?=("(?:[^"\\]|\\.)*"))'
)


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
            if found := reader.read(*await answer.read_pieces()):
                yield found
        reader.end()
    finally:
        answer.close()


class EventReader:
    """Takes the bytes of a stream, and returns its events.

    It learns from an event with a piece of text how such events begin and end. Then the bytes between are the texts. An
    engine writes each event as a piece of its own, so the pieces in which they come are taken for events, and it is
    checked afterwards, for all of them at once, that they are.

    An event may have `limit` bytes. What comes before an event that is an error, or makes no sense, is returned first;
    then the error is raised, by the next call of `read` or `end`."""

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._failure: RouterError | None = None
        self._held = b""  # of an event that is not whole
        # Of an event with a piece of text: what comes before the text, what follows it, and that with the end of the
        # event. No event is like these first values.
        self._prefix = self._suffix = self._end = b"\0"
        self._between = b""  # two such texts: the end of one event, and the beginning of the next
        self._are_thoughts = False
        self._call: int | None = None

    def __repr__(self) -> str:
        return f"<EventReader {len(self._held)} bytes held>"

    def read(self, *pieces: bytes) -> list[Chunk | Texts]:
        """Raises UpstreamFailed, and the error that an event reports."""
        self.end()
        found: list[Chunk | Texts] = []
        try:
            self._read(pieces, found)
        except RouterError as exc:
            if not found:
                raise
            self._failure = without_frames(exc)
        return found

    def end(self) -> None:
        """Raises the error that has not been raised yet, if there is one."""
        if self._failure is not None:
            raise self._failure

    def _read(self, pieces: tuple[bytes, ...], found: list[Chunk | Texts]) -> None:
        if not pieces:
            return
        if self._held:
            pieces = (self._held + pieces[0], *pieces[1:])
            self._held = b""
        elif texts := self._texts(pieces):
            found.append(texts)
            return
        if not pieces[-1].endswith(b"\n\n"):
            *before, last = pieces
            if b"\n" in last or (before and not before[-1].endswith(b"\n\n")):
                data, self._held = split_at_event(b"".join(pieces), self._limit)
                self._add_events(data, found)
                return
            self._held = _check_size(last, self._limit)
            pieces = tuple(before)
        begin, end = 0, len(pieces)
        while begin < min(end, MOST_OTHERS) and not pieces[begin].startswith(self._prefix):
            if not pieces[begin].endswith(b"\n\n"):
                break
            self._add_events(pieces[begin], found)
            begin += 1
        while begin < end and len(pieces) - end < MOST_OTHERS and not pieces[end - 1].startswith(self._prefix):
            end -= 1
        if texts := self._texts(pieces[begin:end]):
            found.append(texts)
            begin = end
        if begin < len(pieces):
            self._add_events(b"".join(pieces[begin:]), found)

    def _texts(self, events: Sequence[bytes]) -> Chunk | Texts | None:
        """The pieces of text in `events`, if all are like the last event with a piece of text."""
        if not (events and events[0].startswith(self._prefix) and events[-1].endswith(self._end)):
            return None
        start, stop = len(self._prefix), -len(self._end)
        literals = [event[start:stop] for event in events]
        if len(literals) > 1 and self._between.join(literals) != b"".join(events)[start:stop]:
            return None
        return self._texts_of(literals)

    def _add_events(self, data: bytes, found: list[Chunk | Texts]) -> None:
        """Whole events, of any kind and in any pieces."""
        like: list[bytes] = []  # events like the last one with a piece of text, which follow each other
        for event in data.split(b"\n\n"):
            if event.startswith(self._prefix) and event.endswith(self._suffix):
                like.append(event)
                continue
            if like:
                self._add_alike(like, found)
                like.clear()
            for line in event.split(b"\n"):
                if line.startswith(b"data: {"):
                    chunk = chunk_of(line[6:])
                    found.append(chunk)
                    if chunk.is_text:
                        self._learn(line)
        if like:
            self._add_alike(like, found)

    def _add_alike(self, events: Sequence[bytes], found: list[Chunk | Texts]) -> None:
        start, stop = len(self._prefix), -len(self._suffix)
        if texts := self._texts_of([event[start:stop] for event in events]):
            found.append(texts)
        else:
            for event in events:
                found.append(chunk_of(event[6:]))

    def _texts_of(self, literals: Sequence[bytes]) -> Chunk | Texts | None:
        """The pieces of text that are between beginning and end of each event; None if that is not one text in each."""
        try:
            pieces = _PIECES_DECODER.decode(b"[" + b",".join(literals) + b"]")
        except (ValueError, msgspec.MsgspecError):
            return None
        if len(pieces) != len(literals):
            return None
        if self._call is None:
            return Texts(self._are_thoughts, pieces)
        arguments = CallPiece(self._call, None, FunctionPiece(None, "".join(pieces)))
        return Chunk([Choice(Delta(tool_calls=[arguments]))])

    def _learn(self, line: bytes) -> None:
        if match := _TEXT_EVENT.match(line):
            self._prefix, self._suffix = line[: match.end()], line[match.end(3) :]
            self._end = self._suffix + b"\n\n"
            self._between = self._end + self._prefix
            self._are_thoughts, self._call = match[1] is not None, int(match[2]) if match[2] else None


def without_frames(error: RouterError) -> RouterError:
    """To be kept: a raised error holds the frames, and they hold what keeps it, and all that was read."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def split_at_event(data: bytes, limit: int) -> tuple[bytes, bytes]:
    """The whole events in `data`, and the beginning of the next one. Raises UpstreamFailed if that has more bytes than
    `limit`."""
    end = data.rfind(b"\n\n") + 2
    return (data[:end], _check_size(data[end:], limit)) if end > 1 else (b"", _check_size(data, limit))


def _check_size(held: bytes, limit: int) -> bytes:
    if len(held) > limit:
        raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(limit)}.")
    return held


def chunk_of(data: bytes) -> Chunk:
    """Raises UpstreamFailed, and the error that the child reports in it."""
    chunk = decode(_DECODER, data)
    if chunk.error is not msgspec.UNSET:
        raise reported_error(chunk.error)
    return chunk
