"""Time for the scheduler, which has no clock: its `tick` is called when it wants that.

The pool sets the alarm after each event. Most events only delay it, so an alarm that is already set is left, and finds
nothing to do when it goes off.
"""

from __future__ import annotations

import asyncio
import logging

from router.pool.core import Core

log = logging.getLogger("router.pool")

RETRY_S = 1.0  # after a tick that failed


class Alarm:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # of the timer; uvloop's has no time of its own if that was over already

    def __repr__(self) -> str:
        return f"<Alarm {f'for {self._due:.1f}' if self._timer else 'off'}>"

    def set(self) -> None:
        """Have the scheduler's tick called when it is due."""
        when = self._core.scheduler.wakeup()
        if when is None or (self._timer and self._due <= when):
            return
        if self._timer:
            self._timer.cancel()
        self._start(when)

    def cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _start(self, when: float) -> None:
        self._timer, self._due = self._core.loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        self._timer = None
        core = self._core
        when = core.scheduler.wakeup()
        if when is not None and when <= core.now():
            try:
                core.apply(core.scheduler.tick(core.now()))
            except Exception as exc:  # the next tick is tried, though not at once
                log.critical("a defect in the router", exc_info=exc)
                self._start(core.now() + RETRY_S)
        else:
            self.set()
