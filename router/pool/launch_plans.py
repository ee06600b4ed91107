"""What the next process of each model is started with: its spec, and what it needs.

A request, a load with settings, a download or a new catalog writes it; `processes` reads it when the scheduler decides
to start the model.
"""

from __future__ import annotations

from router.events.change_log import ChangeLog
from router.memory.need import Need
from router.models.spec import ModelSpec


class LaunchPlans:
    """By model name. A model may have a need without a spec: the listing shows the needs of all models."""

    def __init__(self, change_log: ChangeLog) -> None:
        self._change_log = change_log
        self.specs: dict[str, ModelSpec] = {}
        self.needs: dict[str, Need] = {}

    def __repr__(self) -> str:
        return f"<LaunchPlans {len(self.specs)} specs, {len(self.needs)} needs>"

    def set(self, spec: ModelSpec, need: Need) -> None:
        """The next process is started with this."""
        self.specs[spec.name], self.needs[spec.name] = spec, need

    def set_need(self, name: str, need: Need) -> None:
        """What the model needs is known now. It is marked as changed if that is news."""
        if self.needs.get(name) != need:
            self.needs[name] = need
            self._change_log.mark_changed(name)
