"""How many requests ended in the last hour, and how many of them as errors: to the minute, in bounded memory."""

from __future__ import annotations

import time
from collections import deque

MINUTES = 60


class LastHour:
    """`minute` is the present one: its requests, and the errors among them. It has to be turned at `minute_ends`, by
    the clock of `time.monotonic`::

        if now >= hour.minute_ends:
            hour.turn(now)
        hour.minute[0] += 1
    """

    def __init__(self) -> None:
        self.minute = [0, 0]
        self.minute_ends = time.monotonic() + 60
        self._minutes: deque[list[int]] = deque([self.minute], MINUTES)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} requests={self.requests()} errors={self.errors()}>"

    def requests(self) -> int:
        return self._sum(0)

    def errors(self) -> int:
        return self._sum(1)

    def _sum(self, place: int) -> int:
        if (now := time.monotonic()) >= self.minute_ends:
            self.turn(now)
        return sum(minute[place] for minute in self._minutes)

    def turn(self, now: float) -> None:
        passed = int((now - self.minute_ends) // 60) + 1
        self._minutes.extend([0, 0] for _ in range(min(passed, MINUTES)))
        self.minute = self._minutes[-1]
        self.minute_ends += 60 * passed
