"""What a child's stream says, as `Delta`s: from chats and from completions.

Pieces of text that have come together are one Delta, of as many pieces. Children are read with suspicion: an event of a
wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from router.api.chat_stream import MAX_EVENT_BYTES, CallPiece, Chunk, EventReader, Texts, split_at_event, without_frames
from router.errors import RouterError
from router.proxy.child_events import decode, reported_error
from router.wire.child_json import object_or_empty


class Delta(NamedTuple):
    """The next piece of the answer. `calls` are pieces of tool calls, `reason` says why the answer ended."""

    content: Sequence[str] = ()
    thinking: Sequence[str] = ()
    logprobs: list[dict[str, Any]] | None = None
    calls: list[CallPiece] | None = None
    reason: str | None = None
    timings: Mapping[str, Any] | None = None


class DeltaReader(Protocol):
    """Takes the bytes of a stream."""

    def read(self, *pieces: bytes) -> list[Delta]:
        """Raises the error that the child reports in an event, and UpstreamFailed for an event that makes no sense; if
        anything came before, only the next call of `read` or `end` raises it."""

    def end(self) -> None:
        """Raises the error that has not been raised yet, if there is one."""


class ChatReader:
    """A stream of chat completions."""

    def __init__(self) -> None:
        self._reader = EventReader(MAX_EVENT_BYTES)

    def __repr__(self) -> str:
        return f"<ChatReader {self._reader}>"

    def read(self, *pieces: bytes) -> list[Delta]:
        return [_delta_of(each) for each in self._reader.read(*pieces)]

    def end(self) -> None:
        self._reader.end()


def _delta_of(chunk: Chunk | Texts) -> Delta:
    if isinstance(chunk, Texts):
        return Delta((), chunk.pieces) if chunk.are_thoughts else Delta(chunk.pieces)
    timings = object_or_empty(chunk.timings)
    if not chunk.choices:
        return Delta(timings=timings)
    choice = chunk.choices[0]
    delta, logprobs = choice.delta, choice.logprobs
    return Delta(
        (delta.content,) if delta.content else (),
        (delta.reasoning_content,) if delta.reasoning_content else (),
        logprobs.content if logprobs else None,
        delta.tool_calls,
        choice.finish_reason,
        timings,
    )


class _Completion(msgspec.Struct):
    """One event of a completion. Nearly every event differs from the last in more than its text."""

    content: str | None = None
    stop: bool = False
    stop_type: str | None = None
    completion_probabilities: list[dict[str, Any]] | None = None
    timings: Any = None
    error: Any = msgspec.UNSET


_DECODER = msgspec.json.Decoder(_Completion)
_LIST_DECODER = msgspec.json.Decoder(list[_Completion])


class CompletionReader:
    """A stream of llama-server's own completions."""

    def __init__(self) -> None:
        self._held = b""  # of an event that is not whole
        self._failure: RouterError | None = None

    def __repr__(self) -> str:
        return f"<CompletionReader {len(self._held)} bytes held>"

    def read(self, *pieces: bytes) -> list[Delta]:
        self.end()
        whole, self._held = split_at_event(b"".join((self._held, *pieces)), MAX_EVENT_BYTES)
        found: list[Delta] = []
        texts: list[str] = []
        try:
            for event in _completions([line[6:] for line in whole.split(b"\n") if line.startswith(b"data: {")]):
                if event.error is not msgspec.UNSET:
                    raise reported_error(event.error)
                if event.stop or event.timings or event.completion_probabilities:
                    _add_texts(texts, found)
                    found.append(_delta_of_completion(event))
                elif event.content:
                    texts.append(event.content)
                elif not found:
                    found.append(Delta())  # the answer has begun
        except RouterError as exc:
            if not (found or texts):
                raise
            self._failure = without_frames(exc)
        _add_texts(texts, found)
        return found

    def end(self) -> None:
        if self._failure is not None:
            raise self._failure


def _add_texts(texts: list[str], found: list[Delta]) -> None:
    if texts:
        found.append(Delta(tuple(texts)))
        texts.clear()


def _completions(events: Sequence[bytes]) -> Iterable[_Completion]:
    """All at once, which is quicker; one by one if something is wrong with one of them, when it is due."""
    try:
        found = _LIST_DECODER.decode(b"[" + b",".join(events) + b"]")
    except (ValueError, RecursionError, msgspec.MsgspecError):
        found = []
    return found if len(found) == len(events) else (decode(_DECODER, event) for event in events)


def _delta_of_completion(event: _Completion) -> Delta:
    reason = (event.stop_type or "stop") if event.stop else None
    timings = object_or_empty(event.timings)
    return Delta((event.content,) if event.content else (), (), event.completion_probabilities, None, reason, timings)


def shown_logprobs(entries: Iterable[Mapping[str, Any]], top: int) -> list[dict[str, Any]]:
    """The tokens with their probabilities, and `top` alternatives to each. Raises TypeError for a wrong shape."""
    return [_logprob(entry, top) for entry in entries]


def _logprob(entry: Mapping[str, Any], top: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "token" in entry:
        fields["token"] = text_of(entry["token"])
    if "logprob" in entry:
        value = entry["logprob"]
        fields["logprob"] = value if isinstance(value, int | float) else None
    if "bytes" in entry:
        raw = entry["bytes"]
        fields["bytes"] = None if raw is None else [int(each) for each in raw]
    others = (entry.get("top_logprobs") or [])[:top]
    return {**fields, "top_logprobs": [_logprob(other, 0) for other in others]} if others else fields


def text_of(value: Any) -> str:
    """A string; empty for None. Raises TypeError for anything else."""
    if not isinstance(value, str | None):
        raise TypeError(f"a {type(value).__name__} where text belongs")
    return value or ""


def count_of(value: Any) -> float:
    """A number that is only shown; 0 if it is missing or impossible."""
    return value if isinstance(value, int | float) and 0 <= value < 1e15 else 0
