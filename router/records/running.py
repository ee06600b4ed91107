"""A request that has not ended. `records` makes it, `proxy` tells it what happens, and it becomes a record at its end.

Everything that it is told costs a few assignments: a small request has a budget of two microseconds for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from router.records.record import Record
from router.records.tokens import NO_TOKENS, Tokens, tokens_of

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


class Running:
    """What is known of a request so far. Attributes are set from outside, by whoever comes to know them.

    - `model`, `asked`, `stream`, `background`: as in `Record`.
    - `status`: that of the answer, once it is sent.
    - `answer`: what is being read of a child, the latest if there are several.
    - `stop_work`: ends the work for it at once; None if nothing can be ended now.
    """

    model = asked = trace = ""
    stream = background = is_over = is_stopped = False
    status = 0
    answer: Answer | None = None
    stop_work: Callable[[], object] | None = None
    counted = 0  # pieces of the answer that `speed` has counted
    _waited = _load = 0.0
    _waits_since: float | None = None

    def __init__(
        self,
        finish: Callable[[Running, Record, float], None],
        load_seconds: Callable[[str, float], float],
        id: str,
        path: str,
        dialect: str,
        client: str,
        agent: str,
    ) -> None:
        self._finish = finish
        self._load_seconds = load_seconds
        self.id, self.path, self.dialect, self.client, self.agent = id, path, dialect, client, agent
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

    def stop(self) -> None:
        """An operator wants it to end: whoever works on it raises Stopped."""
        self.is_stopped = True
        if self.stop_work is not None:
            self.stop_work()

    def record(self) -> Record:
        """As it is now."""
        now, answer = _NOW(), self.answer
        per_second, generated = None, None
        if answer is not None and answer.is_stream and answer.content_at is not None:
            generated = answer.pieces
            per_second = generated / max(now - answer.content_at, 0.001)
        return self._record(now, self.status, self.phase, None, Tokens(None, None, generated, per_second))

    def end(self, status: int, error: str | None = None, whole: bytes | None = None) -> None:
        """The one end of every request. Ends after the first do nothing.

        `status` is that of the answer, LEFT if the client has left. `error` is what went wrong. `whole` is an answer
        that came in one piece.
        """
        if self.is_over:
            return
        self.is_over = True
        if self._waits_since is not None:
            self.wait_is_over()
        now, answer = _NOW(), self.answer
        if whole is not None:
            tokens = tokens_of(whole[-4096:], whole[:4096]) if len(whole) > 4096 else tokens_of(whole)
        else:
            tokens = NO_TOKENS if answer is None else tokens_of(answer.tail, answer.beginning)
        has_left = status == LEFT
        phase = "failed" if error else "left" if has_left else "done"
        record = self._record(now, self.status or status if has_left else status, phase, error, tokens)
        self._finish(self, record, now)
        self.answer = self.stop_work = None

    def _record(self, now: float, status: int, phase: str, error: str | None, tokens: Tokens) -> Record:
        began, since = self.began, self._waits_since
        waited, load = self._waited, self._load
        if since is not None:
            waited += now - since
            load += self._load_seconds(self.model, since)
        content_at = self.answer.content_at if self.answer is not None else None
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
