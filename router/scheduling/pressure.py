"""SANS-I/O: memory that is to stay free, and that other programs have taken since the models were loaded.

A model is started only where the margin stays free. Later another program may take of it: a game, a build, a browser.
Nothing is shrunk or cut for that. It is told, once for each episode; and if the operator wishes, idle models end until
the margin is free again, the least recently used first.

An episode begins when a device has been short for BEGINS_AFTER_S, by more than a small part of its margin: estimates
err a little. It ends when the margin and that small part are free again, so that it does not flicker. A reading says
nothing about a device on which a process loads, wakes up or stops. Owned by `memory_levels`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from router.scheduling.books import ModelRecord
from router.scheduling.causes import Cause, Shortage, Why
from router.scheduling.resources import Reading
from router.scheduling.states import State

BEGINS_AFTER_S = 1.0
SLACK = 16  # an episode begins and ends a sixteenth of the margin away from it


class Pressure:
    """`missing` has the devices on which memory is short now, by key: how many bytes would end the episode.

    `episodes` counts those that have begun.
    """

    def __init__(self) -> None:
        self.missing: dict[str, int] = {}
        self.episodes = 0
        self._short_since: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Pressure: {self.missing}, {self.episodes} episodes>"

    @property
    def is_unsure(self) -> bool:
        """Memory is short, and another reading has to say whether it stays so."""
        return len(self._short_since) > len(self.missing)

    def read(
        self,
        readings: Iterable[Reading],
        alive: Collection[ModelRecord],
        margins: Mapping[str, int],
        returning: Collection[str],
        now: float,
    ) -> None:
        """Take over a reading that is up to date. `alive` are all models with a process; on the devices `returning`
        memory of ended processes is not back yet."""
        unclear = {*returning, *(key for model in alive if _is_moving(model) for key in model.held)}
        for reading in readings:
            key, margin = reading.device.key, margins.get(reading.device.key, 0)
            if reading.free is None or not margin:
                self._end(key)
            elif key not in unclear:
                self._compare(key, reading.free, margin, now)
        if not alive:
            self.missing.clear()
            self._short_since.clear()

    def victims(self, alive: Collection[ModelRecord], now: float) -> list[ModelRecord]:
        """The idle models whose end makes up for what is missing, or for as much of it as they hold: the least recently
        used first, those that a client wants to stay last, and none without which it would do as well. None while
        another process loads or stops there."""
        moving = {key for model in alive if _is_moving(model) for key in model.held}
        short = {key: count for key, count in self.missing.items() if key not in moving}
        idle = [model for model in alive if _may_go(model, now)]
        idle.sort(key=lambda model: (model.ttl == math.inf, model.finished, model.name))
        taken: list[ModelRecord] = []
        for model in idle:
            if any(count > 0 and _gain(model, key) for key, count in short.items()):
                taken.append(model)
                for key in short:
                    short[key] -= _gain(model, key)
        for model in taken[-2::-1]:
            if all(count + _gain(model, key) <= 0 or not _gain(model, key) for key, count in short.items()):
                taken.remove(model)
                for key in short:
                    short[key] += _gain(model, key)
        return taken

    def why(self, readings: Iterable[Reading]) -> Why:
        """Why they go: what would end the episodes, and what there was of it."""
        free = {reading.device.key: reading.free or 0 for reading in readings if reading.device.key in self.missing}
        need = {key: missing + free.get(key, 0) for key, missing in self.missing.items()}
        return Why(Cause.PRESSURE, shortage=Shortage(need, free))

    def _compare(self, key: str, free: int, margin: int, now: float) -> None:
        slack = margin // SLACK
        if key in self.missing:
            self.missing[key] = margin + slack - free
            if self.missing[key] <= 0:
                self._end(key)
        elif free >= margin - slack:
            self._short_since.pop(key, None)
        elif now - self._short_since.setdefault(key, now) >= BEGINS_AFTER_S:
            self.missing[key] = margin + slack - free
            self.episodes += 1

    def _end(self, key: str) -> None:
        self.missing.pop(key, None)
        self._short_since.pop(key, None)


def _is_moving(model: ModelRecord) -> bool:
    """What the machine shows of it is not what it holds."""
    return model.state in (State.LOADING, State.STOPPING) or (model.is_asleep and bool(model.leases))


def _may_go(model: ModelRecord, now: float) -> bool:
    is_idle = model.is_open and not model.is_asleep and not model.leases
    return is_idle and not model.pinned and model.stays_until <= now


def _gain(model: ModelRecord, key: str) -> int:
    """The bytes that its end gives back on this device."""
    return model.held.get(key, 0)
