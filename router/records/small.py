"""Small requests of the fast path: while they run, next to nothing is done for their records. That is done for many of
them together, a moment after their end.

Such a request takes a few dozen microseconds, and what is done for many together takes a third of the time. Whoever
looks at the records sees no difference: `Records` works up what has ended before it tells anything, and a request that
runs is made a `Running` before it is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from router.records.record import MAX_ID, Record, clean
from router.records.running import ENGINE_ERROR
from router.records.tokens import tokens_in_one

MOST = 64  # that wait to be worked up, with their bodies, which are short on the fast path
SOON_S = 0.05


class Head(Protocol):
    """The head of a request: `proxy.head.Head`. The texts are clean and short."""

    @property
    def shown_path(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def trace(self) -> str: ...


class Small(Protocol):
    """A request that has ended: `proxy.proxied_request.ProxiedRequest`. `began` is by `time.monotonic`."""

    @property
    def id(self) -> bytes: ...
    @property
    def head(self) -> Head: ...
    @property
    def model(self) -> str: ...
    @property
    def began(self) -> float: ...
    @property
    def is_background(self) -> bool: ...
    @property
    def dialect_name(self) -> str: ...


class Source(Protocol):
    """What has such a request that runs, now and then: `server.connection.ClientConnection`."""

    @property
    def request_began(self) -> float:
        """By `time.monotonic`; 0 if there is no request."""

    def show_request(self) -> None:
        """From now on its request has a `Running`."""


# A request, its client, the status and the body of its answer, and when it ended by `time.monotonic`.
Ended = tuple[Small, str, int, bytes, float]


class SmallRequests:
    """`take` gets the records of those that have ended, and the time by `time.monotonic`."""

    def __init__(self, take: Callable[[Sequence[Record], float], None]) -> None:
        self.sources: set[Source] = set()
        self._ended: list[Ended] = []
        self._take = take
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sources={len(self.sources)} ended={len(self._ended)}>"

    def end(self, ended: Ended) -> None:
        self._ended.append(ended)
        if len(self._ended) >= MOST:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.flush()

    def show(self) -> None:
        """Each of those that run gets a `Running`, the oldest first."""
        for source in sorted(self.sources, key=lambda source: source.request_began):
            source.show_request()

    def flush(self) -> None:
        """Make the records of those that have ended."""
        if not self._ended:
            return
        (ended, self._ended), records = (self._ended, []), list[Record]()
        since_epoch = time.time() - time.monotonic()
        for request, client, status, body, now in ended:
            tokens = tokens_in_one(body)
            head, began = request.head, request.began
            seconds, is_error, name = now - began, status >= 400, request.id.decode("latin-1")
            record = Record(
                name if name.isalnum() else clean(name, MAX_ID),
                began + since_epoch,
                request.model,
                head.shown_path,
                request.dialect_name,
                status,
                "failed" if is_error else "done",
                0.0,
                0.0,
                seconds if body else None,
                tokens.prompt,
                tokens.cached,
                tokens.generated,
                tokens.per_second,
                seconds,
                client,
                head.agent,
                ENGINE_ERROR if is_error else None,
                "",
                False,
                request.is_background,
                tokens.prompt_seconds,
                tokens.generation_seconds,
                head.trace,
            )
            records.append(record)
        self._take(records, time.monotonic())
