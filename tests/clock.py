"""An event loop whose clock jumps to whatever happens next."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from router import threads


class Inline(ThreadPoolExecutor):
    """Runs what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


def _others() -> set[threading.Thread]:
    """The threads that end with their work."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("pool-")}


class Clock(asyncio.SelectorEventLoop):
    """Nobody waits for time to pass; for the threads that ask the driver it does wait, unless they are `hung`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hung = False
        super().__init__(Skipping(self))
        self.set_default_executor(Inline())

    def time(self) -> float:
        return self.now


class Skipping(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._others = _others()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        while not self._clock.hung and (_others() - self._others or any(pool.is_busy for pool in threads.ALL)):
            if events := super().select(0.001):
                return events
        if events := super().select(0):
            return events
        assert timeout is not None, "whoever waits will wait for ever"
        self._clock.now += timeout + 1e-9  # no clock stands still just before what it was set for
        return []
