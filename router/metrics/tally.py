"""Counts what happens: it hears the events of the journal and the records of requests, and adds to the metrics.

A model's series begin with the first event or record of it, and end with the model's place in the catalog. So they are
as many as the models that were used, whatever clients ask for: a name that is no model's counts under no model.

A request takes less than a microsecond here, as `_OfModel` has the series at hand that it changes. Small requests come
as sums of many, which cost each of them next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from router.events import kinds
from router.events.journal import Entry, Journal
from router.metrics.families import Counter
from router.metrics.names import Metrics
from router.records.record import Record
from router.records.small import Sums
from router.scheduling.causes import Cause
from router.scheduling.effects import Refusal

NO_MODEL = ""  # Prometheus takes an empty label for none
OTHER = "other"
# Those that this router or a llama-server gives. A child can send any number of three digits.
CODES = frozenset((*range(200, 207), 304, *range(400, 418), 422, 426, 428, 429, 431, 499, *range(500, 509), 529))
DIALECTS = frozenset(("openai", "anthropic", "ollama"))
REFUSALS = frozenset(refusal.value for refusal in Refusal)
# The errors of requests that no engine got.
REFUSALS_OF_REQUESTS = frozenset(
    (
        *("queue_full", "queue_timeout", "cancelled", "backing_off", "unavailable", "model_too_large", "device_lost"),
        *("hub_unavailable", "load_failed", "settings_refused", "insufficient_disk", "stopped"),
    )
)
MAX_KINDS = 60
SERVED, LEFT, REFUSED = "served", "left", "refused"
LOADED, FAILED, RETRIED, CANCELLED = "loaded", "failed", "retried", "cancelled"
STOPPED, HUNG, CRASH, LOAD_FAILED = "stopped", "hung", "crash", "load_failed"


class _OfModel:
    """The series of one model that requests change. `requests` has the counters by dialect, status and background."""

    __slots__ = (
        "cached",
        "duration",
        "first_token",
        "generated",
        "generation_seconds",
        "name",
        "prompt",
        "prompt_seconds",
        "requests",
        "served",
    )

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name = name
        self.requests: dict[tuple[str, int, bool], Counter] = {}
        self.duration = metrics.duration.of(name)
        self.first_token = metrics.first_token.of(name)
        self.served = metrics.queue_wait.of(name, SERVED)
        self.prompt, self.cached = metrics.prompt.of(name), metrics.cached.of(name)
        self.generated = metrics.generated.of(name)
        self.prompt_seconds = metrics.prompt_seconds.of(name)
        self.generation_seconds = metrics.generation_seconds.of(name)

    def add_tokens(self, of: Record | Sums) -> None:
        if of.prompt is not None:
            self.prompt.add(of.prompt)
            self.prompt_seconds.add(of.prompt_seconds)
            if of.cached:
                self.cached.add(of.cached)
        if of.generated is not None:
            self.generated.add(of.generated)
            self.generation_seconds.add(of.generation_seconds)


class Tally:
    """`is_model` says whether a model of the catalog has exactly this name.

    ::

        tally = Tally(metrics, pool.catalog.__contains__)
        tally.listen(pool.journal)
        tally.add(record)
    """

    def __init__(self, metrics: Metrics, is_model: Callable[[str], bool]) -> None:
        self._metrics = metrics
        self._is_model = is_model
        self._errors = metrics.errors
        self._models: dict[str, _OfModel] = {}
        self._unknown: dict[tuple[str, int, bool], Counter] = {}  # requests of no model
        self._loading: set[tuple[str, int]] = set()  # models and runs
        self._touched: set[str] = set()

    def __repr__(self) -> str:
        return f"<Tally of {len(self._models)} models>"

    # Models

    @property
    def models(self) -> Collection[str]:
        """Those that have series."""
        return self._models.keys()

    def take_touched(self) -> str | None:
        """One of the models that something has happened to and that was not taken yet, if there is one."""
        return self._touched.pop() if self._touched else None

    def forget_gone(self) -> None:
        """Drop the series of models that have left the catalog."""
        gone = {name for name in self._models if not self._is_model(name)}
        if gone:
            self._metrics.registry.forget("model", gone)
            for name in gone:
                del self._models[name]
            self._touched -= gone

    def label(self, name: str) -> str:
        """What the series of this model are labelled with: nothing if it is none of the catalog."""
        return NO_MODEL if self._series(name) is None else name

    def _touch(self, name: str) -> str:
        """The label of a model that something has happened to."""
        label = self.label(name)
        if label != NO_MODEL:
            self._touched.add(name)
        return label

    def _series(self, name: str) -> _OfModel | None:
        return self._models.get(name) or (self._open(name) if self._is_model(name) else None)

    def _open(self, name: str) -> _OfModel:
        metrics = self._metrics
        series = self._models[name] = _OfModel(metrics, name)
        self._touched.add(name)
        # A series that comes about with its first event shows no step then, and no alarm would see it.
        for outcome in (LOADED, FAILED):
            metrics.loads.of(name, outcome)
        for cause in (STOPPED, HUNG, CRASH, LOAD_FAILED):
            metrics.exits.of(name, cause)
        metrics.drains.of(name)
        return series

    # Requests

    def add(self, record: Record) -> None:
        """A request has ended."""
        series = self._models.get(record.model) or self._series(record.model)
        counters = self._unknown if series is None else series.requests
        key = (record.dialect, record.status, record.background)
        counter = counters.get(key) or self._counter(counters, NO_MODEL if series is None else series.name, *key)
        counter.add()
        if record.error is not None:
            self._errors.of(record.error if self._is_kind(record.error) else OTHER).add()
        if series is None:
            return
        series.duration.observe(record.seconds)
        if record.stream and record.ttft is not None and record.error is None:  # else it is the time of all of it
            series.first_token.observe(record.ttft)
            series.served.observe(record.waited)
        elif record.waited:
            self._metrics.queue_wait.of(series.name, _outcome(record)).observe(record.waited)
        series.add_tokens(record)

    def add_sums(self, sums: Sums) -> None:
        """Small requests have ended that were answered well."""
        series = self._models.get(sums.model) or self._series(sums.model)
        counters = self._unknown if series is None else series.requests
        key = (sums.dialect, sums.status, sums.background)
        counter = counters.get(key) or self._counter(counters, NO_MODEL if series is None else series.name, *key)
        counter.add(len(sums.seconds))
        if series is not None:
            series.duration.observe_all(sums.seconds)
            series.add_tokens(sums)

    def _is_kind(self, error: str) -> bool:
        """Kinds of errors are words of the router's own, and few. This holds if ever they are not."""
        return (error,) in self._errors or len(self._errors) < MAX_KINDS

    def _counter(
        self, counters: dict[tuple[str, int, bool], Counter], model: str, dialect: str, status: int, background: bool
    ) -> Counter:
        """`counters` are keyed by what comes, and share what has the same labels. They are few: statuses have three
        digits, and dialects are the router's."""
        labels = (
            dialect if dialect in DIALECTS else OTHER,
            str(status) if status in CODES else OTHER,
            "true" if background else "false",
        )
        counter = counters[dialect, status, background] = self._metrics.requests.of(model, *labels)
        return counter

    # Events

    def listen(self, journal: Journal) -> None:
        """Count from now on what the journal tells."""
        for kind, note in {
            kinds.Start: self._on_start,
            kinds.Ready: self._on_ready,
            kinds.LoadFailed: self._on_load_failed,
            kinds.Evict: self._on_stop,
            kinds.Stop: self._on_stop,
            kinds.Expire: self._on_stop,
            kinds.Exited: self._on_exited,
            kinds.Crash: self._on_crash,
            kinds.Drain: self._on_drain,
            kinds.DrainEnded: self._on_drain_ended,
            kinds.Refused: self._on_refused,
            kinds.Reload: self._on_reload,
            kinds.Pressure: self._on_pressure,
            kinds.Settled: self._on_settled,
        }.items():
            journal.subscribe(note, kind)

    def _on_start(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Start)
        self._touch(event.model)
        self._loading.add((event.model, event.run))

    def _on_ready(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Ready)
        self._loading.discard((event.model, event.run))
        label = self._touch(event.model)
        self._metrics.loads.of(label, LOADED).add()
        self._metrics.load_duration.of(label).observe(event.seconds)

    def _on_load_failed(self, entry: Entry) -> None:
        event = _expect(entry, kinds.LoadFailed)
        self._loading.discard((event.model, event.run))
        label = self._touch(event.model)
        self._metrics.loads.of(label, RETRIED if event.will_retry else FAILED).add()
        self._metrics.exits.of(label, LOAD_FAILED).add()

    def _on_stop(self, entry: Entry) -> None:
        event = entry.event
        assert isinstance(event, kinds.Evict | kinds.Stop | kinds.Expire)
        label = self._touch(event.model)
        self._metrics.stops.of(label, event.cause.value).add()
        if (event.model, event.run) in self._loading:
            self._loading.discard((event.model, event.run))
            self._metrics.loads.of(label, CANCELLED).add()

    def _on_exited(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Exited)
        cause = HUNG if event.cause in (Cause.HUNG, Cause.UNREACHABLE) else STOPPED
        self._metrics.exits.of(self._touch(event.model), cause).add()

    def _on_crash(self, entry: Entry) -> None:
        self._metrics.exits.of(self._touch(entry.event.model), CRASH).add()

    def _on_drain(self, entry: Entry) -> None:
        self._metrics.drains.of(self._touch(entry.event.model)).add()

    def _on_drain_ended(self, entry: Entry) -> None:
        event = _expect(entry, kinds.DrainEnded)
        self._metrics.drain_duration.of(self._touch(event.model)).observe(event.seconds)

    def _on_refused(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Refused)
        reason = event.refusal if event.refusal in REFUSALS else OTHER
        self._metrics.refused.of(self._touch(event.model), reason).add()

    def _on_reload(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Reload)
        self._metrics.reloads.of().add()
        self._metrics.last_reload.of().set(int(not event.why))
        self.forget_gone()

    def _on_settled(self, entry: Entry) -> None:
        event = _expect(entry, kinds.Settled)
        self._metrics.settling.of(event.device).observe(event.seconds)

    def _on_pressure(self, entry: Entry) -> None:
        self._metrics.pressure.of().add()


T = TypeVar("T")


def _expect(entry: Entry, kind: type[T]) -> T:
    assert isinstance(entry.event, kind)
    return entry.event


def _outcome(record: Record) -> str:
    """How the wait of a request without an answer ended."""
    if record.error in REFUSALS_OF_REQUESTS:
        return REFUSED
    # One that left just after its wait counts as if it had left in it: nobody knows better.
    return LEFT if record.phase == "left" and record.waited > 0.9 * record.seconds else SERVED
