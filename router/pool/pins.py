"""Pins that operators set and lift while the router runs: a pinned model is not evicted, and does not end by idleness.

A preset's `pin` holds for a model until an operator says otherwise. What an operator says holds until it is taken back,
over loads, unloads and new presets, or until the model leaves the catalog. The end of the router forgets it: what is to
last belongs into the preset.
"""

from __future__ import annotations

from router.events.kinds import Pin
from router.models.spec import ModelSpec
from router.pool.core import Core


class Pins:
    def __init__(self, core: Core) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<Pins: {self._core.keep_alive.pins}>"

    def is_pinned(self, spec: ModelSpec) -> bool:
        return self._core.keep_alive.is_pinned(spec)

    def set(self, spec: ModelSpec, pinned: bool | None) -> bool:
        """Pin the model, or let it go; None: as its preset says. Nothing is loaded for it. Returns whether it is pinned
        now."""
        core, name, before = self._core, spec.name, self.is_pinned(spec)
        core.keep_alive.pin(name, pinned)
        after = self.is_pinned(spec)
        if after != before:
            core.journal.emit(Pin(name, after))
            core.change_log.mark_changed(name)
        core.apply(core.scheduler.pin(name, after, core.now()))
        return after
