"""An unload cancels everything that was requested before it, and nothing after it.

A request remembers how many unloads there had been when it came. When it has waited for something outside the
scheduler, such as an estimate, it checks here whether its model was unloaded since.
"""

from __future__ import annotations

from router.errors import RouterError
from router.scheduling.effects import Refusal
from router.scheduling.refusals import error_of


class UnloadGenerations:
    """`generation` counts the unloads of all models."""

    def __init__(self) -> None:
        self.generation = 0
        self.latest: dict[str, int] = {}  # the generation of each model's latest unload

    def __repr__(self) -> str:
        return f"<UnloadGenerations {self.generation}>"

    def record(self, name: str) -> None:
        """The model is unloaded now."""
        self.generation += 1
        self.latest[name] = self.generation

    def was_unloaded(self, name: str, since: int) -> bool:
        """Whether the model was unloaded after the generation `since`."""
        return self.latest.get(name, 0) > since

    def ensure_not_unloaded(self, name: str, since: int) -> None:
        """Raises Cancelled if the model was unloaded after the generation `since`."""
        if self.was_unloaded(name, since):
            raise self._error(name)

    def _error(self, name: str) -> RouterError:
        return error_of(Refusal.CANCELLED, name, "it was unloaded", retry_after=1.0)
