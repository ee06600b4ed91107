"""Tells of devices: that one cannot be read any more, that other programs have taken memory which is to stay free, and
that each of these is over; once for each episode.

The scheduler notices what others take (`scheduling.pressure`). `Nodes` calls `tell_lost` after each reading, and the
pool calls `tell_pressure` once the scheduler has seen it.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.events.journal import Journal
from router.events.kinds import DeviceFound, DeviceLost, Pressure, PressureEnded
from router.scheduling.resources import Reading
from router.scheduling.scheduler import Scheduler


class DeviceNews:
    def __init__(self, scheduler: Scheduler, journal: Journal) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._short: set[str] = set()
        self._lost: set[str] = set()

    def __repr__(self) -> str:
        return f"<DeviceNews: short {', '.join(self._short) or 'none'}; lost {', '.join(self._lost) or 'none'}>"

    def tell_lost(self, readings: Iterable[Reading]) -> None:
        """What was lost or found since the last call."""
        lost = {reading.device.key: reading.lost for reading in readings if reading.lost}
        if not lost and not self._lost:
            return
        for key in lost.keys() - self._lost:
            self._journal.emit(DeviceLost(key, lost[key]))
        for key in self._lost - lost.keys():
            self._journal.emit(DeviceFound(key))
        self._lost = set(lost)

    def tell_pressure(self, readings: Iterable[Reading]) -> None:
        """What has begun or ended since the last call. `readings` are those that the scheduler has just got."""
        short = self._scheduler.pressure.missing
        if not short and not self._short:
            return
        limits = self._scheduler.limits
        for reading in readings:
            key = reading.device.key
            if key in short and key not in self._short:
                free, margin = {key: reading.free or 0}, {key: limits.margins.get(key, 0)}
                self._journal.emit(Pressure(key, free, margin, limits.stops_for_others))
            elif key in self._short and key not in short:
                self._journal.emit(PressureEnded(key))
        self._short = set(short)
