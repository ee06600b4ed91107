"""A request that has not ended. `records` makes it, `proxy` tells it what happens, and it becomes a record at its end.

Everything that it is told costs a few assignments: a small request has a budget of two microseconds for all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from router.records.record import Record
from router.records.tokens import NO_TOKENS, TAIL_BYTES, Tokens, tokens_of

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


class Running:
    """What is known of a request so far. Attributes are set from outside, by whoever comes to know them.

    - `model`, `asked`, `stream`, `background`: as in `Record`.
    - `sent`: what the client has got.
    - `stop_work`: ends the work for it at once; None if nothing can be ended now.
    """

    model = asked = trace = ""
    stream = background = is_over = is_stopped = False
    sent: Sent | None = None
    answer: Answer | None = None
    stop_work: Callable[[], object] | None = None
    counted = 0  # pieces of the answer that `speed` has counted
    _waited = _load = 0.0
    _waits_since: float | None = None

    def __init__(
        self,
        finish: Callable[[Running, Record, float], None],
        load_seconds: Callable[[str, float], float],
        client_id: bytes,
        id: str,
        path: str,
        dialect: str,
        client: str,
        agent: str,
    ) -> None:
        self._finish = finish
        self._load_seconds = load_seconds
        self.client_id, self.id, self.path, self.dialect, self.client, self.agent = (
            client_id,
            id,
            path,
            dialect,
            client,
            agent,
        )
        self.began = _NOW()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.model!r}, {self.phase}>"

    @property
    def is_waiting(self) -> bool:
        return self._waits_since is not None

    @property
    def phase(self) -> str:
        if self._waits_since is not None:
            return "waiting"
        if self.answer is not None:
            return "prompt" if self.answer.content_at is None else "answering"
        return "prompt" if self.model else "reading"

    def wait(self) -> None:
        """From now on it waits for its model."""
        self._waits_since = _NOW()

    def wait_is_over(self) -> None:
        since, self._waits_since = self._waits_since, None
        if since is not None:
            self._waited += _NOW() - since
            self._load += self._load_seconds(self.model, since)

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

    def end(self, status: int, error: str | None = None, whole: bytes | None = None) -> None:
        """The one end of every request. Ends after the first do nothing.

        `status` is that of the answer, unless one was begun before; LEFT if the client has left. `error` is what went
        wrong. `whole` is an answer that came in one piece.
        """
        if self.is_over:
            return
        self.is_over = True
        if self._waits_since is not None:
            self.wait_is_over()
        now, answer, content_at = _NOW(), self.answer, None
        if whole:
            content_at = now
            tokens = (
                tokens_of(whole) if len(whole) <= TAIL_BYTES else tokens_of(whole[-TAIL_BYTES:], whole[:TAIL_BYTES])
            )
        elif answer is not None:
            content_at, tokens = answer.content_at, self._tokens(answer)
        else:
            tokens = NO_TOKENS
        phase = "failed" if error else "left" if status == LEFT else "done"
        record = self._record(now, status, phase, error, tokens, content_at)
        self._finish(self, record, now)
        self.answer = self.sent = self.stop_work = None

    def _tokens(self, answer: Answer) -> Tokens:
        """What the engine says; of a stream that was cut before, as many tokens as there were events."""
        tokens = tokens_of(answer.tail, answer.beginning)
        if tokens.generated is None and answer.is_stream and answer.content_at is not None:
            return tokens._replace(generated=answer.pieces)
        return tokens

    def _record(
        self, now: float, status: int, phase: str, error: str | None, tokens: Tokens, content_at: float | None
    ) -> Record:
        began, since = self.began, self._waits_since
        waited, load = self._waited, self._load
        if since is not None:
            waited += now - since
            load += self._load_seconds(self.model, since)
        if self.sent is not None and self.sent.status:
            status = self.sent.status
        prompt, cached, generated, per_second, prompt_seconds, generation_seconds = tokens
        return Record(
            self.id,
            time.time() - (now - began),
            self.model,
            self.path,
            self.dialect,
            status,
            phase,
            waited,
            load,
            content_at - began if content_at is not None else None,
            prompt,
            cached,
            generated,
            per_second,
            now - began,
            self.client,
            self.agent,
            error,
            self.asked,
            self.stream,
            self.background,
            prompt_seconds,
            generation_seconds,
            self.trace,
        )


def kind_of_end(exc: BaseException) -> str:
    """The word for what has ended a request, of an exception that is no RouterError."""
    return CANCELLED if isinstance(exc, asyncio.CancelledError) else DEFECT
