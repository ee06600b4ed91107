"""The answer to a request: a stream of typed events, or one object at its end.

The child always streams, so that the router sees that the answer goes on, and can tell a cut answer from a whole one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from starlette.responses import Response

from router.api.chat_stream import Chunk, Texts, chunks_of
from router.api.dialects import OPENAI
from router.api.ollama.context import Fitting
from router.api.responses.output import Events, Output
from router.api.responses.request import ChatRequest
from router.api.responses.response import ResponseObject, error_code
from router.errors import ContextExceeded, RouterError, UpstreamFailed
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild

CHAT, INPUT_TOKENS = b"/v1/chat/completions", b"/v1/chat/completions/input_tokens"
EVENTS, JSON = b"text/event-stream", b"application/json"

# For "truncation": "auto": the oldest turns go, as in chats of Ollama's API.
FITTING = Fitting(truncate=True, shift=True, ends_at_context=False, context=lambda: None)

Keep = Callable[[str, bytes], None]  # keeps a finished response: its id, the object as JSON


class Answer:
    """A translation for the gateway: sends `body` to the child, and yields the client's answer. It is also the dialect
    of this one request, as an error in a stream has the number of an event, and repeats the response.

    `keep` is called once the answer is complete, or cut by a limit; None if it is not to be stored."""

    name = OPENAI.name
    keep: Keep | None = None

    def __init__(self, request: ChatRequest, body: bytes) -> None:
        # Not the request itself: its fields are many times as large as the body, and it may wait long.
        self._body = body
        self._is_stream = request.is_stream
        self._truncates = request.truncates
        self._response = ResponseObject(request.shown)
        self._events = Events()
        self._output = Output(
            self._events,
            self._response.token,
            request.names,
            has_summary=request.has_summary,
            seals=request.seals,
            top_logprobs=request.top_logprobs,
        )

    def __repr__(self) -> str:
        return f"<Answer {self._response.id} {self._events.count} events>"

    @property
    def token(self) -> str:
        """The part of the response's id that its items have in theirs."""
        return self._response.token

    @property
    def media_type(self) -> bytes:
        return EVENTS if self._is_stream else JSON

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        output, is_stream = self._output, self._is_stream
        try:
            async with contextlib.aclosing(self._chunks(post)) as parts:
                async for chunks in parts:
                    told = b"".join([output.take(chunk) for chunk in chunks]) if chunks else self._begin()
                    if is_stream:
                        yield told
        except ContextExceeded as exc:
            if not is_stream:
                raise
            # An event, as OpenAI's servers send it: Codex reads no code in an answer with status 400.
            yield self.stream_error(exc, "")
            return
        if not output.reason:
            raise UpstreamFailed("The model's answer ended before it was complete.")
        yield self._end()

    async def _chunks(self, post: PostToChild) -> AsyncGenerator[Sequence[Chunk | Texts]]:
        """The child's answer; if the prompt is too long and the client allows it, to a shorter prompt."""
        body, is_begun = self._body, False
        try:
            async with contextlib.aclosing(chunks_of(post, CHAT, body)) as parts:
                async for chunks in parts:
                    is_begun = True
                    yield chunks
            return
        except ContextExceeded as refusal:
            if is_begun or not self._truncates:
                raise
            body = await FITTING.after(post, body, refusal, is_chat=True)
        async with contextlib.aclosing(chunks_of(post, CHAT, body)) as parts:
            async for chunks in parts:
                yield chunks

    def cut(self) -> bytes:
        """What ends the answer when its time is up: it is incomplete, as at a limit of tokens."""
        begun = self._begin() if self._is_stream else b""
        self._output.reason = "length"
        return begun + self._end()

    def _end(self) -> bytes:
        output = self._output
        status = "incomplete" if output.reason == "length" else "completed"
        told = output.finish()
        response = self._response.render(status, output.items, output.usage)
        if self.keep is not None:
            # Before the client hears of it: its next request may come at once.
            self.keep(self._response.id, response)
        return told + self._lifecycle(status, response) if self._is_stream else response

    def error(self, exc: RouterError, request_id: str) -> Response:
        return OPENAI.error(exc, request_id)

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        """`response.failed`, for clients that read the response, and `error`, for those that raise. OpenAI's clients
        raise if it has a member `error`; their types have its members in the event itself."""
        begun = b"" if self._events.count else self._begin()
        failed = self._lifecycle("failed", self._response.render("failed", self._output.items, error=exc))
        error = {"code": error_code(exc), "message": exc.message, "param": exc.param}
        return begun + failed + self._events.event("error", {**error, "error": {"type": exc.code, **error}})

    def _begin(self) -> bytes:
        if self._events.count:
            return b""
        response = self._response.render("in_progress")
        return self._lifecycle("created", response) + self._lifecycle("in_progress", response)

    def _lifecycle(self, step: str, response: bytes) -> bytes:
        return self._events.filled(self._events.prefix(f"response.{step}", {}), b',"response":' + response)


class TokenCount:
    """A translation that counts the tokens of a prompt; the child's answer is this API's already."""

    media_type = JSON

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __repr__(self) -> str:
        return f"<TokenCount of {len(self._body)} bytes>"

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        answer = await post(INPUT_TOKENS, self._body)
        try:
            if answer.status != 200:
                raise await read_upstream_error(answer)
            yield await answer.read_all()
        finally:
            answer.close()
