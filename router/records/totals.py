"""How many requests ended in the last hour, and how many of them as errors: to the minute, in bounded memory."""

from __future__ import annotations

import time
from collections import deque

MINUTES = 60


class LastHour:
    def __init__(self) -> None:
        self._minutes: deque[list[int]] = deque([[0, 0]], MINUTES)  # requests and errors; the present minute is last
        self._minute_ends = time.monotonic() + 60

    def __repr__(self) -> str:
        return f"<{type(self).__name__} requests={self.requests()} errors={self.errors()}>"

    def add(self, is_error: bool, now: float) -> None:
        """`now` is by the clock of `time.monotonic`."""
        if now >= self._minute_ends:
            self._turn(now)
        minute = self._minutes[-1]
        minute[0] += 1
        minute[1] += is_error

    def requests(self) -> int:
        return self._sum(0)

    def errors(self) -> int:
        return self._sum(1)

    def _sum(self, place: int) -> int:
        if (now := time.monotonic()) >= self._minute_ends:
            self._turn(now)
        return sum(minute[place] for minute in self._minutes)

    def _turn(self, now: float) -> None:
        passed = int((now - self._minute_ends) // 60) + 1
        self._minutes.extend([0, 0] for _ in range(min(passed, MINUTES)))
        self._minute_ends += 60 * passed
