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
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Alarm {f'for {self._timer.when():.1f}' if self._timer else 'off'}>"

    def set(self) -> None:
        """Have the scheduler's tick called when it is due."""
        when = self._core.scheduler.wakeup()
        if when is None or (self._timer and self._timer.when() <= when):
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._core.loop.call_at(when, self._ring)

    def cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        core = self._core
        when = core.scheduler.wakeup()
        if when is not None and when <= core.now():
            try:
                core.apply(core.scheduler.tick(core.now()))
            except Exception as exc:  # the next tick is tried, though not at once
                log.critical("a defect in the router", exc_info=exc)
                self._timer = core.loop.call_later(RETRY_S, self._ring)
        else:
            self.set()
