"""How late the event loop is: what blocks it makes all clients wait, and shows nowhere else.

A timer says how much later than it should it runs. One wake-up in `EVERY_S`, and no task.
"""

from __future__ import annotations

import asyncio
from collections import deque

EVERY_S = 0.25
KEPT = 60  # a scrape each 15 s misses nothing


class LoopLag:
    """`start` is called in the event loop::

    lag = LoopLag()
    lag.start()
    lag.most()  # seconds, of the last EVERY_S * KEPT
    lag.stop()
    """

    def __init__(self) -> None:
        self._lags: deque[float] = deque([0.0], maxlen=KEPT)
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LoopLag {self.most():.3f} s>"

    def start(self) -> None:
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def most(self) -> float:
        return max(self._lags)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + EVERY_S
        self._timer = loop.call_at(due, self._note, loop, due)

    def _note(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._lags.append(max(0.0, loop.time() - due))
        self._arm(loop)
