"""Loads that a client requests explicitly, with or without settings (`POST /models/load`).

The one idea: new settings are tried before they hold. The load that brings them drains the running process and waits in
the queue like any request. If a process serves with them, they are committed. If not, what held before is put back:
other requests for the model are served with that, and a model that ran before runs again. Loads of one model run one
after the other (`load_locks`). Whatever happened while a load waited, it looks at everything again before it changes
anything.

The pool calls `on_grant` and `on_refuse` when a ticket is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from router import errors
from router.engine.flags import FlagTable
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.pool.core import Core
from router.pool.downloads import Downloads
from router.pool.lease import Lease
from router.pool.outlook import Outlook, outlook
from router.pool.processes import Processes
from router.pool.requested_settings import RequestedSettings
from router.pool.settings_patch import SettingsPatch
from router.pool.settings_store import Differences, PendingLoad, differences
from router.wire.address import Address

log = logging.getLogger("router.pool")

# A load that no client waits for gets so many seconds to fail before it is reported as under way.
FAILURE_GRACE_S = 0.25


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load.

    `status` is `loaded` if this load started the process, `already_loaded` if it was running with these settings, or
    `loading` if the client does not wait for it.
    `changed` holds the flags that differ from those before, each as written before and now.
    """

    status: str
    changed: Differences = field(default_factory=dict)


class SettingsLoads:
    """`lease` is the pool's.
    `acquire` waits for a lease of a spec with a known need; it reports the ticket under which it waits.
    `cancel` ends such a wait with an error.
    """

    def __init__(
        self,
        core: Core,
        processes: Processes,
        downloads: Downloads,
        *,
        lease: Callable[..., Awaitable[Lease]],
        acquire: Callable[[ModelSpec, Need, Callable[[int], None]], Awaitable[Lease]],
        cancel: Callable[[int, errors.RouterError], None],
    ) -> None:
        self._core = core
        self._store = core.store
        self._processes = processes
        self._downloads = downloads
        self._lease = lease
        self._acquire = acquire
        self._cancel = cancel
        # Each with the number of loads that hold the lock or wait for it.
        self._load_locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __repr__(self) -> str:
        return f"<SettingsLoads of {', '.join(self._load_locks) or 'none'}, {self._store!r}>"

    # Questions

    @property
    def table(self) -> FlagTable:
        """The engine's flags."""
        return self._store.table

    def requested(self, name: str) -> RequestedSettings:
        """What loads have requested over the model's own settings. Raises UnknownModel."""
        return self._store.requested(self._core.catalog.resolve(name))

    def is_loading(self, name: str) -> bool:
        """Whether an explicit load of this model runs or waits."""
        return name in self._load_locks

    async def outlook(self, name: str, patch: SettingsPatch) -> Outlook:
        """What a load of this model with the settings of the patch would meet now. Raises UnknownModel."""
        base = self._core.catalog.resolve(name)
        spec = self.requested(name).apply_patch(patch).apply_to(base, self.table)
        return await outlook(self._core, self._processes, await self._core.described(spec))

    # Loads

    async def load(self, name: str, patch: SettingsPatch | None = None, *, wait: bool = True) -> Loaded:
        """Load the model without a request, with the settings of the patch over those before.

        Raises the error that a request would be refused with. Without `wait`, returns after `FAILURE_GRACE_S` what is
        known by then.
        """
        name = self._core.catalog.resolve(name).name
        self._core.scheduler.clear_failures(name)  # a client that loads it has a reason to expect success
        task = self._core.tasks.start(self._load(name, patch or SettingsPatch({}), self._core.unloads.generation))
        try:
            await asyncio.wait({task}, timeout=None if wait else FAILURE_GRACE_S)
        finally:
            if not task.done():
                task.add_done_callback(lambda done: _log_failure(name, done))
        return task.result() if task.done() else Loaded("loading")

    async def _load(self, name: str, patch: SettingsPatch, generation: int) -> Loaded:
        """`generation` is that of the unloads when the load was requested: a later unload of the model cancels it."""
        core, unloads = self._core, self._core.unloads
        async with self._load_lock(name):
            address_before = self._address(name)
            while True:
                unloads.ensure_not_unloaded(name, generation)
                base, before, run = core.catalog.resolve(name), core.effective(name), self._processes.runs.get(name)
                if base.name != name:  # that model is gone, and its name is an alias of another one now
                    return await self._load(base.name, patch, unloads.generation)
                requested = self.requested(name).apply_patch(patch)
                spec = requested.apply_to(base, self.table)
                # Compared with the process that will go on running; without one, with what would be started next.
                changed = differences(self._processes.lasting_spec(name) or before, spec)
                if not changed and not differences(before, spec):
                    if path := await self._processes.replaced_file(name):
                        log.info("%s: %s has been replaced", name, path, extra={"model": name})
                        need = await core.estimates.need(before)
                        if core.effective(name) is before and self._processes.runs.get(name) is run:
                            self.renew(before, need)
                        continue
                    lease = await self._lease(before)
                    lease.release()
                    if core.effective(name) is not before:
                        continue  # a new catalog came while this load waited: compare again
                    self._store.remember(base, requested)
                    return Loaded("already_loaded" if lease.address == address_before else "loaded")
                spec = await core.described(spec)
                need = await self._need(spec, is_requested=not patch.is_empty)
                await core.nodes.check_fits(spec, need)
                need_before = await core.need_or_none(before)
                pending = PendingLoad(base, requested, spec, need, (before, need_before) if need_before else None)
                # Nothing was stopped so far. If anything has changed during the estimates, all is looked at again.
                if (
                    not unloads.was_unloaded(name, generation)
                    and core.effective(name) is before
                    and self._processes.runs.get(name) is run
                ):
                    was_running = self._processes.lasting_spec(name) is not None
                    try:
                        await self._try(pending, changed)
                    except errors.RouterError:
                        if was_running:
                            core.tasks.start(self._bring_back(before, generation))
                        raise
                    self._store.learn(await core.described(core.effective(name)))  # its files may have arrived
                    return Loaded("loaded", changed)

    def _address(self, name: str) -> Address | None:
        """Where the model's process listens; None without a process, or if it is about to end."""
        run = self._processes.runs.get(name)
        return run.child.address if run and run.child and self._processes.lasting_spec(name) else None

    async def _need(self, spec: ModelSpec, *, is_requested: bool) -> Need:
        """What the model needs with these settings. If the engine would refuse them, a client that requested settings
        has made a bad request."""
        try:
            return await self._core.estimates.need(spec)
        except errors.SettingsRefused as exc:
            if not is_requested:
                raise
            raise errors.InvalidRequest(f"{spec.name!r} cannot have these settings: {exc.fault}.") from exc

    async def _bring_back(self, before: ModelSpec, generation: int) -> None:
        """A load has failed, and what ran before it was ended for it: start that again, unless the model was unloaded
        or changed meanwhile. No client waits for it, so it evicts no model that others use."""
        core, name = self._core, before.name
        if core.unloads.was_unloaded(name, generation) or name not in core.catalog:
            return
        if differences(before, core.effective(name)) or self._processes.lasting_spec(name):
            return
        log.info("%s: it is started again with the settings from before", name, extra={"model": name})
        try:
            (await self._lease(before, used=False, background=True)).release()
        except errors.RouterError as exc:
            log.error("%s: it could not be started again: %s", name, exc.message, extra={"model": name})

    @contextlib.asynccontextmanager
    async def _load_lock(self, name: str) -> AsyncIterator[None]:
        lock, users = self._load_locks.get(name) or (asyncio.Lock(), 0)
        self._load_locks[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._load_locks.pop(name)
            if users > 1:
                self._load_locks[name] = lock, users - 1
            self._core.forget(name)

    async def _try(self, pending: PendingLoad, changed: Differences) -> None:
        """Start the model with these settings, and wait until it serves with them. Raises what it was refused with."""
        name = pending.base.name
        shown = ", ".join(f"{old or '(none)'} => {new or '(none)'}" for old, new in changed.values())
        log.info("%s: new settings: %s", name, shown, extra={"model": name})

        def note_ticket(ticket: int) -> None:
            pending.ticket = ticket

        self._store.begin(pending)
        self.renew(pending.spec, pending.need, has_same_files=True)
        try:
            (await self._acquire(pending.spec, pending.need, note_ticket)).release()
        finally:
            self._roll_back(pending)  # does nothing if it was committed

    # What the next process is started with

    def renew(self, spec: ModelSpec, need: Need, *, has_same_files: bool = False) -> None:
        """Drain the process, or abort the download, and start the model with this for all requests that wait. A
        download of the same files goes on."""
        core = self._core
        core.change_log.mark_changed(spec.name)
        self._amend(spec, need)
        if not (self._downloads.is_needed(spec) and has_same_files):
            core.apply(core.scheduler.renew(spec.name, core.now()))

    def _amend(self, spec: ModelSpec, need: Need) -> None:
        core = self._core
        core.plans.set(spec, need)
        missing = self._downloads.is_needed(spec)
        core.apply(core.scheduler.set_demand(spec.name, need.demand, core.now(), missing=missing))

    def on_grant(self, model: str, ticket: int) -> None:
        """A process serves this ticket. If it is a pending load's, its settings are committed."""
        if pending := self._store.pending(model, ticket):
            base = self._core.catalog.resolve(model)  # its files may have arrived since the load began
            self._store.commit(pending, base)

    def on_refuse(self, model: str, ticket: int) -> None:
        """The ticket is refused. If it is a pending load's, its settings go before a process is started for any other
        request."""
        if pending := self._store.pending(model, ticket):
            self._roll_back(pending)

    def _roll_back(self, pending: PendingLoad) -> None:
        """The load has failed: what held before it holds again."""
        core, name = self._core, pending.base.name
        if not self._store.end(pending):
            return
        core.change_log.mark_changed(name)
        if pending.before:
            self._amend(*pending.before)
        run = self._processes.runs.get(name)
        if run and not differences(run.spec, core.effective(name)):
            # It has not begun to stop yet, and runs what holds again.
            core.apply(core.scheduler.cancel_renew(name, core.now()))
        if not pending.before and core.scheduler.waiting(name):
            # What the model needs without the failed settings is unknown: nothing can be started for those that wait.
            core.apply(core.scheduler.unload(name, core.now()))

    def cancel_pending(self, name: str) -> None:
        """The model itself has changed: a load that is pending fails."""
        pending = self._store.pending(name)
        if pending and self._store.end(pending):
            error = errors.Cancelled(f"{name!r} was changed meanwhile: load it again.", retry_after=1.0)
            self._cancel(pending.ticket, error)


def _log_failure(name: str, load: asyncio.Task[Loaded]) -> None:
    """No client waits for the result of this load."""
    if not load.cancelled() and isinstance(exc := load.exception(), errors.RouterError):
        log.error("could not load %s: %s", name, exc.message, extra={"model": name})
