"""PURE: a streamed answer as Anthropic's events.

A message is a list of blocks, one after the other: thoughts, text, calls of tools. A child sends pieces without saying
where a block begins and ends, so `EventWriter` knows which block is open, and closes it when a piece of another kind
comes. Events are written by template: only what differs is encoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from router.api.chat_stream import CachedTokens, CallPiece, Chunk, EventReader, Texts, Usage, Verbose
from router.api.messages.answer import SIGNATURE, head, stop_reason, tool_use_id, usage_fields
from router.api.messages.request import AnswerShape
from router.errors import UpstreamFailed

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b}}\n\n'
_TEXT = b'"text_delta","text":%b'
_THINKING = b'"thinking_delta","thinking":%b'
_SIGNATURE = b'"signature_delta","signature":"%b"' % SIGNATURE.encode()
_INPUT = b'"input_json_delta","partial_json":%b'
_DELTA_END = b"}}\n\n"
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'

_encode = msgspec.json.encode


def event(name: str, fields: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, separators=(',', ':'))}\n\n".encode()


class MessageEvents:
    """A child's stream as the stream of a message::

    events = MessageEvents("qwen3", shape)
    events.feed(piece, ...)   # bytes for the client, b"" if nothing is to be sent yet
    events.end()              # the last events
    """

    def __init__(self, model: str, shape: AnswerShape) -> None:
        self._reader, self._writer = EventReader(), EventWriter(model, shape)

    def __repr__(self) -> str:
        return f"<MessageEvents {self._reader} {self._writer}>"

    def feed(self, *pieces: bytes) -> bytes:
        """Raises UpstreamFailed, and the error that the child reports in an event; as late as `EventReader`."""
        return self._writer.take(self._reader.read(*pieces))

    def end(self, *, is_cut: bool = False) -> bytes:
        """`is_cut`: the answer ends here, as one that has reached its limit. Raises UpstreamFailed if the child's
        answer was not complete, and what `feed` has not raised yet."""
        if not is_cut:
            self._reader.end()
        return self._writer.end(is_cut=is_cut)


class EventWriter:
    """Takes the events of a child, and gives those of the message::

    writer = EventWriter("qwen3", shape)
    writer.take([chunk, ...])   # bytes, b"" if nothing is to be sent yet
    writer.end()                # the last events
    """

    def __init__(self, model: str, shape: AnswerShape) -> None:
        self._model, self._shape = model, shape
        self._is_started = False
        self._index = -1  # of the block that is open, or was last
        self._kind = ""  # of the block that is open: text, thinking, tool_use
        self._delta_begin = b""  # of an event that adds text to it, up to the text
        self._call = -1  # number of the tool call that is open
        self._prefill = shape.prefill  # what the child still has to repeat
        self._repeated = ""
        self._reason = ""
        self._usage = Usage()
        self._verbose: Verbose | None = None

    def __repr__(self) -> str:
        return f"<EventWriter block {self._index} {self._kind or 'closed'}, {self._reason or 'running'}>"

    def take(self, chunks: Iterable[Chunk | Texts]) -> bytes:
        """The events for these of the child. Raises UpstreamFailed."""
        found: list[bytes] = []
        for chunk in chunks:
            if isinstance(chunk, Texts):
                self._take_texts(chunk, found)
            elif chunk.prompt_progress is not None:
                progress = chunk.prompt_progress
                self._start(found, Usage(progress.total, 0, CachedTokens(progress.cache)))
                found.append(PING)
            else:
                self._take_pieces(chunk, found)
        return b"".join(found)

    def end(self, *, is_cut: bool = False) -> bytes:
        """The last events. Raises UpstreamFailed if the child's answer was not complete."""
        if is_cut:
            self._reason = "length"
        if not self._reason:
            raise UpstreamFailed("The model's answer ended before it was complete.")
        found: list[bytes] = []
        self._start(found, self._usage)
        if self._repeated and self._prefill:  # it has not repeated all of it, so it has not repeated it at all
            self._prefill = ""
            self._write_text(self._repeated, found)
        self._close(found)
        reason, word = stop_reason(self._reason, self._verbose, self._shape)
        delta = {"stop_reason": reason, "stop_sequence": word}
        found.append(event("message_delta", {"delta": delta, "usage": usage_fields(self._usage, self._shape)}))
        found.append(MESSAGE_STOP)
        return b"".join(found)

    def _take_pieces(self, chunk: Chunk, found: list[bytes]) -> None:
        self._usage = chunk.usage or self._usage
        self._verbose = chunk.verbose or self._verbose
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        delta = choice.delta
        if self._shape.is_warmup:
            return
        if delta.reasoning_content:
            self._write_thoughts(delta.reasoning_content, found)
        if delta.content:
            self._write_text(delta.content, found)
        for piece in delta.tool_calls or ():
            self._take_call(piece, found)

    def _take_texts(self, texts: Texts, found: list[bytes]) -> None:
        if self._shape.is_warmup:
            return
        text = "".join(texts.pieces)
        self._write_thoughts(text, found) if texts.are_thoughts else self._write_text(text, found)

    def _write_thoughts(self, text: str, found: list[bytes]) -> None:
        if not text:
            return
        if self._kind != "thinking":
            self._open("thinking", b'{"type":"thinking","thinking":"","signature":""}', found)
        if self._shape.shows_thinking:
            found.append(self._delta_begin + _encode(text) + _DELTA_END)

    def _write_text(self, text: str, found: list[bytes]) -> None:
        if self._prefill:
            text = self._without_prefill(text)
        if not text:
            return
        if self._kind != "text":
            self._open("text", b'{"type":"text","text":""}', found)
        found.append(self._delta_begin + _encode(text) + _DELTA_END)

    def _without_prefill(self, text: str) -> str:
        """The text without the beginning of the answer, which the engine repeats and the client already has."""
        self._repeated += text
        if self._repeated.startswith(self._prefill):
            text, self._prefill = self._repeated[len(self._prefill) :], ""
        elif self._prefill.startswith(self._repeated):
            return ""
        else:
            text, self._prefill = self._repeated, ""
        return text

    def _take_call(self, piece: CallPiece, found: list[bytes]) -> None:
        name = piece.function.name if piece.function else None
        arguments = piece.function.arguments if piece.function else None
        if self._kind != "tool_use" or piece.index != self._call:
            if not name:
                raise UpstreamFailed("The model's server sent a piece of a tool call that has no beginning.")
            self._close(found)
            block = {"type": "tool_use", "id": tool_use_id(piece.id), "name": name, "input": {}}
            self._open("tool_use", _encode(block), found)
            self._call = piece.index
        if arguments:
            found.append(_DELTA % (self._index, _INPUT % _encode(arguments)))

    def _open(self, kind: str, block: bytes, found: list[bytes]) -> None:
        """Opens a block of this kind, if none is open."""
        if self._kind == kind:
            return
        self._start(found, self._usage)
        self._close(found)
        self._index, self._kind = self._index + 1, kind
        piece = (_THINKING if kind == "thinking" else _TEXT) % b""
        self._delta_begin = (_DELTA % (self._index, piece)).removesuffix(_DELTA_END)
        found.append(
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, block)
        )

    def _close(self, found: list[bytes]) -> None:
        if self._kind == "thinking":
            found.append(_DELTA % (self._index, _SIGNATURE))
        if self._kind:
            found.append(_STOP % self._index)
        self._kind = ""

    def _start(self, found: list[bytes], usage: Usage) -> None:
        """The first event, if it is not sent. It is expected to tell the length of the prompt."""
        if self._is_started:
            return
        self._is_started = True
        empty: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_fields(usage, self._shape),
        }
        found.append(event("message_start", {"message": {**head(self._model), **empty}}))
