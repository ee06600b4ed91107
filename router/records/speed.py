"""Tokens per second, as they come: of each model, and of all.

While requests run, a timer counts once a second how many events of streams have come. Of answers that are no streams,
the tokens count when they end, as many as were generated in the last second. Counting costs a token nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from router.records.record import Record
from router.records.running import Running

SECONDS = 1.0  # from one count to the next


class Speed:
    """`running` are the requests that run, whenever it is asked for. `timer` is None while nothing is counted."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        self._running = running
        self._new: dict[str, float] = {}  # tokens since the last count, of requests that have ended
        self.timer: asyncio.TimerHandle | None = None
        self._counted_at = 0.0
        self.by_model: Mapping[str, float] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.total:.1f}/s>"

    @property
    def total(self) -> float:
        return sum(self.by_model.values())

    def start(self) -> None:
        """Counts from now on, until nothing runs any more."""
        if self.timer is None:
            self._counted_at = time.monotonic()
            self.timer = asyncio.get_running_loop().call_later(SECONDS, self._tick)

    def add_events(self, model: str, events: int) -> None:
        """The rest of a stream that has ended: so many events were not counted yet."""
        if events > 0:
            self._new[model] = self._new.get(model, 0) + events

    def add_answer(self, record: Record) -> None:
        """An answer that is no stream has ended."""
        if tokens := record.generated:
            seconds = record.generation_seconds
            self.add_tokens(record.model, tokens if seconds <= SECONDS else tokens * SECONDS / seconds)

    def add_tokens(self, model: str, tokens: float) -> None:
        """So many have come since the last count, in answers that are no streams."""
        if tokens:
            self._new[model] = self._new.get(model, 0) + tokens
            if self.timer is None:
                self.start()

    def _tick(self) -> None:
        now = time.monotonic()
        found = self.count(self._running.values(), now - self._counted_at)
        self._counted_at = now
        if found or self._running:
            self.timer = asyncio.get_running_loop().call_later(SECONDS, self._tick)
        else:
            self.timer = None

    def count(self, running: Iterable[Running], seconds: float) -> Mapping[str, float]:
        """Tokens per second since the last count, which was so many seconds ago."""
        new, self._new = self._new, {}
        for request in running:
            answer = request.answer
            if answer is not None and answer.is_stream and (more := answer.pieces - request.counted) > 0:
                request.counted = answer.pieces
                new[request.model] = new.get(request.model, 0) + more
        self.by_model = {model: tokens / max(seconds, 0.001) for model, tokens in new.items()}
        return self.by_model
