"""Tells when other programs have taken memory that is to stay free, and when it is free again: once for each episode.

The scheduler notices it (`scheduling.pressure`). The pool calls `tell` after each reading of the memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from router.scheduling.resources import Reading
from router.scheduling.scheduler import Scheduler
from router.units import size

log = logging.getLogger("router.pool")


class PressureNews:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<PressureNews: {', '.join(self._told) or 'none'}>"

    def tell(self, readings: Iterable[Reading]) -> None:
        """Log what has begun or ended since the last call. `readings` are those that the scheduler has just got."""
        short = self._scheduler.pressure.missing
        if not short and not self._told:
            return
        limits = self._scheduler.limits
        for reading in readings:
            key = reading.device.key
            if key in short and key not in self._told:
                then = (
                    "idle models are stopped for it"
                    if limits.stops_for_others
                    else "nothing is stopped for it: --models-pressure on stops idle models"
                )
                log.warning(
                    "memory: %s has %s free, and %s are to stay free: other programs have taken memory since models "
                    "were loaded; %s",
                    key,
                    size(reading.free or 0),
                    size(limits.margins.get(key, 0)),
                    then,
                )
            elif key in self._told and key not in short:
                log.info("memory: %s has as much free again as is to stay free", key)
        self._told = set(short)
