"""Reads at a scrape what is so just then: states, queue, memory. Nothing of it is counted, so nothing can be missed.

The one idea: of thousands of models few run or are waited for. Those are read, and those that something has happened to
since the last scrape; all others are as they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.metrics.families import Family, Gauge, replace
from router.metrics.names import Metrics
from router.metrics.tally import NO_MODEL, OTHER, Tally
from router.models.catalog import Catalog
from router.pool.pool import Pool
from router.scheduling.resources import UNKNOWN_BYTES, Reading
from router.scheduling.states import State

MAX_REPOS = 100  # with a name of their own
STATES = tuple(state.value for state in State)


class Live:
    """`tally` knows the models that have series.

    ::

        live.update(pool.nodes.readings, now)
    """

    def __init__(self, pool: Pool, metrics: Metrics, tally: Tally) -> None:
        self._pool, self._metrics, self._tally = pool, metrics, tally
        self._catalog: Catalog | None = None  # at the last update
        self._lively: set[str] = set()  # at the last update
        self._states: dict[str, str] = {}
        self._others: dict[str, int] = {}
        self._received: dict[str, int] = {}  # of each repository, as far as it was counted

    def __repr__(self) -> str:
        return f"<Live: {len(self._states)} models, {len(self._lively)} of them lively>"

    def catch_up(self) -> Iterator[None]:
        """Look at the models that something has happened to, a step for each. After thousands of them `update` would
        hold up all others for long; it takes what is left."""
        while (name := self._tally.take_touched()) is not None:
            self._look_at(name)
            yield

    def update(self, readings: Sequence[Reading], now: float) -> None:
        """Make all gauges true. `now` is by the clock of the event loop."""
        if self._catalog is not self._pool.catalog:
            self._catalog = self._pool.catalog
            self._tally.forget_gone()
        self._update_models(now)
        self._update_processes()
        self._update_devices(readings)
        self._update_downloads()

    def _update_models(self, now: float) -> None:
        pool, metrics = self._pool, self._metrics
        entries = pool.scheduler.line.by_arrival
        lively = {*pool.processes.runs, *entries, *pool.downloads.running, *pool.downloads.queued}
        looked_at, self._lively = lively | self._lively, lively
        for name in looked_at:
            self._look_at(name)
        for _ in self.catch_up():
            pass
        for name in self._states.keys() - self._tally.models:
            del self._states[name]
        metrics.queue.of().set(len(entries))
        metrics.queue_oldest.of().set(max((now - entry.since for entry in entries.values()), default=0.0))

    def _look_at(self, name: str) -> None:
        pool, metrics = self._pool, self._metrics
        if self._tally.label(name) == NO_MODEL:
            return
        model, entry = pool.scheduler.model(name), pool.scheduler.line.by_arrival.get(name)
        metrics.active.of(name).set(len(model.leases))
        metrics.waiting.of(name).set(len(entry.tickets) if entry else 0)
        self._set_state(name, State.DOWNLOADING if name in pool.downloads.queued else model.state)

    def _set_state(self, name: str, state: State) -> None:
        family = self._metrics.state
        before = self._states.get(name) if (name, state.value) in family else None
        if before == state.value:
            return
        self._states[name] = state.value
        for each in (before, state.value) if before else STATES:
            family.of(name, each).set(int(each == state.value))

    def _update_downloads(self) -> None:
        family, downloads = self._metrics.downloaded, self._pool.downloads
        for repo, count in downloads.received.items():
            if more := count - self._received.get(repo, 0):
                family.of(repo if (repo,) in family or len(family) < MAX_REPOS else OTHER).add(more)
                self._received[repo] = count
        self._metrics.downloads.of().set(len(downloads.running))

    def _update_processes(self) -> None:
        pool, metrics = self._pool, self._metrics
        booked, measured, estimated = Bytes(), Bytes(), Bytes()
        caches: dict[tuple[str, ...], float] = {}
        for name, run in pool.processes.runs.items():
            label, model = self._tally.label(name), pool.scheduler.model(name)
            booked.add(label, model.held)
            measured.add(label, run.measured)
            estimated.add(label, run.allocation.held)
            caches[label,] = caches.get((label,), 0) + model.prompt_cache
        booked.write(metrics.booked)
        measured.write(metrics.measured)
        estimated.write(metrics.estimated)
        replace(metrics.prompt_cache, caches)

    def _update_devices(self, readings: Iterable[Reading]) -> None:
        pool, metrics = self._pool, self._metrics
        margins, short = pool.limits.margins, pool.scheduler.pressure.missing
        total, free, margin, other, lost, is_short = (Labelled() for _ in range(6))
        for reading in readings:
            device = reading.device
            labels = device.key, device.node
            margin[labels] = margins.get(device.key, 0)
            lost[device.key, reading.lost] = int(bool(reading.lost))
            is_short[device.key,] = int(device.key in short)
            if reading.free is not None:
                free[labels] = reading.free
            if device.total != UNKNOWN_BYTES:
                total[labels] = device.total
                if reading.free is not None:
                    other[labels] = self._held_by_others(device.key, device.total - reading.free)
        for family, values in (
            (metrics.memory_total, total),
            (metrics.memory_free, free),
            (metrics.memory_margin, margin),
            (metrics.memory_other, other),
            (metrics.lost, lost),
            (metrics.short, is_short),
        ):
            replace(family, values)

    def _held_by_others(self, key: str, used: int) -> int:
        """What of the used bytes of a device is not our processes'. While one of them takes or gives back its memory, a
        reading shows a part of that, and nobody knows how much: then it is what it was, as far as that can be."""
        models = [self._pool.scheduler.model(name) for name in self._pool.processes.runs]
        shown = sum(model.held.get(key, 0) - model.hidden_part(key) for model in models)
        is_moving = any(model.held.get(key) and model.state in (State.LOADING, State.STOPPING) for model in models)
        least = max(0, used - shown)
        others: int = min(used, max(least, self._others.get(key, least))) if is_moving else least
        self._others[key] = others
        return others


Labelled = dict[tuple[str, ...], float]


class Bytes:
    """Amounts by model, device and node."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, ...], float] = defaultdict(int)

    def add(self, label: str, held: Mapping[str, int]) -> None:
        for key, count in held.items():
            self._values[label, key, key.rpartition("/")[0]] += count

    def write(self, family: Family[Gauge]) -> None:
        replace(family, self._values)
