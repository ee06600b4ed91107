"""One request to a child, and its answer in Anthropic's words: a message, its events, or a count of tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from router.api.chat_stream import chunk_of
from router.api.messages.answer import message
from router.api.messages.request import AnswerShape
from router.api.messages.stream import MessageEvents
from router.proxy.collected import ChatAnswer
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.wire.child_json import blame_child, parse_json
from router.wire.response import Response

CHAT, COUNT = b"/v1/chat/completions", b"/v1/chat/completions/input_tokens"
EVENTS, JSON = b"text/event-stream", b"application/json"

MAX_ANSWER_BYTES = 64 << 20  # of an answer that is not streamed


@dataclass(slots=True)
class Generation:
    """A translation for the gateway: sends `body`, a chat completion, and yields the answer for the client.

    `model` is the name in the answer.
    `collects`: the body asks for a stream, though the client wants none; its time is limited."""

    model: str
    body: bytes
    shape: AnswerShape
    collects: bool = False
    _events: MessageEvents | None = None  # of the stream that is under way
    _collected: ChatAnswer | None = None

    def __repr__(self) -> str:
        return f"<Generation {self.model!r} {self._events or self.shape}>"

    @property
    def media_type(self) -> bytes:
        return EVENTS if self.shape.stream else JSON

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        answer = await post(CHAT, self.body)
        try:
            if answer.status != 200:
                raise await read_upstream_error(answer)
            if not self.shape.stream:
                whole = await (self._collect(answer) if self.collects else answer.read_all(MAX_ANSWER_BYTES))
                yield self._message(whole)
                return
            events = self._events = MessageEvents(self.model, self.shape)
            while not answer.is_at_end:
                if found := events.feed(*await answer.read_pieces()):
                    yield found
            yield events.end()
        finally:
            answer.close()

    async def _collect(self, answer: Response) -> bytes:
        collected = self._collected = ChatAnswer()
        while not answer.is_at_end:
            collected.feed(await answer.read())
        return collected.whole()

    def _message(self, whole: bytes) -> bytes:
        return json.dumps(message(self.model, chunk_of(whole), self.shape)).encode()

    def cut(self) -> bytes | None:
        """The last events, or the whole message without a stream, if the time is up: as at a limit of tokens. None if
        nothing has come."""
        if self._events:
            return self._events.end(is_cut=True)
        whole = self._collected.cut() if self._collected else None
        return self._message(whole) if whole else None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """As `Generation`, for /v1/messages/count_tokens."""

    body: bytes

    @property
    def media_type(self) -> bytes:
        return JSON

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        answer = await post(COUNT, self.body)
        try:
            if answer.status != 200:
                raise await read_upstream_error(answer)
            data = await answer.read_all()
            with blame_child():
                count = int(parse_json(data)["input_tokens"])
            yield json.dumps({"input_tokens": count}).encode()
        finally:
            answer.close()
