"""Reads at a scrape what is so just then: states, queues, memory. Nothing of it is counted, so nothing is missed.

What most models are, unloaded and without requests, is written once and kept; a scrape compares a few words a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from router.metrics.families import replace
from router.metrics.names import Metrics
from router.metrics.tally import Tally
from router.pool.pool import Pool
from router.pool.status import DeviceStatus
from router.scheduling.states import State

Seen = tuple[str, int, int]  # the state of a model, its requests that are served, and those that wait


class Live:
    """`update` makes the gauges true. `tally` has the models that have series."""

    def __init__(self, pool: Pool, metrics: Metrics, tally: Tally) -> None:
        self._pool, self._metrics, self._tally = pool, metrics, tally
        self._seen: dict[str, Seen] = {}

    def __repr__(self) -> str:
        return f"<Live: {len(self._seen)} models>"

    def update(self, devices: Sequence[DeviceStatus]) -> None:
        self._tally.forget_gone()
