"""Small requests of the fast path: while they run, next to nothing is done for their records. That is done for many of
them together, a moment after their end.

Such a request takes a few dozen microseconds, and what is done for many together takes a third of the time: whoever
only counts gets sums, and a record is made when somebody looks at it. Nobody sees a difference: `Records` works up what
has ended before it tells anything, and a request that runs is made a `Running` before it is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from router.records.record import MAX_ID, Record, clean
from router.records.running import ENGINE_ERROR
from router.records.tokens import SHORT_BYTES, Tokens, tokens_in_one

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


class Kind:
    """What many small requests have in common: they came with this head, for this model, in this dialect."""

    __slots__ = ("dialect", "head", "is_background", "key", "model")

    def __init__(self, head: Head, model: str, dialect: str, is_background: bool) -> None:
        self.head, self.model, self.dialect, self.is_background = head, model, dialect, is_background
        self.key = (model, dialect, is_background)  # requests with the same are counted together

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.model!r}, {self.dialect}>"


class Source(Protocol):
    """What has such a request that runs, now and then: `server.connection.ClientConnection`."""

    @property
    def request_began(self) -> float:
        """By `time.monotonic`; 0 if there is no request."""

    def show_request(self) -> None:
        """From now on its request has a `Running`."""


# What is kept of a request that has ended: its kind, its id, its client, the status and the body of its answer, and
# when it began and ended by `time.monotonic`. The request itself is let go, as its memory is good for the next one.
Ended = tuple[Kind, bytes, str, int, bytes, float, float]


class Sums:
    """Small requests that were answered well and are alike, taken together. `seconds` has the time of each; the other
    sums are as in `Record`. `last_second` are the tokens that were generated in the last second of each."""

    __slots__ = (
        "background",
        "cached",
        "dialect",
        "generated",
        "generation_seconds",
        "last_second",
        "model",
        "prompt",
        "prompt_seconds",
        "seconds",
        "status",
    )

    def __init__(self, model: str, dialect: str, status: int, background: bool) -> None:
        self.model, self.dialect, self.status, self.background = model, dialect, status, background
        self.seconds: list[float] = []
        self.prompt = self.cached = self.generated = 0
        self.prompt_seconds = self.generation_seconds = self.last_second = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.seconds)} requests of {self.model!r}>"

    def add_times(self, tokens: Tokens) -> None:
        """Of tokens that have been counted."""
        taken = tokens.generation_seconds
        self.prompt_seconds += tokens.prompt_seconds
        self.generation_seconds += taken
        if taken > 1 and tokens.generated:
            self.last_second -= tokens.generated * (1 - 1 / taken)


class Batch(NamedTuple):
    """Small requests that have ended, in their order. `records` has those that failed, and all of them if somebody
    wants each; `sums` those that were answered well."""

    entries: Sequence[Record | Ended]
    records: Sequence[Record]
    sums: Sequence[Sums]


class SmallRequests:
    """`take` gets those that have ended, and the time by `time.monotonic`. `wants_each` says whether somebody wants the
    record of each."""

    def __init__(self, take: Callable[[Batch, float], None], wants_each: Callable[[], bool]) -> None:
        self.sources: set[Source] = set()
        self._ended: list[Ended] = []
        self._take = take
        self._wants_each = wants_each
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sources={len(self.sources)} ended={len(self._ended)}>"

    def end(self, ended: Ended) -> None:
        waiting = self._ended
        waiting.append(ended)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self._on_time)
        elif len(waiting) >= MOST:
            self.flush()

    def _on_time(self) -> None:
        self._timer = None
        self.flush()

    def show(self) -> None:
        """Each of those that run gets a `Running`, the oldest first."""
        for source in sorted(self.sources, key=lambda source: source.request_began):
            source.show_request()

    def flush(self) -> None:
        """Work up those that have ended."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        entries, records = list[Record | Ended](ended), list[Record]()
        sums: dict[tuple[tuple[str, str, bool], int], Sums] = {}
        wants_each = self._wants_each()
        for place, entry in enumerate(ended):
            kind, _, _, status, body, began, now = entry
            tokens = tokens_in_one(body)
            if wants_each or status >= 400 or len(body) > SHORT_BYTES:
                entries[place] = record = _record(entry, tokens)
                if wants_each or status >= 400:
                    records.append(record)
                if status >= 400:
                    continue
            try:
                found = sums[kind.key, status]
            except KeyError:
                found = sums[kind.key, status] = Sums(kind.model, kind.dialect, status, kind.is_background)
            found.seconds.append(now - began)
            if tokens.prompt:
                found.prompt += tokens.prompt
                found.cached += tokens.cached or 0
            if generated := tokens.generated:
                found.generated += generated
                found.last_second += generated
            if tokens.prompt_seconds or tokens.generation_seconds:
                found.add_times(tokens)
        self._take(Batch(entries, records, [*sums.values()]), time.monotonic())


def as_record(entry: Record | Ended) -> Record:
    """Most small requests leave no more than they had, as nobody looks at their records."""
    return _record(entry, tokens_in_one(entry[4])) if isinstance(entry, tuple) else entry


def _record(entry: Ended, tokens: Tokens) -> Record:
    kind, id, client, status, body, began, now = entry
    name, is_error, seconds = id.decode("latin-1"), status >= 400, now - began
    return Record(
        name if name.isalnum() else clean(name, MAX_ID),
        time.time() - (time.monotonic() - began),
        kind.model,
        kind.head.shown_path,
        kind.dialect,
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
        kind.head.agent,
        ENGINE_ERROR if is_error else None,
        "",
        False,
        kind.is_background,
        tokens.prompt_seconds,
        tokens.generation_seconds,
        kind.head.trace,
    )
