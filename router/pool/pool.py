"""The shell around the scheduler: performs its effects, reports back what happened, hands out leases, tells the news.

There is no `await` between reading scheduler state and writing it; therefore there are no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, assert_never

from router import errors, threads
from router.engine.flags import FlagTable, default_table
from router.events.feed import Feed
from router.memory.estimate import Estimates, Need
from router.memory.footprints import Footprint
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.node.interface import ChildEvent, Exit, Node, Part, Slept, Woke
from router.pool.download import Download, Hub
from router.pool.lease import Lease
from router.pool.overrides import Overrides, Wish
from router.pool.run import Run
from router.pool.status import Status
from router.pool.trials import Differences, Trial, Trials, differences
from router.scheduling.effects import Abort, Effect, Fetch, Grant, Probe, Refusal, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.policy import Reject, plan
from router.scheduling.refusals import error_of
from router.scheduling.resources import Allocation, Demand, Reading
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Snapshot
from router.scheduling.states import SERVING, State
from router.scheduling.waiting_line import Ticket
from router.wire.address import Address

log = logging.getLogger("router.pool")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a load: `status` is `loaded` by it, `already_loaded`, or `loading` for one that nobody waited for.
    `changed` are the flags that are not as they were, as written before and now."""

    status: str
    changed: Differences = field(default_factory=dict)


class Pool:
    """`need` tells a model's memory and `learn` is told it; both may block and are called in threads. `table` has the
    engine's flags. `hub` is set by whoever has one; without it a child downloads by itself. `ttl` is the idle time in
    seconds after which a model whose preset says nothing is stopped, None for never. `gone` is told the address of a
    child that ends, and again when it has ended."""

    # How long an explicit load waits for bad news before it says that the load is under way.
    PATIENCE = 0.25
    # Seconds after which a run is measured that has become ready: an engine takes some of its buffers only with the
    # first request, and just then there is more to do.
    MEASURE = 0.5
    # Seconds after which one that goes idle is measured again.
    REMEASURE = 30.0
    # Downloads that may wait for others to end.
    QUEUED = 100

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
        gone: Callable[[Address], None] = lambda address: None,
        learn: Callable[[ModelSpec, Footprint], None] = lambda spec, footprint: None,
    ) -> None:
        self.catalog = catalog
        self.feed = Feed()
        self._nodes = {node.name: node for node in nodes}
        self._scheduler = Scheduler(limits)
        self._estimates = Estimates(need, min(threads.PATIENCE, load_timeout))
        self._learn = learn
        self._load_timeout = load_timeout
        self._ttl = ttl
        self._gone = gone
        self._ids = itertools.count(1)
        self._specs: dict[str, ModelSpec] = {}
        self._runs: dict[str, Run] = {}
        self._exit_codes: dict[str, int] = {}
        self._ttls: dict[str, float] = {}  # as requests wished, for as long as the process lives
        self._waiters: dict[int, asyncio.Future[Lease]] = {}
        self._needs: dict[str, Need] = {}
        self.hub: Hub | None = None
        self._downloads: dict[str, Download] = {}
        self._queued: frozenset[str] = frozenset()  # of which clients know that they will be downloaded
        self._failures: dict[str, type[errors.RouterError]] = {}  # of downloads
        self._trials = Trials(table or default_table())
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}  # with how many take their turns
        self._unloads = 0
        self._unloaded: dict[str, int] = {}  # which of the unloads was each model's latest
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._coming: ModelSpec | None = None
        self._version = 0
        self._versions: dict[str, int] = {}  # of what has changed, the latest last; `_note` keeps it
        self.loads = 0
        self.evictions = 0

    # Requests

    async def lease(
        self, spec: ModelSpec, *, used: bool = True, ttl: float | None = None, background: bool = False
    ) -> Lease:
        """Wait until this model serves, loading it if need be. Raises a RouterError; to be cancelled costs nothing.
        Who only watches (`used` is False) makes it no more recently used. `ttl` is the idle time in seconds that the
        process has from now on, `math.inf` to pin it, None to leave that as it is. Who asks in the `background` comes
        after all others, and sends no model away that these use."""
        if ttl is None and (at_once := self.lease_at_once(spec, used=used, background=background)):
            return at_once
        name, unloads = spec.name, self._unloads
        spec = self.effective(name)
        need = await self._wanted(spec)
        while (now := self.effective(spec.name)) is not spec:  # another one was asked for meanwhile
            spec, need = now, await self._wanted(now)
        self._insist(name, unloads)
        if ttl is not None:
            self._ttls[spec.name] = ttl
        try:
            lease = await self._ask(spec, need, background=background)
        finally:
            if not self.is_running(spec.name):
                self._ttls.pop(spec.name, None)
        lease.used = used
        return lease

    def lease_at_once(self, spec: ModelSpec, *, used: bool = True, background: bool = False) -> Lease | None:
        """That of a model that serves, for which nothing needs to be waited for; None for another one."""
        if self._closed:
            return None
        spec = self.effective(spec.name)
        ticket, (ttl, pinned) = next(self._ids), self._stay(spec)
        if not self._scheduler.lease_if_open(spec.name, ticket, pinned=pinned, ttl=ttl, background=background):
            return None
        self._specs[spec.name] = spec
        lease = self._leased(ticket, spec.name)
        lease.used = used
        return lease

    async def load(self, name: str, wish: Wish | None = None, *, wait: bool = True) -> Loaded:
        """Load without a request, with the settings that are wished for; raises what a request would be refused with.
        Loads of one model take their turns. Without `wait`, return after a moment what is known by then."""
        name = self.catalog.resolve(name).name
        self._scheduler.clear_failures(name)  # whoever says so knows why it should go well now
        task = asyncio.create_task(self._load(name, wish or Wish({}), self._unloads))
        self._keep(task)
        try:
            await asyncio.wait({task}, timeout=None if wait else self.PATIENCE)
        finally:
            if not task.done():
                task.add_done_callback(lambda done: _tell(name, done))
        return task.result() if task.done() else Loaded("loading")

    def unload(self, name: str, *, force: bool = False) -> None:
        """Stop this model once its running requests have ended, at once with `force`; refuse whoever waits for it."""
        self._unloads += 1
        self._unloaded[name] = self._unloads
        was_fetching = self.is_fetching(name)
        self._apply(self._scheduler.unload(name, self._now(), force=force))
        if was_fetching:
            self._drop(name)

    def _drop(self, name: str) -> None:
        """A model that was there only because it was to be downloaded is there no more, from this moment on: whoever
        asks for it in the next one wants it anew."""
        if self.hub:
            self.hub.forget(name)
        left = [
            spec
            for spec in self.catalog.models
            if spec.name != name or spec.source != "cache" or not spec.repo_to_download
        ]
        if len(left) < len(self.catalog):
            with contextlib.suppress(errors.CatalogError):  # it is the default
                self.catalog = Catalog(left, self.catalog.default_name)
                self._note(name)
        self._forget(name)

    async def ended(self, name: str, timeout: float) -> bool:
        """Wait until this model has no process, `timeout` seconds at most; whether it has none."""
        if (run := self._runs.get(name)) is None:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run.ended.wait(), timeout)
        return run.ended.is_set()

    async def start(self) -> None:
        """Load what is to be loaded on startup, one after the other, as far as the count limit goes."""
        await self._start([spec for spec in self.catalog.models if spec.load_on_startup])

    async def _start(self, wanted: Sequence[ModelSpec]) -> None:
        limit = self._scheduler.limits.models_max or len(wanted)
        for spec in wanted[limit:]:
            log.warning("%s is not loaded on startup: --models-max is %d", spec.name, limit)
        for spec in wanted[:limit]:
            try:
                (await self.lease(spec)).release()
            except errors.RouterError as exc:
                log.error("%s was to be loaded on startup: %s", spec.name, exc.message)

    def end(self, *, force: bool = False) -> None:
        """Refuse whoever waits or comes, and end every child once its running requests have ended, at once with
        `force`."""
        self._closed = True
        if self.hub:
            self.hub.end()
        for model in list(self._scheduler.models()):
            self.unload(model.name, force=force)
        self.feed.close()

    async def close(self) -> None:
        """End every child at once, and wait until they are gone."""
        self.end(force=True)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer:
            self._timer.cancel()

    def survey(self, quick: Callable[[ModelSpec], Need]) -> None:
        """Begin to estimate, one after the other, every model of which nothing is known yet; for the listing."""
        self._keep(asyncio.create_task(self._survey(quick)))

    async def _survey(self, quick: Callable[[ModelSpec], Need]) -> None:
        for spec in self.catalog.models:
            if spec.name not in self._needs and not spec.problem and not self._closed:
                with contextlib.suppress(errors.RouterError):
                    what = f"The model file {spec.model_path} of {spec.name!r}"
                    need = await threads.FILES.run(quick, spec, patience=threads.PATIENCE, what=what)
                    self._needs.setdefault(spec.name, need)
                    self._note(spec.name)

    async def replace(self, catalog: Catalog) -> Changes:
        """Exchange the catalog. Running models that would be started with other settings now are drained, and start
        anew for whoever waits; the others do not notice."""
        needs: dict[ModelSpec, Need | None] = {}
        changes = self._compare(catalog)
        while wanted := {spec for spec in self._next(changes, catalog) if spec not in needs}:
            for spec in wanted:
                with contextlib.suppress(errors.RouterError):
                    needs[spec] = None
                    needs[spec] = await self._estimates.of(spec)
            changes = self._compare(catalog)
        before = {spec.name: spec for spec in self.catalog.models}  # it may be another one by now
        self.catalog = catalog
        for name in changes.added:
            self._trials.recall(name)
        starting = [name for name in changes.changed if self.is_running(name)] + list(changes.added)
        fetched = [name for name in changes.changed if self._is_fetching(before[name], catalog.resolve(name))]
        for name in (*changes.changed, *changes.removed):
            if name in fetched:
                continue  # its download tells when it is done
            self._abandon(name)
            self._scheduler.clear_failures(name)  # what failed was another one
            self._needs.pop(name, None)
            if self.is_running(name):
                if name in changes.removed or (need := needs[self.effective(name)]) is None:
                    self.unload(name)
                else:
                    self._renew(self.effective(name), need)
        for name in self._known_names() | set(changes.removed):
            self._forget(name)
        log.info("catalog: %s", changes)
        self.feed.publish("*", "models_reload", asdict(changes))
        wanted_now = [spec for spec in catalog.models if spec.load_on_startup and spec.name in starting]
        self._keep(asyncio.create_task(self._start(wanted_now)))
        return changes

    def _next(self, changes: Changes, catalog: Catalog) -> Iterator[ModelSpec]:
        """As what the running ones among those that have changed are to be started from now on."""
        return (self._trials.proven(catalog.resolve(name)) for name in changes.changed if self.is_running(name))

    def _is_fetching(self, before: ModelSpec, after: ModelSpec) -> bool:
        """The model is being downloaded, and is still that one, or has arrived."""
        is_same = (
            after.repo_to_download == before.repo_to_download
            if after.repo_to_download
            else after.is_from_repo(before.repo_to_download or "")
        )
        return self._scheduler.downloads.is_wanted(before.name) and is_same

    def _compare(self, catalog: Catalog) -> Changes:
        return Changes.between(self.catalog, catalog, self._trials.is_changed)

    @property
    def _books(self) -> tuple[dict[str, Any], ...]:
        """What is kept of each model for as long as the catalog has it."""
        return self._specs, self._exit_codes, self._ttls, self._needs, self._failures, self._unloaded, self._versions

    def _known_names(self) -> set[str]:
        return set().union(*self._books, (model.name for model in self._scheduler.models()))

    def _forget(self, name: str) -> None:
        """Keep nothing of a name that has left the catalog, once nothing runs, waits or is tried under it: clients and
        reloads make ever new ones."""
        if name in self.catalog or name in self._turns or name in self._runs or self.is_running(name):
            return
        for book in self._books:
            book.pop(name, None)
        self._scheduler.forget(name)
        self._trials.forget(name)

    # Questions

    @property
    def limits(self) -> Limits:
        return self._scheduler.limits

    def state(self, name: str) -> State:
        return self._scheduler.model(name).state

    def need(self, name: str) -> Need | None:
        """What the model needs, as far as it was estimated."""
        return self._needs.get(name)

    def is_running(self, name: str) -> bool:
        """There is a process or a download, or one is about to be."""
        is_there = self.state(name) in SERVING or self.state(name) in (State.LOADING, State.DOWNLOADING)
        return is_there or self._scheduler.waiting(name) > 0 or self._scheduler.downloads.is_wanted(name)

    def status(self, name: str) -> Status:
        download = self._downloads.get(name)
        return Status.of(
            self._scheduler.model(name),
            self._runs.get(name),
            now=self._now(),
            waiting=self._scheduler.waiting(name),
            download=download.progress if download else None,
            is_queued=name in self._queued,
            exit_code=self._exit_codes.get(name),
        )

    def version(self) -> int:
        """Counts the changes of what clients are told of the models."""
        return self._version

    def changed(self, since: int) -> Iterator[str]:
        """Of which models something has changed after that version, the latest first."""
        return itertools.takewhile(lambda name: self._versions[name] > since, reversed(self._versions))

    async def snapshot(self) -> Snapshot:
        """The machine now, as policy sees it."""
        return self._scheduler.snapshot(await self._read({}))

    # Settings

    @property
    def table(self) -> FlagTable:
        """The engine's flags."""
        return self._trials.table

    def effective(self, name: str) -> ModelSpec:
        """The model of this name with what was asked for it. Raises UnknownModel."""
        return self._trials.effective(self.catalog.resolve(name))

    def asked(self, name: str) -> Overrides:
        """What was asked for over the model's own settings. Raises UnknownModel."""
        return self._trials.asked(self.catalog.resolve(name))

    async def _load(self, name: str, wish: Wish, unloads: int) -> Loaded:
        async with self._turn(name):
            while True:
                self._insist(name, unloads)
                base, before, run = self.catalog.resolve(name), self.effective(name), self._runs.get(name)
                if base.name != name:  # what it was a name of is gone: now it means another one
                    return await self._load(base.name, wish, self._unloads)
                asked = self.asked(name).patched(wish)
                spec = asked.over(base, self.table)
                changed = differences(self._latest(run) or before, spec)
                if not changed and not differences(before, spec):
                    lease = await self.lease(before)
                    lease.release()
                    if self.effective(name) is not before:
                        continue
                    self._trials.remember(base, asked)
                    is_same = run and run.child and run.child.address == lease.address
                    return Loaded("already_loaded" if is_same else "loaded")
                need = await self._estimates.of(spec)
                await self._check(spec, need)
                trial = Trial(base, asked, spec, need, await self._known(before))
                if (
                    self._unloaded.get(name, 0) <= unloads
                    and self.effective(name) is before
                    and self._runs.get(name) is run
                ):
                    await self._try(trial, changed)
                    return Loaded("loaded", changed)

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        lock, users = self._turns.get(name) or (asyncio.Lock(), 0)
        self._turns[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._turns.pop(name)
            if users > 1:
                self._turns[name] = lock, users - 1
            self._forget(name)

    def _insist(self, name: str, unloads: int) -> None:
        """Raises Cancelled for what was asked for before an unload; that many there had been then, of any model."""
        if self._unloaded.get(name, 0) > unloads:
            raise error_of(Refusal.CANCELLED, name, "it was unloaded", retry_after=1.0)

    def _latest(self, run: Run | None) -> ModelSpec | None:
        """With what a process runs that is here to stay."""
        stays = run and not run.stop_reason and not self._scheduler.model(run.spec.name).closing
        return run.spec if run and stays else None

    async def _try(self, trial: Trial, changed: Differences) -> None:
        name = trial.base.name
        told = ", ".join(f"{old or '(none)'} => {new or '(none)'}" for old, new in changed.values())
        log.info("%s: new settings: %s", name, told)
        self._trials.begin(trial)
        self._renew(trial.spec, trial.need, same_files=True)
        try:
            (await self._ask(trial.spec, trial.need, trial)).release()
        finally:
            self._take_back(trial)  # unless it has proved itself

    def _renew(self, spec: ModelSpec, need: Need, *, same_files: bool = False) -> None:
        """The model is started with this from now on, for whoever waits too."""
        self._note(spec.name)
        self._amend(spec, need)
        if not (self._missing(spec) and same_files):
            self._apply(self._scheduler.renew(spec.name, self._now()))

    def _amend(self, spec: ModelSpec, need: Need) -> None:
        self._specs[spec.name], self._needs[spec.name] = spec, need
        self._apply(self._scheduler.set_demand(spec.name, need.demand, self._now(), missing=self._missing(spec)))

    def _missing(self, spec: ModelSpec) -> bool:
        return self.hub is not None and spec.repo_to_download is not None

    def _take_back(self, trial: Trial) -> None:
        """It has failed: what held before it holds again."""
        name = trial.base.name
        if not self._trials.end(trial):
            return
        self._note(name)
        if trial.before:
            self._amend(*trial.before)
        if (run := self._runs.get(name)) and not differences(run.spec, self.effective(name)):
            self._apply(self._scheduler.cancel_renew(name, self._now()))
        if not trial.before and self._scheduler.waiting(name):
            self._apply(self._scheduler.unload(name, self._now()))

    def _abandon(self, name: str) -> None:
        """What is tried is of a model that is no longer the same."""
        trial = self._trials.of(name)
        if trial and self._trials.end(trial) and (waiter := self._waiters.pop(trial.ticket, None)):
            waiter.set_exception(errors.Cancelled(f"{name!r} was changed meanwhile: load it again.", retry_after=1.0))
            self._apply(self._scheduler.cancel(trial.ticket, self._now()))

    async def _check(self, spec: ModelSpec, need: Need) -> None:
        """Nothing is stopped for what would not fit anyway. Raises ModelTooLarge."""
        found = plan(Snapshot(await self._read({}), margins=self.limits.margins), need.demand)
        if isinstance(found, Reject):
            raise error_of(Refusal.TOO_LARGE, spec.name, found.reason)

    async def _known(self, spec: ModelSpec) -> tuple[ModelSpec, Need] | None:
        try:
            return spec, await self._estimates.of(spec)
        except errors.RouterError:
            return None

    # Tickets

    async def _wanted(self, spec: ModelSpec) -> Need | None:
        """What the model needs; None for one that runs, where it does not matter any more."""
        return None if self._scheduler.model(spec.name).is_open else await self._estimates.of(spec)

    async def _ask(
        self, spec: ModelSpec, need: Need | None, trial: Trial | None = None, *, background: bool = False
    ) -> Lease:
        if self._closed:
            raise errors.Cancelled("The router is shutting down.", retry_after=5.0)
        if need is not None:
            self._know(spec.name, need)
        demand, missing = need.demand if need else Demand(), self._missing(spec)
        ttl, pinned = self._stay(spec)
        ticket = Ticket(next(self._ids), spec.name, demand, spec.priority, pinned, ttl, background, missing)
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[ticket.id] = waiter
        if trial:
            trial.ticket = ticket.id
        self._specs[spec.name] = spec
        self._apply(self._scheduler.acquire(ticket, self._now()))
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.pop(ticket.id, None):
                was_fetching = self.is_fetching(spec.name)
                self._apply(self._scheduler.cancel(ticket.id, self._now()))
                if was_fetching and not self.is_fetching(spec.name):  # it was the last who wanted it
                    self._drop(spec.name)
            elif not waiter.cancelled() and not waiter.exception():
                waiter.result().release()
            raise

    def _stay(self, spec: ModelSpec) -> tuple[float | None, bool]:
        """The idle time after which it is stopped, None for never, and whether it is pinned."""
        own = self._ttl if spec.ttl is None else spec.ttl if spec.ttl > 0 else None
        ttl = self._ttls.get(spec.name, own)
        return ttl, spec.pin or ttl == math.inf

    # Effects

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._perform(effect)
        before, self._queued = self._queued, self._scheduler.downloads.not_begun()
        for name in before ^ self._queued:
            if self.state(name) is not State.DOWNLOADING:  # else its download tells it
                self._news(name)
        self._look_ahead()
        self._set_timer()

    def _look_ahead(self) -> None:
        """Tell the nodes which model is started next, while its start has to wait and no other one loads: the disk is
        that one's."""
        name = self._scheduler.next_to_start()
        if name and any(self.state(running) is State.LOADING for running in self._runs):
            name = None
        coming = self._specs[name] if name else None
        if coming is not self._coming:
            self._coming = coming
            for node in self._nodes.values():
                node.prefetch(coming.files_to_prefetch if coming else ())

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Grant(ticket, model):
                self._grant(ticket, model)
            case Refuse():
                self._refuse(effect)
            case Probe(expected):
                self._keep(asyncio.create_task(self._probe(expected)))
            case Spawn(model, number, allocation):
                spec = self._specs[model]
                args = (*spec.argv, *self._needs[model].args)
                run = self._runs[model] = Run(spec, number, args, allocation, self._node_of(allocation))
                run.renounce = partial(self._renounce, run)
                self._note(model)
                self._keep(asyncio.create_task(self._live(run)))
            case Stop(model, reason):
                self._stop(self._runs[model], reason)
            case Fetch(model):
                download = self._downloads[model] = Download()
                download.task = asyncio.create_task(self._fetch(model, download))
                self._keep(download.task)
            case Abort(model):
                if task := self._downloads.pop(model).task:
                    task.cancel()
                log.info("%s: the download is cancelled", model)
                self._news(model)
            case _:
                assert_never(effect)

    def _grant(self, ticket: int, model: str) -> None:
        waiter = self._waiters.pop(ticket)
        if trial := self._trials.of(model, ticket):
            self._trials.prove(trial, self.catalog.resolve(model))  # its files may have come meanwhile
        lease = self._leased(ticket, model)
        if waiter.cancelled():  # its task has not come round yet to say so
            asyncio.get_running_loop().call_soon(lease.release)
        else:
            waiter.set_result(lease)

    def _leased(self, ticket: int, model: str) -> Lease:
        run = self._runs[model]
        assert run.child is not None, "granted without a child"
        return Lease(model, run.child, run.ended, partial(self._release, ticket, run), run.renounce)

    def _renounce(self, run: Run) -> bool:
        """Nobody listens where this child should: it is replaced, for whoever waits too."""
        name = run.spec.name
        if self._runs.get(name) is run and run.stop_reason is None and not self._scheduler.model(name).closing:
            log.error("%s: its socket is gone, though process %d lives: it is ended", name, run.child and run.child.pid)
            self._apply(self._scheduler.renew(name, self._now()))
        return True

    def _refuse(self, effect: Refuse) -> None:
        waiter = self._waiters.pop(effect.ticket)
        log.info("%s: a request is refused: %s", effect.model, effect.reason)
        if not waiter.cancelled():
            kind = self._failures.get(effect.model) if effect.refusal is Refusal.FETCH_FAILED else None
            error = error_of(effect.refusal, effect.model, effect.reason, retry_after=effect.retry_after, kind=kind)
            waiter.set_exception(error)
        if trial := self._trials.of(effect.model, effect.ticket):
            self._take_back(trial)  # before anybody who waits is started for

    def _release(self, ticket: int, run: Run, used: bool) -> None:
        now = self._now()
        effects = self._scheduler.release(ticket, now, used=used)
        if self._scheduler.model(run.spec.name).leases:
            return  # so there is no effect, and nothing that is waited for
        if effects:
            self._apply(effects)
        else:
            self._set_timer()
        if now - run.measured_at > self.REMEASURE:
            self._measure(run)

    def _measure(self, run: Run) -> None:
        """Ask the machine what the run holds."""
        if run.stop_reason is None and not run.ended.is_set():
            run.measured_at = self._now()
            self._keep(asyncio.create_task(self._weigh(run)))

    async def _weigh(self, run: Run) -> None:
        found = await run.holds()
        if run.stop_reason is not None:
            return  # it may have begun to give back
        held, footprint = run.weighed(found, self._scheduler.model(run.spec.name).held)
        self._apply(self._scheduler.measured(run.spec.name, run.number, held, self._now()))
        await threads.RECORDS.run(self._learn, run.spec, footprint)

    async def _probe(self, expected: Mapping[str, int]) -> None:
        self._apply(self._scheduler.probed(await self._read(expected), self._now()))

    async def _read(self, expected: Mapping[str, int]) -> tuple[Reading, ...]:
        answers = await asyncio.gather(*(node.probe(expected) for node in self._nodes.values()))
        return tuple(itertools.chain.from_iterable(answers))

    async def _live(self, run: Run) -> None:
        """One process, from spawn to exit."""
        name = run.spec.name
        self._news(name, event="model_status")
        exit = await run.live(self._load_timeout, lambda: self._ready(run), lambda event: self._hear(run, event))
        self._exit_codes[name] = exit.code
        if run.child is not None:
            self._gone(run.child.address)
        del self._runs[name]
        self._bury(run, exit)
        if not self._scheduler.waiting(name):  # who waits may have wished already
            self._ttls.pop(name, None)
        run.ended.set()
        self._news(name, exit.code)
        self._forget(name)

    def _ready(self, run: Run) -> None:
        self.loads += 1
        self._apply(self._scheduler.ready(run.spec.name, run.number, self._now()))
        self._news(run.spec.name)
        run.measured_at = self._now()
        self._loop.call_later(self.MEASURE, self._measure, run)

    def _bury(self, run: Run, exit: Exit) -> None:
        name = run.spec.name
        effects = self._scheduler.exited(
            name,
            run.number,
            exit.sentence,
            self._now(),
            out_of_memory=exit.out_of_memory,
            pending_ticket=self._trials.tried_by(run.spec),
        )
        self._apply(effects)

    def _stop(self, run: Run, reason: str) -> None:
        run.dismiss(reason)
        self._note(run.spec.name)
        self.evictions += reason.startswith("room for")
        if run.child is not None:
            self._gone(run.child.address)  # connections that are kept open would hold it up
            self._keep(asyncio.create_task(run.child.stop()))

    def _hear(self, run: Run, event: ChildEvent) -> None:
        match event:
            case Slept():
                self._scheduler.slept(run.spec.name, run.number)
            case Woke():
                self._scheduler.woke(run.spec.name, run.number)
        self._news(run.spec.name)

    def _node_of(self, allocation: Allocation) -> Node:
        devices = allocation.devices
        return self._nodes[devices[0].node] if devices else next(iter(self._nodes.values()))

    # News

    def _news(
        self, name: str, exit_code: int | None = None, event: str = "status_change", error: str | None = None
    ) -> None:
        """llama.cpp's router begins a load with `model_status`; all that follows is a `status_change`."""
        self._note(name)
        data = self.status(name).news
        if exit_code is not None:
            data["exit_code"] = exit_code
        if error is not None:
            data["error"] = error
        self.feed.publish(name, event, data)

    def _know(self, name: str, need: Need) -> None:
        if self._needs.get(name) != need:
            self._needs[name] = need
            self._note(name)

    def _note(self, name: str) -> None:
        self._version += 1
        self._versions.pop(name, None)
        self._versions[name] = self._version

    # Downloads

    def pull(self, name: str) -> None:
        """Have the model's files downloaded, whether or not anybody asks for it. Raises UnknownModel, QueueFull,
        Cancelled."""
        if self._closed:
            raise errors.Cancelled("The router is shutting down.", retry_after=5.0)
        if not self.is_fetching(name) and len(self._queued) >= self.QUEUED:
            raise errors.QueueFull(f"{len(self._queued)} downloads wait already. Try again later.", retry_after=60.0)
        self._specs.setdefault(name, self.effective(name))
        self._apply(self._scheduler.fetch(name, self._now()))

    def is_fetching(self, name: str) -> bool:
        """It is being downloaded, or will be."""
        return self._scheduler.downloads.is_wanted(name)

    def parts(self, name: str) -> Sequence[Part]:
        """The files of a download that is under way."""
        return tuple(self._downloads[name].parts.values()) if name in self._downloads else ()

    async def _fetch(self, name: str, download: Download) -> None:
        """One download, from the decision to fetch until the files are there or it has failed."""
        assert self.hub is not None
        started = self._now()
        self._news(name)
        try:
            await self.hub.fetch(
                self.effective(name), lambda part: self._arrived(name, download, part), self._check_header
            )
            spec = self.effective(name)
            if spec.repo_to_download:
                raise errors.UpstreamFailed(f"{name!r} was downloaded, and is still not there: read the router's log")
            need = await self._estimates.of(spec)
        except Exception as exc:
            if self._downloads.get(name) is download:  # else it was aborted
                self._lost(name, exc)
            return
        log.info("%s: downloaded in %.1f s", name, self._now() - started)
        del self._downloads[name]
        self._specs[name], self._needs[name] = spec, need
        self._apply(self._scheduler.fetched(name, need.demand, self._now()))
        self._news(name, event="download_finished")

    def _lost(self, name: str, exc: Exception) -> None:
        """The download has failed."""
        if isinstance(exc, errors.RouterError):
            log.error("%s: the download failed: %s", name, exc.message)
        else:  # a model must not stay "downloading" for ever because of a defect
            log.critical("a defect in the router", exc_info=exc)
            exc = errors.RouterError(f"a defect in the router: {exc!r}")
        self._failures[name] = type(exc)
        del self._downloads[name]
        effects = self._scheduler.fetch_failed(name, exc.message, self._now(), retry_after=exc.retry_after)
        self._apply(effects)
        self._news(name, event="download_failed", error=exc.message)
        self._forget(name)

    def _arrived(self, name: str, download: Download, part: Part) -> None:
        if self._downloads.get(name) is download and download.take(part, self._now()):
            self._note(name)
            self.feed.publish(name, "download_progress", {"progress": download.progress.payload})

    async def _check_header(self, spec: ModelSpec) -> None:
        need = await self._estimates.of(spec)
        self._know(spec.name, need)
        await self._check(spec, need)

    # The loop

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # which costs a system call each time

    def _now(self) -> float:
        return self._loop.time()

    def _set_timer(self) -> None:
        """Most events only put off what is due; the timer that is set already then finds nothing to do."""
        when = self._scheduler.wakeup()
        if when is None or (self._timer and self._timer.when() <= when):
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        when = self._scheduler.wakeup()
        if when is not None and when <= self._now():
            self._apply(self._scheduler.tick(self._now()))
        else:
            self._set_timer()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, errors.RouterError):
            log.critical("a defect in the router", exc_info=exc)


def _tell(name: str, load: asyncio.Task[Loaded]) -> None:
    """Nobody waits for what comes of this load."""
    if not load.cancelled() and isinstance(exc := load.exception(), errors.RouterError):
        log.error("%s was to be loaded: %s", name, exc.message)
