"""When each model's latest load began and ended: so a request can tell how much of its wait was its own model's load.

`processes` tells when; the records of requests ask (`records.running`).
"""

from __future__ import annotations

import time


class LoadTimes:
    """Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self.by_model: dict[str, tuple[float, float | None]] = {}  # from when till when; None while it loads

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.by_model)} models>"

    def begin(self, model: str) -> None:
        self.by_model[model] = (time.monotonic(), None)

    def end(self, model: str) -> None:
        """The model serves, or its process has ended."""
        began, ended = self.by_model.get(model, (0.0, 0.0))
        if ended is None:
            self.by_model[model] = (began, time.monotonic())

    def seconds(self, model: str, since: float) -> float:
        """How long it has loaded since then."""
        began, ended = self.by_model.get(model, (0.0, 0.0))
        return max(0.0, (time.monotonic() if ended is None else ended) - max(began, since))
