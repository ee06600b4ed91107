"""Which models there are: the catalog, and everything that follows when it changes. Nothing else writes
`Core.catalog`.

A reload of the presets, a finished download, or another program that changes the cache leads to a new catalog. Models
that would be started with other settings now are drained, and start anew for the requests that wait; all others go on
undisturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from router import errors, threads
from router.events.kinds import Reload
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.pool.core import Core
from router.pool.downloads import Downloads
from router.pool.lease import Lease
from router.pool.settings_loads import SettingsLoads
from router.pool.settings_store import differences
from router.scheduling.causes import Cause
from router.scheduling.states import SERVING

log = logging.getLogger("router.pool")

# A view of a model waits so many seconds for its files at most: a disk that hangs is not waited for.
LEARN_PATIENCE_S = 2.0


class CatalogExchange:
    """The present catalog is `Core.catalog`; a catalog itself never changes.

    `lease`, `unload` and `is_running` are the pool's.
    `known_names` returns all names that anything is kept of.
    `replaced_file` and `lasting_spec` are those of Processes.
    """

    def __init__(
        self,
        core: Core,
        settings: SettingsLoads,
        downloads: Downloads,
        *,
        lease: Callable[[ModelSpec], Awaitable[Lease]],
        unload: Callable[[str, Cause], None],
        is_running: Callable[[str], bool],
        known_names: Callable[[], set[str]],
        replaced_file: Callable[[str], Awaitable[str | None]],
        lasting_spec: Callable[[str], ModelSpec | None],
    ) -> None:
        self._core = core
        self._store = core.store
        self._settings = settings
        self._downloads = downloads
        self._lease = lease
        self._unload = unload
        self._is_running = is_running
        self._known_names = known_names
        self._replaced_file = replaced_file
        self._lasting_spec = lasting_spec
        self._has_ended = False
        self.is_starting = False  # models are being loaded that are wanted from the start
        self.is_lone_starting = False  # the only model is, which nobody has to name
        self._estimate: Callable[[ModelSpec], Need] | None = None
        self._learning: dict[str, asyncio.Task[None]] = {}
        # Models that left the catalog while a new one was prepared, which may still have them.
        self._preparing = 0
        self._dropped: set[str] = set()

    def __repr__(self) -> str:
        return f"<CatalogExchange {len(self._core.catalog)} models>"

    # Changes

    async def replace(self, catalog: Catalog) -> Changes:
        """Make this the catalog."""
        needs: dict[ModelSpec, Need | str | None] = {}
        self._preparing += 1
        try:
            replaced = await self._replaced()
            changes = self._compare(catalog, replaced)
            # While needs are estimated, other models may be started, and settings change.
            while unknown := {spec for spec in self._next_specs(changes, catalog) if spec not in needs}:
                for spec in unknown:
                    needs[spec] = await self._need_or_fault(spec)
                changes = self._compare(catalog, replaced)
        finally:
            self._preparing -= 1
        if self._dropped:
            catalog = self._without(self._dropped, catalog)
            changes = self._compare(catalog, replaced)
            self._dropped = self._dropped if self._preparing else set()
        before = self._core.catalog  # which may be another one by now
        self._core.catalog = catalog
        for name in changes.added:
            self._store.restore(name)
        self._core.tasks.start(self._describe_with_settings(catalog))
        starting = [name for name in changes.changed if self._is_running(name)] + list(changes.added)
        specs_before = {spec.name: spec for spec in before.models}
        fetched = [name for name in changes.changed if self._is_fetched(specs_before[name], catalog.resolve(name))]
        for name in (*changes.changed, *changes.removed):
            if name in fetched:
                continue  # its download goes on, and reports its end
            self._store.try_changes_anew(name)
            if name not in changes.removed and name not in replaced and self._goes_on(name, needs):
                continue
            self._settings.cancel_pending(name)
            self._core.scheduler.clear_failures(name)  # its failures were another model's
            need_before = self._core.plans.needs.pop(name, None)
            if self._is_running(name):
                need = None if name in changes.removed else needs[self._core.effective(name)]
                if isinstance(need, Need):
                    spec = self._core.effective(name)
                    self._store.changes.begin(spec, self._serving_spec(name), need_before)
                    self._settings.renew(spec, need)
                else:
                    self._unload(name, Cause.REMOVED if name in changes.removed else Cause.SETTINGS)
        for name in self._known_names() | set(changes.removed):
            self._core.forget(name)
        counts = (len(changes.added), len(changes.changed), len(changes.removed))
        self._core.journal.emit(Reload(str(changes), *counts))
        self._core.change_log.feed.publish("*", "models_reload", asdict(changes))
        wanted = [spec for spec in catalog.models if spec.load_on_startup and spec.name in starting]
        self._core.tasks.start(self._load_in_turn(wanted))
        return changes

    def adopt_descriptions(self, described: Catalog, of: Catalog) -> None:
        """The models of the catalog `of`, now with what their files' headers say. Files that turned out to be no models
        are not among them any more. Models that are not the same any more in the present catalog are left as they
        are."""
        after = {spec.name: spec for spec in described.models}
        self._adopt({spec.name: (spec, after.get(spec.name)) for spec in of.models}, described.left_out)
        self._core.tasks.start(self._describe_with_settings(self._core.catalog))

    def _adopt(
        self, pairs: Mapping[str, tuple[ModelSpec, ModelSpec | None]], left_out: Mapping[str, str] | None = None
    ) -> None:
        """By name: a model as it was, and as it is to be; None if it is none."""
        present = self._core.catalog
        models = []
        for spec in present.models:
            was, now = pairs.get(spec.name, (None, spec))
            if now is not None or was is not spec:
                models.append(now if now is not None and was is spec else spec)
        if tuple(map(id, models)) != tuple(map(id, present.models)):
            self._core.catalog = present.with_models(models, left_out)

    async def learn(self, name: str) -> None:
        """Return when the header of this model has been read, and its need is known, or after LEARN_PATIENCE_S.

        Just after the start most models are not described yet; a request for one of them does not wait for all."""
        base = self._core.catalog.resolve(name)
        if not base.is_unread and (base.name in self._core.plans.needs or self._estimate is None or base.problem):
            return
        task = self._learning.get(base.name)
        if task is None:
            # No task of the pool: at its end nothing waits for a disk that hangs.
            task = self._learning[base.name] = asyncio.create_task(self._learn(base))
            task.add_done_callback(partial(self._learned, base.name))
        await asyncio.wait({task}, timeout=LEARN_PATIENCE_S)

    def _learned(self, name: str, task: asyncio.Task[None]) -> None:
        del self._learning[name]
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, errors.RouterError):
            log.critical("a defect in the router", exc_info=exc)

    async def _learn(self, base: ModelSpec) -> None:
        if base.is_unread:
            self._adopt({base.name: (base, await self._core.described(base))})
            base = self._core.catalog.find(base.name) or base
            if self._store.has_settings(base):
                self._store.learn(await self._core.described(self._core.effective(base.name)))
            self._core.change_log.mark_changed(base.name)
        if self._estimate is not None and not base.problem:
            await self._estimate_quickly(base, self._estimate)

    async def _describe_with_settings(self, catalog: Catalog) -> None:
        """Finds out what the files of models that run with other settings than their own say about them."""
        for base in catalog.models:
            if self._store.has_settings(base) and self._core.catalog is catalog:
                described = await self._core.described(self._core.effective(base.name))
                if self._core.catalog is catalog:
                    self._store.learn(described)
                    self._core.change_log.mark_changed(base.name)

    def drop_missing(self, name: str) -> None:
        """The download of this model was given up. If the model was there only to be downloaded, it leaves the catalog
        at once: the next request that names it wants it anew."""
        self._downloads.forget_wanted(name)
        left = self._without({name}, self._core.catalog)
        if len(left) < len(self._core.catalog):
            self._core.catalog = left
            self._core.change_log.mark_changed(name)
        if self._preparing:
            self._dropped.add(name)
        self._core.forget(name)

    def _without(self, names: Collection[str], catalog: Catalog) -> Catalog:
        """The catalog without those of these models that are there only to be downloaded."""
        left = [s for s in catalog.models if s.name not in names or s.source != "cache" or not s.repo_to_download]
        with contextlib.suppress(errors.CatalogError):  # the default model is among them
            return catalog.with_models(left)
        return catalog

    async def _need_or_fault(self, spec: ModelSpec) -> Need | str | None:
        """What the model needs; why it can never be loaded with these settings; or None if that cannot be known."""
        need = None
        try:
            need = await self._core.estimates.need(spec)
            await self._core.nodes.check_fits(spec, need)
        except (errors.SettingsRefused, errors.ModelTooLarge) as exc:
            return exc.message
        except errors.RouterError:
            pass  # the file or the machine does not answer: the load will say so
        return need

    def _goes_on(self, name: str, needs: Mapping[ModelSpec, Need | str | None]) -> bool:
        """Whether a process of a changed model is left as it is: it runs what is wanted now, or the change can never be
        loaded. Ending it for that would leave the model without any process."""
        lasting, spec = self._lasting_spec(name), self._core.effective(name)
        if lasting is None or self._store.pending(name):
            return False  # what holds if the load fails has changed too
        if not differences(lasting, spec):
            return True
        if isinstance(fault := needs.get(spec), str):
            log.error("%s: its process goes on with the settings from before: %s", name, fault, extra={"model": name})
            self._store.changes.begin(spec, self._serving_spec(name), self._core.plans.needs.get(name))
            if self._store.changes.is_tried(spec):
                self._store.fail_change(name, fault)
                self._core.change_log.mark_changed(name)
            return True
        return False

    def _serving_spec(self, name: str) -> ModelSpec | None:
        """What the model serves with, and will go on with; None if there is no such process."""
        return self._lasting_spec(name) if self._core.scheduler.model(name).state in SERVING else None

    async def _replaced(self) -> frozenset[str]:
        """The models whose processes were started with files that have been replaced since."""
        found = {name: await self._replaced_file(name) for name in [spec.name for spec in self._core.catalog.models]}
        for name, path in found.items():
            if path:
                log.info("%s: %s has been replaced", name, path, extra={"model": name})
        return frozenset(name for name, path in found.items() if path)

    def _compare(self, catalog: Catalog, replaced: Collection[str]) -> Changes:
        """`replaced` are models that have changed although their settings have not."""

        def is_changed(before: ModelSpec, after: ModelSpec) -> bool:
            return before.name in replaced or self._store.is_changed(before, after)

        return Changes.between(self._core.catalog, catalog, is_changed)

    def _next_specs(self, changes: Changes, catalog: Catalog) -> Iterator[ModelSpec]:
        """For each model that runs and has changed: what it is to be started with from now on."""
        for name in changes.changed:
            if self._is_running(name):
                yield self._store.committed_spec(catalog.resolve(name))

    def _is_fetched(self, before: ModelSpec, after: ModelSpec) -> bool:
        """Whether the change is the work of the model's download: the same files are still missing, or have arrived."""
        if after.repo_to_download:
            is_same = after.repo_to_download == before.repo_to_download
        else:
            is_same = after.is_download_of(before)
        return self._downloads.is_fetching(before.name) and is_same

    # Startup

    async def load_on_startup(self, *, lone: bool = False) -> None:
        """Load the models that are to be loaded on startup, one after the other, as many as the count limit allows.
        `lone`: also a model that the command line names by its file, if there is no other: llama-server does so."""
        wanted = [spec for spec in self._core.catalog.models if spec.load_on_startup]
        if lone and not wanted:
            wanted = [spec for spec in self._core.catalog.models if spec.source == "command_line" and spec.model_path]
            wanted = wanted if len(self._core.catalog) == 1 else []
            self.is_lone_starting = bool(wanted)
        self.is_starting = bool(wanted)
        try:
            await self._load_in_turn(wanted)
        finally:
            self.is_starting = self.is_lone_starting = False

    async def _load_in_turn(self, wanted: Sequence[ModelSpec]) -> None:
        limit = self._core.scheduler.limits.models_max or len(wanted)
        for spec in wanted[limit:]:
            log.warning("%s is not loaded on startup: --models-max is %d", spec.name, limit)
        for spec in wanted[:limit]:
            try:
                (await self._lease(spec)).release()
            except errors.RouterError as exc:
                log.error("could not load %s at startup: %s", spec.name, exc.message, extra={"model": spec.name})

    # Needs of models that do not run, for the listing

    def estimate_with(self, estimate: Callable[[ModelSpec], Need]) -> None:
        """With this `learn` estimates the need of a model that does not run. `estimate` blocks."""
        self._estimate = estimate

    def survey(self, estimate: Callable[[ModelSpec], Need]) -> None:
        """Begin to estimate every model whose need is unknown, one after the other. `estimate` blocks."""
        self._core.tasks.start(self._survey(estimate))

    def end(self) -> None:
        """Describe and estimate no further models."""
        self._has_ended = True
        for task in list(self._learning.values()):
            task.cancel()

    async def _survey(self, estimate: Callable[[ModelSpec], Need]) -> None:
        for spec in self._core.catalog.models:
            if not spec.problem and not self._has_ended:
                await self._estimate_quickly(spec, estimate)

    async def _estimate_quickly(self, spec: ModelSpec, estimate: Callable[[ModelSpec], Need]) -> None:
        needs = self._core.plans.needs
        if spec.name in needs:
            return
        with contextlib.suppress(errors.RouterError):
            what = f"The model file {spec.model_path} of {spec.name!r}"
            need = await threads.FILES.run(estimate, spec, timeout=threads.DISK_TIMEOUT_S, what=what)
            # An estimate for a load is better than this one, and may have come meanwhile.
            needs.setdefault(spec.name, need)
            self._core.change_log.mark_changed(spec.name)
