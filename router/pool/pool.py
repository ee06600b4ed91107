"""The shell around the scheduler: performs its effects, reports back what happened, and hands out leases.

Every event goes the same way: a method of the scheduler is called, and `_apply` performs the effects that it returns,
before anything else can run. There is no `await` between reading scheduler state and writing it; therefore there are no
locks. What takes time runs in tasks that report back as new events.

`Pool` answers requests for leases. Its parts do the rest, and clients of the pool use them directly: `settings` for
explicit loads, `downloads`, `exchange` for a new catalog, `processes`, `change_log`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, assert_never

from router import errors
from router.engine.flags import FlagTable, default_table
from router.events.kinds import Granted, Released, Settled
from router.logs import request_ids
from router.memory.footprints import Footprint
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.node.interface import Node
from router.pool.alarm import Alarm
from router.pool.catalog_exchange import CatalogExchange
from router.pool.child_run import ChildRun
from router.pool.core import Core
from router.pool.downloads import Downloads
from router.pool.facts import Facts
from router.pool.gate import Gate, Gates
from router.pool.lease import Lease
from router.pool.logs import EngineLogs
from router.pool.pins import Pins
from router.pool.processes import Processes
from router.pool.settings_loads import SettingsLoads
from router.pool.tickets import Tickets
from router.scheduling.causes import Cause
from router.scheduling.effects import Abort, Effect, Fetch, Grant, Probe, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.reasons import Kind, Waiting
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Snapshot
from router.scheduling.states import SERVING, State
from router.wire.upstream import Upstream

log = logging.getLogger("router.pool")

# What a client is told of a model that takes no requests now; "not loaded" in all other states.
_NOT_LOADED = {
    State.LOADED: "about to end",
    State.LOADING: "still loading",
    State.DOWNLOADING: "still downloading",
    State.SLEEPING: "asleep",
    State.STOPPING: "stopping",
}


class Pool:
    """All models of a router, on the nodes that are handed in.

    `need` estimates a model's memory. It may block, and is called in threads.
    `table` holds the engine's flags.
    `load_timeout` is the one of `Launch`, in seconds.
    `ttl` is the idle time in seconds after which a model is stopped if its preset says nothing; None for never.
    `min_loaded` is for how many seconds a model is spared after its load if its preset says nothing.
    `health_timeout` is how many seconds a child may show no life while requests run on it; 0 for any time.
    `upstream` has the connections to the children: those of a child that is to end are closed.
    `logs` keeps what the models' processes write.
    `learn` stores what a process really took. It may block, and is called in threads.

    ::

        pool = Pool(catalog, [node], limits, estimator.need)
        lease = await pool.lease(catalog.resolve("tiny"))  # loads it if need be
        try:
            ...
        finally:
            lease.release()
        await pool.close()
    """

    def __init__(
        self,
        catalog: Catalog,
        nodes: Iterable[Node],
        limits: Limits,
        need: Callable[[ModelSpec], Need],
        *,
        table: FlagTable | None = None,
        load_timeout: float = 600.0,
        ttl: float | None = None,
        min_loaded: float = 0.0,
        health_timeout: float = 0.0,
        upstream: Upstream | None = None,
        logs: EngineLogs | None = None,
        learn: Callable[[ModelSpec, Footprint], None] = lambda spec, footprint: None,
    ) -> None:
        self._core = core = Core(
            catalog,
            nodes,
            limits,
            need,
            table=table or default_table(),
            load_timeout=load_timeout,
            ttl=ttl,
            min_loaded=min_loaded,
            apply=self._apply,
            publish=self._publish,
            forget=self._forget,
        )
        self._scheduler = core.scheduler
        self._alarm = Alarm(core)
        self.nodes = core.nodes
        self.journal = core.journal
        self.change_log, self.feed = core.change_log, core.change_log.feed
        self.downloads = Downloads(core)
        upstream = upstream or Upstream()
        self.logs = logs = logs or EngineLogs()
        self.processes = Processes(
            core, learn, upstream, logs, load_timeout=load_timeout, health_timeout=health_timeout
        )
        self._tickets = Tickets(
            core,
            self.downloads,
            leased=self._leased,
            on_answer=self._on_answer,
            drop_missing=lambda name: self.exchange.drop_missing(name),
        )
        self._gates = Gates(core, self._tickets, self.processes.runs, self._release)
        self.settings = SettingsLoads(
            core,
            self.processes,
            self.downloads,
            lease=self.lease,
            acquire=self._tickets.acquire,
            cancel=self._tickets.cancel,
        )
        self.exchange = CatalogExchange(
            core,
            self.settings,
            self.downloads,
            lease=self.lease,
            unload=lambda name, cause: self.unload(name, cause=cause),
            is_running=self.is_running,
            known_names=self._known_names,
            replaced_file=self.processes.replaced_file,
            lasting_spec=self.processes.lasting_spec,
        )
        self.pins = Pins(core)
        self.facts = Facts(core, self.processes, self.downloads)
        self.status = self.facts.status
        # What is kept of each model for as long as the catalog has it.
        self._books: tuple[dict[str, Any], ...] = (
            self._core.plans.specs,
            self._core.plans.needs,
            self._core.keep_alive.requested,
            self._core.keep_alive.pins,
            self._core.unloads.latest,
            self.processes.exit_codes,
            self.processes.load_times.by_model,
            self.processes.starts,
            self.processes.load_seconds,
            self.downloads.failures,
            self.change_log.versions,
        )

    def __repr__(self) -> str:
        state = "ended" if self._tickets.has_ended else f"{len(self._tickets)} waiting"
        return f"<Pool {len(self.catalog)} models, {self.processes!r}, {state}>"

    # Leases

    async def lease(
        self, spec: ModelSpec, *, used: bool = True, ttl: float | None = None, background: bool = False
    ) -> Lease:
        """Wait until this model serves, and load it first if need be. Raises a RouterError. May be cancelled.

        `used=False` does not count as a use: the model is evicted as if this request had not been.
        `ttl` is the idle time in seconds after which the process is stopped from now on. `math.inf`: never, and it is
        evicted after all others. None changes nothing.
        Requests in the `background` queue behind all others, and evict no model that others use.
        """
        if ttl is None and (lease := self.lease_at_once(spec, used=used, background=background)):
            return lease
        if self._tickets.has_ended:
            raise errors.Cancelled.by_shutdown()
        name, generation = spec.name, self._core.unloads.generation
        spec = self.effective(name)
        need = await self._need_unless_open(spec)
        while (now := self.effective(spec.name)) is not spec:  # its settings were changed meanwhile
            spec, need = now, await self._need_unless_open(now)
        self._core.unloads.ensure_not_unloaded(name, generation)
        if ttl is not None:
            self._core.keep_alive.request(spec.name, ttl)
        try:
            lease = await self._tickets.acquire(spec, need, background=background)
        finally:
            if not self.is_running(spec.name):
                self._core.keep_alive.drop_request(spec.name)
        lease.used = used
        return lease

    def lease_at_once(self, spec: ModelSpec, *, used: bool = True, background: bool = False) -> Lease | None:
        """As `lease`, for a model that serves now; None if there is anything to wait for."""
        if self._tickets.has_ended:
            return None
        spec = self._core.effective(spec.name)
        ticket, (ttl, pinned, min_loaded) = next(self._tickets.ids), self._core.keep_alive.idle_policy(spec)
        if not self._scheduler.lease_if_open(
            spec.name, ticket, self._core.now(), pinned=pinned, ttl=ttl, min_loaded=min_loaded, background=background
        ):
            return None
        self._core.plans.specs[spec.name] = spec
        if self.journal.hears_requests:
            self.journal.emit(Granted(spec.name, ticket, 0.0))
        lease = self._leased(ticket, spec.name)
        lease.used = used
        return lease

    def gate(self, spec: ModelSpec) -> Gate | None:
        """For small requests to a model that takes new work now, else None. `spec` is one of the catalog's."""
        name = spec.name
        run = self.processes.runs.get(name)
        if run is None or run.child is None or not self._scheduler.model(name).is_open or name not in self.catalog:
            return None
        return self._gates.of(self.catalog.resolve(name))

    def look(self, spec: ModelSpec, *, wakes: bool = True) -> Lease:
        """A lease for a request that only looks at a process: it starts none, waits for none, and keeps none alive.

        `wakes`: the request would wake a child that sleeps. Raises NotLoaded if the model does not take requests now.
        """
        state = self.state(spec.name)
        lease = None if wakes and state is State.SLEEPING else self.lease_at_once(spec, used=False)
        if lease is None:
            word = _NOT_LOADED.get(state, "not loaded")
            raise errors.NotLoaded(
                f"model {spec.name!r} is {word}, and a request that only looks does not load it; "
                "POST /models/load loads it, or add ?autoload=true"
            )
        return lease

    def unload(self, name: str, *, force: bool = False, cause: Cause = Cause.UNLOAD) -> None:
        """Stop this model once its running requests have ended, or at once with `force`. Requests that wait for it are
        refused; with `force`, those that run are told the `cause`."""
        self._core.unloads.record(name)
        was_fetching = self.downloads.is_fetching(name)
        self._apply(self._scheduler.unload(name, self._core.now(), force=force, cause=cause))
        if was_fetching:
            self.exchange.drop_missing(name)

    def unload_unless_awaited(self, name: str) -> None:
        """Stop this model once its running requests have ended. Does nothing if requests wait for it, or a load with
        settings does: no other client loses its turn."""
        is_awaited = self._scheduler.waiting(name) or self.settings.is_loading(name)
        if not is_awaited and self.state(name) in (*SERVING, State.LOADING):
            self._apply(self._scheduler.unload(name, self._core.now()))

    def end_unawaited(self) -> None:
        """End what would go on for ever though no request waits for it: downloads, and the streams of news."""
        for name in self.downloads.wanted():
            if not self._scheduler.waiting(name):
                self.unload(name)
        self.feed.close()
        self.logs.end()

    def end(self, *, force: bool = False) -> None:
        """Refuse all requests, and stop every child once its running requests have ended, or at once with `force`."""
        self._tickets.has_ended = True
        self.downloads.end()
        self.exchange.end()
        for model in list(self._scheduler.models()):
            self.unload(model.name, force=force, cause=Cause.SHUTDOWN)
        self.feed.close()
        self.logs.end()

    async def close(self) -> None:
        """Stop every child at once, and wait until all are gone."""
        self.end(force=True)
        await self._core.tasks.wait_until_empty()
        self._alarm.cancel()

    # Questions

    @property
    def catalog(self) -> Catalog:
        """The present catalog; `exchange` replaces it."""
        return self._core.catalog

    @property
    def limits(self) -> Limits:
        return self._scheduler.limits

    @property
    def scheduler(self) -> Scheduler:
        """The books; for reading only."""
        return self._scheduler

    def effective(self, name: str) -> ModelSpec:
        """The model of this name with the settings that were requested for it. Raises UnknownModel."""
        return self._core.effective(name)

    def state(self, name: str) -> State:
        return self._scheduler.model(name).state

    def need(self, name: str) -> Need | None:
        """What the model needs; None if it was not estimated yet."""
        return self._core.plans.needs.get(name)

    def is_running(self, name: str) -> bool:
        """Whether there is a process or a download of this model, or one is about to start."""
        state = self.state(name)
        is_there = state in SERVING or state in (State.LOADING, State.DOWNLOADING)
        return is_there or self._scheduler.waiting(name) > 0 or self._scheduler.downloads.is_wanted(name)

    def seconds_of_load(self, name: str, since: float) -> float:
        """How long this model has loaded since then, by `time.monotonic`; only its latest load counts."""
        return self.processes.load_times.seconds(name, since)

    def request_counts(self) -> tuple[int, int]:
        """How many requests are served, and how many wait."""
        return sum(len(model.leases) for model in self._scheduler.models()), len(self._tickets)

    def waiting(self) -> tuple[Waiting, ...]:
        """The queue, in the order of turns: one entry for each model that requests wait for, with the reason. It costs
        no I/O. `scheduling.reasons` tells the fields."""
        return self._scheduler.queue(self._core.now())

    def comment(self, name: str) -> str:
        """What a client is told meanwhile whose request waits for this model: what it waits for, or that it loads."""
        why = self._scheduler.why(name, self._core.now())
        return why.text if why and why.kind is not Kind.OWN_LOAD else "loading"

    async def snapshot(self) -> Snapshot:
        """The machines now, as the policy sees them."""
        return await self._core.nodes.snapshot()

    async def _need_unless_open(self, spec: ModelSpec) -> Need | None:
        """What the model needs; None for a model that serves, where it does not matter any more."""
        return None if self._scheduler.model(spec.name).is_open else await self._core.estimates.need(spec)

    def _leased(self, ticket: int, model: str) -> Lease:
        """The lease of a ticket that the scheduler has granted."""
        run = self.processes.runs[model]
        assert run.child is not None, "granted without a child"
        return Lease(model, run.child, run.ended, partial(self._release, ticket, run), run.report_unreachable)

    def _release(self, ticket: int, run: ChildRun, used: bool) -> None:
        now = self._core.now()
        effects = self._scheduler.release(ticket, now, used=used)
        if self.journal.hears_requests:
            self.journal.emit(Released(run.spec.name, ticket))
        if self._scheduler.model(run.spec.name).leases:
            return  # then there is no effect, and nothing that the timer waits for
        if effects:
            self._apply(effects)
        else:
            self._alarm.set()
        self.processes.note_idle(run, now)

    def _on_answer(self, model: str, ticket: int, is_granted: bool) -> None:
        (self.settings.on_grant if is_granted else self.settings.on_refuse)(model, ticket)

    # Effects

    def _apply(self, effects: list[Effect]) -> None:
        """Perform the effects of one call of the scheduler, in the same step. A part that is called here may call the
        scheduler, and `_apply`, again.

        An effect that fails is reported back as an event, as one that succeeds is: the scheduler waits for nothing that
        will not come. It may fail here or later in its task (`on_failure`).
        """
        with request_ids.working_for_nobody():  # the end of one request may start the model of another
            for effect in effects:
                on_failure = partial(self._on_failure, effect)
                try:
                    self._perform(effect, on_failure)
                except Exception as exc:
                    on_failure(exc)
        for follow_up in (
            self.downloads.publish_queue_changes,
            self.processes.prefetch_next,
            self._tell_queue_news,
            self._alarm.set,
        ):
            try:
                follow_up()
            except Exception as exc:
                log.critical("a defect in the router", exc_info=exc)

    def _tell_queue_news(self) -> None:
        self._core.queue_news.tell(self._core.now())

    def _perform(self, effect: Effect, on_failure: Callable[[Exception], None]) -> None:
        match effect:
            case Grant(ticket, model):
                self._tickets.grant(ticket, model)
            case Refuse():
                self._tickets.refuse(effect)
            case Probe(expected, enough):
                self._core.tasks.start(self._probe(expected, enough), on_failure)
            case Spawn():
                self.processes.spawn(effect, on_failure)
            case Stop():
                self.processes.stop(effect)
            case Fetch(model):
                self.downloads.start(model, on_failure)
            case Abort(model):
                self.downloads.abort(model)
            case _:
                assert_never(effect)

    def _on_failure(self, effect: Effect, exc: Exception) -> None:
        """Report an effect that failed. What its requests wait for is answered with an error, or tried again."""
        reason = exc.message if isinstance(exc, errors.RouterError) else f"a defect in the router: {exc!r}"
        if not isinstance(exc, errors.RouterError):
            log.critical("a defect in the router: %s failed", type(effect).__name__, exc_info=exc)
        match effect:
            case Probe():
                self._apply(self._scheduler.probed((), self._core.now(), failure=reason))
            case Spawn(model, run):
                self.processes.give_up(model, run, reason)
            case Stop(model):
                self.processes.give_up(model, self._scheduler.model(model).run, reason)
            case Fetch(model):
                self.downloads.fail(model, exc)
            case Grant(ticket) | Refuse(ticket):
                if self._tickets.fail(ticket, reason) and isinstance(effect, Grant):
                    effects = self._scheduler.release(ticket, self._core.now(), used=False)
                    if self.journal.hears_requests:
                        self.journal.emit(Released(effect.model, ticket))
                    self._apply(effects)
            case Abort():
                pass  # its end need not be reported
            case _:
                assert_never(effect)

    async def _probe(self, expected: Mapping[str, int], enough: Mapping[str, int]) -> None:
        began = self._core.now()
        readings = await self._core.nodes.read(expected, enough)
        for device in (reading.device for reading in readings if reading.device.kind == "gpu"):
            if device.key in expected:
                self.journal.emit(Settled(device.key, self._core.now() - began))
        self._apply(self._scheduler.probed(readings, self._core.now()))
        self._core.nodes.news.tell_pressure(readings)
        self._core.queue_news.tell_planned(self._core.now())

    def _publish(self, name: str, event: str, more: Mapping[str, Any]) -> None:
        """Send this model's status to all subscribers, with further fields."""
        self.change_log.publish(name, event, {**self.status(name).news, **more})

    # Names that have left the catalog

    def _known_names(self) -> set[str]:
        return set().union(*self._books, self.logs.names(), (model.name for model in self._scheduler.models()))

    def _forget(self, name: str) -> None:
        """Keep nothing of a name that has left the catalog, once nothing runs or waits under it. Without this, clients
        and reloads that make ever new names would fill the memory."""
        if name in self.catalog or self.settings.is_loading(name):
            return
        if name in self.processes.runs or self.is_running(name):
            return
        for book in self._books:
            book.pop(name, None)
        self._scheduler.forget(name)
        self._core.store.forget(name)
        self.logs.forget(name)
