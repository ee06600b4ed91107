"""A request that has not ended. `records` makes it, `proxy` tells it what happens, and it becomes a record at its end.

Everything that it is told costs a few assignments: a small request has a budget of two microseconds for all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from router.records.record import Record
from router.records.tokens import NO_TOKENS, Tokens, tokens_in_one, tokens_of

# What was wrong with an answer, where no RouterError says it.
ENGINE_ERROR = "engine_error"  # the answer is an error of the engine
DEFECT = "defect"  # of the router
CANCELLED = "cancelled"  # the router ended meanwhile

LEFT = 499  # the status of a request whose client left before the answer, as nginx logs it
_NOW = time.monotonic


class Answer(Protocol):
    """A child's answer, as far as it has been read: `wire.response.Response`.

    `pieces` is how many pieces have been read: of a stream, events. `content_at` is when the first content was read, by
    `time.monotonic`. `beginning` and `tail` are its first and last bytes, some thousand each.
    """

    pieces: int
    content_at: float | None

    @property
    def is_stream(self) -> bool: ...

    @property
    def beginning(self) -> bytes: ...

    @property
    def tail(self) -> bytes: ...


class Sent(Protocol):
    """What the client has got: `proxy.client_response.ClientResponse`. `status` is 0 until the answer begins."""

    status: int


class Book(Protocol):
    """Where records are kept: `records.Records`."""

    def load_seconds(self, model: str, since: float) -> float: ...

    def finish(self, request: Running, record: Record, now: float) -> None: ...


class Running(msgspec.Struct, eq=False):
    """What is known of a request so far. Attributes are set from outside, by whoever comes to know them. A Struct, as
    each small request makes one (see `Record`).

    - `client_id`: the request id that the client gets.
    - `began`: by `time.monotonic`.
    - `model`, `stream`, `background`, `asked`: as in `Record`.
    - `sent`: what the client has got.
    - `stop_work`: ends the work for it at once; None if nothing can be ended now.
    - `counted`: events of the answer that `speed` has counted.
    """

    book: Book
    client_id: bytes
    id: str
    path: str
    dialect: str
    client: str
    agent: str
    trace: str
    began: float
    model: str = ""
    stream: bool = False
    background: bool = False
    asked: str = ""
    stop_work: Callable[[], object] | None = None
    sent: Sent | None = None
    answer: Answer | None = None
    counted: int = 0
    waited: float = 0.0
    load: float = 0.0
    waits_since: float | None = None
    is_over: bool = False
    is_stopped: bool = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.model!r}, {self.phase}>"

    @property
    def status(self) -> int:
        """That of the answer that was begun; 0 before."""
        return self.sent.status if self.sent is not None else 0

    @property
    def is_traced(self) -> bool:
        """Whether the child gets a `traceparent` of the router, and not the client's."""
        return "\n" in self.trace

    @property
    def onward(self) -> bytes:
        """The `traceparent` for the child, if there is one."""
        return self.trace.rpartition("\n")[2].encode("latin-1")

    @property
    def is_waiting(self) -> bool:
        return self.waits_since is not None

    @property
    def phase(self) -> str:
        if self.waits_since is not None:
            return "waiting"
        if self.answer is not None:
            return "prompt" if self.answer.content_at is None else "answering"
        return "prompt" if self.model else "reading"

    def wait(self) -> None:
        """From now on it waits for its model."""
        self.waits_since = _NOW()

    def wait_is_over(self) -> None:
        since, self.waits_since = self.waits_since, None
        if since is not None:
            self.waited += _NOW() - since
            self.load += self.book.load_seconds(self.model, since)

    def read(self, answer: Answer) -> None:
        """This is being read of a child now. The last answer is the one that counts."""
        self.answer, self.counted = answer, 0

    def stop(self) -> None:
        """An operator wants it to end: whoever works on it raises Stopped."""
        self.is_stopped = True
        if self.stop_work is not None:
            self.stop_work()

    def record(self) -> Record:
        """As it is now."""
        now, answer, tokens = _NOW(), self.answer, NO_TOKENS
        content_at = answer.content_at if answer is not None else None
        if answer is not None and answer.is_stream and content_at is not None:
            tokens = Tokens(generated=answer.pieces, per_second=answer.pieces / max(now - content_at, 0.001))
        return self._record(now, 0, self.phase, None, tokens, content_at)

    def end(self, status: int, error: str | None = None, whole: bytes = b"") -> None:
        """The one end of every request. Ends after the first do nothing.

        `status` is that of the answer, unless one was begun before; LEFT if the client has left. `error` is what went
        wrong. `whole` is an answer that has come in one piece.
        """
        if self.is_over:
            return
        self.is_over = True
        if self.waits_since is not None:
            self.wait_is_over()
        answer, content_at, tokens = self.answer, None, NO_TOKENS
        if answer is not None:
            content_at, tokens = answer.content_at, self._tokens(answer)
        phase = "failed" if error else "left" if status == LEFT else "done"
        now = _NOW()
        if whole:
            content_at, tokens = now, tokens_in_one(whole)
        self.book.finish(self, self._record(now, status, phase, error, tokens, content_at), now)
        self.answer = self.sent = self.stop_work = None

    def _tokens(self, answer: Answer) -> Tokens:
        """What the engine says; of a stream that was cut before, as many tokens as there were events."""
        tokens = tokens_of(answer.tail, answer.beginning)
        if tokens.generated is None and answer.is_stream and answer.content_at is not None:
            return msgspec.structs.replace(tokens, generated=answer.pieces)
        return tokens

    def _record(
        self, now: float, status: int, phase: str, error: str | None, tokens: Tokens, content_at: float | None
    ) -> Record:
        began, since = self.began, self.waits_since
        waited, load = self.waited, self.load
        if since is not None:
            waited += now - since
            load += self.book.load_seconds(self.model, since)
        return Record(
            self.id,
            time.time() - (now - began),
            self.model,
            self.path,
            self.dialect,
            self.status or status,
            phase,
            waited,
            load,
            content_at - began if content_at is not None else None,
            tokens.prompt,
            tokens.cached,
            tokens.generated,
            tokens.per_second,
            now - began,
            self.client,
            self.agent,
            error,
            self.asked,
            self.stream,
            self.background,
            tokens.prompt_seconds,
            tokens.generation_seconds,
            self.trace,
        )


def kind_of_end(exc: BaseException) -> str:
    """The word for what has ended a request, of an exception that is no RouterError."""
    return CANCELLED if isinstance(exc, asyncio.CancelledError) else DEFECT
