"""The output items of an answer, made of a chat's pieces, and the events that tell of each step.

One item is open at a time: thoughts, a message or a call. A piece of another kind closes it and opens the next. Most
events of an answer are pieces of text, so these are written by template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.api.chat_stream import CallPiece, Chunk, Texts, Usage
from router.api.responses.items import sealed_thoughts
from router.api.responses.response import usage_fields
from router.api.responses.tools import CUSTOM_INPUT, ToolName
from router.errors import UpstreamFailed
from router.units import limit_size
from router.wire.child_json import parse_json, printable

MAX_TEXT_CHARS = 64 << 20  # of all items

_encode = msgspec.json.Encoder().encode


class Events:
    """Numbers events, and writes them."""

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return f"<Events {self.count} so far>"

    def event(self, kind: str, fields: dict[str, Any]) -> bytes:
        return self.filled(self.prefix(kind, fields), b"")

    def prefix(self, kind: str, fields: dict[str, Any]) -> bytes:
        """An event up to the place where more members, or its number, belong."""
        return b"event: %b\ndata: %b" % (kind.encode(), _encode({"type": kind, **fields})[:-1])

    def filled(self, prefix: bytes, members: bytes) -> bytes:
        """`members` begin with a comma."""
        self.count += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (prefix, members, self.count - 1)


class Item:
    """An item that is being generated. Subclasses say what it looks like, and which events belong to it."""

    kind = ""
    id_prefix = ""

    def __init__(self, events: Events, token: str, index: int) -> None:
        self._events = events
        self._pieces: list[str] = []
        self.id, self.index = f"{self.id_prefix}_{token}{index:02x}", index
        self._place = {"item_id": self.id, "output_index": index}
        self._delta_prefix = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index}, {len(self._pieces)} pieces>"

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def open(self) -> bytes:
        item = self.fields("in_progress", "")
        return self._events.event("response.output_item.added", {"output_index": self.index, "item": item})

    def add(self, piece: str) -> bytes:
        self._pieces.append(piece)
        return self._events.filled(self._delta_prefix, b',"delta":' + _encode(piece))

    def close(self, status: str) -> tuple[bytes, bytes]:
        """The events, and the finished item as JSON."""
        item, told = self.fields(status, self.text), self._close_text()
        done = self._events.event("response.output_item.done", {"output_index": self.index, "item": item})
        return told + done, _encode(item)

    def fields(self, status: str, text: str) -> dict[str, Any]:
        """The item. `text` is empty when it is opened."""
        raise NotImplementedError

    def _close_text(self) -> bytes:
        raise NotImplementedError


class Message(Item):
    kind, id_prefix = "message", "msg"

    def __init__(self, events: Events, token: str, index: int) -> None:
        super().__init__(events, token, index)
        self._logprobs: list[dict[str, Any]] = []
        self._place["content_index"] = 0
        self._delta_prefix = events.prefix("response.output_text.delta", self._place)

    def open(self) -> bytes:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        return super().open() + self._events.event("response.content_part.added", {**self._place, "part": part})

    def add(self, piece: str, logprobs: Sequence[dict[str, Any]] = ()) -> bytes:
        self._pieces.append(piece)
        self._logprobs += logprobs
        told = b',"delta":%b,"logprobs":%b' % (_encode(piece), _encode(logprobs) if logprobs else b"[]")
        return self._events.filled(self._delta_prefix, told)

    def fields(self, status: str, text: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part(text)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "annotations": [], "logprobs": self._logprobs, "text": text}

    def _close_text(self) -> bytes:
        text = self.text
        done = {**self._place, "text": text, "logprobs": self._logprobs}
        return self._events.event("response.output_text.done", done) + self._events.event(
            "response.content_part.done", {**self._place, "part": self._part(text)}
        )


class Thoughts(Item):
    """Thoughts as they are. `seals`: they are repeated as `encrypted_content`."""

    kind, id_prefix = "reasoning", "rs"
    PART, NAME, EVENT, INDEX = "reasoning_text", "content", "response.reasoning_text", "content_index"
    PART_EVENT = "response.content_part"

    def __init__(self, events: Events, token: str, index: int, seals: bool) -> None:
        super().__init__(events, token, index)
        self._seals = seals
        self._place[self.INDEX] = 0
        self._delta_prefix = events.prefix(f"{self.EVENT}.delta", self._place)

    def open(self) -> bytes:
        part = {"type": self.PART, "text": ""}
        return super().open() + self._events.event(f"{self.PART_EVENT}.added", {**self._place, "part": part})

    def fields(self, status: str, text: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id, "type": "reasoning", "status": status, "summary": []}
        if text:
            item[self.NAME] = [{"type": self.PART, "text": text}]
        return {**item, "encrypted_content": sealed_thoughts(text)} if self._seals else item

    def _close_text(self) -> bytes:
        text = self.text
        return self._events.event(f"{self.EVENT}.done", {**self._place, "text": text}) + self._events.event(
            f"{self.PART_EVENT}.done", {**self._place, "part": {"type": self.PART, "text": text}}
        )


class SummarisedThoughts(Thoughts):
    """Thoughts for clients that ask for a summary, and show nothing else. The summary leaves nothing out: models here
    have no second model that would write a shorter one."""

    PART, NAME, EVENT, INDEX = "summary_text", "summary", "response.reasoning_summary_text", "summary_index"
    PART_EVENT = "response.reasoning_summary_part"


class Call(Item):
    """A call of a function."""

    kind, id_prefix = "function_call", "fc"

    def __init__(self, events: Events, token: str, index: int, call_id: str, name: ToolName) -> None:
        super().__init__(events, token, index)
        self._call_id = call_id or f"call_{token[:24]}{index:02x}"
        self._name = {"name": name.name, **({"namespace": name.namespace} if name.namespace else {})}
        self._delta_prefix = events.prefix("response.function_call_arguments.delta", self._place)

    def fields(self, status: str, text: str) -> dict[str, Any]:
        call = {"id": self.id, "type": "function_call", "status": status, "call_id": self._call_id}
        return {**call, **self._name, "arguments": text}

    def _close_text(self) -> bytes:
        return self._events.event("response.function_call_arguments.done", {**self._place, "arguments": self.text})


class CustomCall(Call):
    """A call of a custom tool. Its input is one string in the arguments, which is known when they are complete."""

    kind, id_prefix = "custom_tool_call", "ctc"

    def add(self, piece: str) -> bytes:
        self._pieces.append(piece)
        return b""

    def fields(self, status: str, text: str) -> dict[str, Any]:
        call = {"id": self.id, "type": "custom_tool_call", "status": status, "call_id": self._call_id}
        return {**call, **self._name, "input": self._input(text)}

    def _close_text(self) -> bytes:
        given = self._input(self.text)
        return self._events.event("response.custom_tool_call_input.delta", {**self._place, "delta": given}) + (
            self._events.event("response.custom_tool_call_input.done", {**self._place, "input": given})
        )

    @staticmethod
    def _input(arguments: str) -> str:
        """The arguments themselves if they are not what was asked for: the client can make something of them."""
        try:
            value = parse_json(arguments.encode(errors="replace"))
        except ValueError:
            return arguments
        given = value.get(CUSTOM_INPUT) if isinstance(value, dict) else None
        return given if isinstance(given, str) else arguments


class Output:
    """The items of one answer.

    - `token` is part of the ids of its items.
    - `names` are the tools whose names differ in the chat.
    - `top_logprobs`: how many alternatives the client wants to see for each token; None if it wants no logprobs.
    """

    def __init__(
        self,
        events: Events,
        token: str,
        names: dict[str, ToolName],
        *,
        has_summary: bool = False,
        seals: bool = False,
        top_logprobs: int | None = None,
    ) -> None:
        self.items: list[bytes] = []  # finished, as JSON
        self.reason = ""  # why the answer ended
        self._events, self._token, self._names = events, token, names
        self._thoughts = SummarisedThoughts if has_summary else Thoughts
        self._seals = seals
        self._top_logprobs = top_logprobs
        self._open: Item | None = None
        self._open_call = -1  # the number of the call in the chat, if a call is open
        self._usage: Usage | None = None
        self._reasoning_tokens = self._chars = 0

    def __repr__(self) -> str:
        return f"<Output {len(self.items)} items, open={self._open!r}>"

    @property
    def usage(self) -> dict[str, Any] | None:
        return usage_fields(self._usage, self._reasoning_tokens)

    def take(self, chunk: Chunk | Texts) -> bytes:
        """The events that a piece of the chat becomes. Raises UpstreamFailed."""
        if isinstance(chunk, Texts):
            return self._add_texts(chunk)
        self._usage = chunk.usage or self._usage
        told = b""
        for choice in chunk.choices:
            delta = choice.delta
            if delta.reasoning_content:
                told += self._add_thoughts(delta.reasoning_content)
            if delta.content:
                told += self._add_text(delta.content, choice.logprobs.content if choice.logprobs else None)
            for piece in delta.tool_calls or ():
                told += self._add_call(piece)
            self.reason = choice.finish_reason or self.reason
        return told

    def finish(self) -> bytes:
        """The last events of the items. An answer without any has an empty message."""
        is_cut = self.reason == "length"
        opened = self._begin(Message(self._events, self._token, 0)) if not (self.items or self._open or is_cut) else b""
        return opened + self._close("incomplete" if is_cut else "completed")

    def _add_texts(self, texts: Texts) -> bytes:
        """One event for all of them: they have come together, so nobody would see them one by one."""
        text = "".join(texts.pieces)
        if not text:
            return b""
        return self._add_thoughts(text, len(texts.pieces)) if texts.are_thoughts else self._add_text(text, None)

    def _add_thoughts(self, piece: str, tokens: int = 1) -> bytes:
        self._reasoning_tokens += tokens
        self._count(piece)
        thoughts, opened = self._open_thoughts()
        return opened + thoughts.add(piece)

    def _add_text(self, piece: str, logprobs: list[dict[str, Any]] | None) -> bytes:
        self._count(piece)
        message, opened = self._open_message()
        if logprobs and self._top_logprobs is not None:
            return opened + message.add(piece, [logprob(each, self._top_logprobs) for each in logprobs])
        return opened + message.add(piece)

    def _add_call(self, piece: CallPiece) -> bytes:
        function, opened = piece.function, b""
        call = self._open if self._open_call == piece.index else None
        if call is None:
            if function is None or not function.name:
                raise UpstreamFailed("The model's server sent a part of a tool call without the name of the tool.")
            name = self._names.get(function.name) or ToolName(function.name)
            kind = CustomCall if name.is_custom else Call
            call = kind(self._events, self._token, self._next_index, piece.id or "", name)
            opened, self._open_call = self._begin(call), piece.index
        arguments = function.arguments if function else None
        if not arguments:
            return opened
        self._count(arguments)
        return opened + call.add(arguments)

    def _open_thoughts(self) -> tuple[Item, bytes]:
        """The item that is open, or one that is begun now, and the events of that."""
        if isinstance(self._open, Thoughts):
            return self._open, b""
        thoughts = self._thoughts(self._events, self._token, self._next_index, self._seals)
        return thoughts, self._begin(thoughts)

    def _open_message(self) -> tuple[Message, bytes]:
        if isinstance(self._open, Message):
            return self._open, b""
        message = Message(self._events, self._token, self._next_index)
        return message, self._begin(message)

    @property
    def _next_index(self) -> int:
        return len(self.items) + (self._open is not None)

    def _begin(self, item: Item) -> bytes:
        closed = self._close("completed")
        self._open = item
        return closed + item.open()

    def _close(self, status: str) -> bytes:
        if self._open is None:
            return b""
        told, item = self._open.close(status)
        self.items.append(item)
        self._open, self._open_call = None, -1
        return told

    def _count(self, piece: str) -> None:
        self._chars += len(piece)
        if self._chars > MAX_TEXT_CHARS:
            raise UpstreamFailed(
                f"The model's answer has more than {limit_size(MAX_TEXT_CHARS)}: set max_output_tokens."
            )


def logprob(entry: dict[str, Any], top: int) -> dict[str, Any]:
    """A token's logprob with the fields of this API."""
    others = entry.get("top_logprobs")
    raw = entry.get("bytes")
    value = entry.get("logprob")
    return {
        "token": printable(entry.get("token") or ""),
        "bytes": raw if isinstance(raw, list) else [],
        "logprob": value if isinstance(value, int | float) else 0.0,
        "top_logprobs": [
            {name: inner for name, inner in logprob(other, 0).items() if name != "top_logprobs"}
            for other in (others if isinstance(others, list) else [])[:top]
            if isinstance(other, dict)
        ],
    }
