"""Which models there are: the catalog, and everything that follows when it changes. Nothing else writes
`Core.catalog`.

A reload of the presets, a finished download, or another program that changes the cache leads to a new catalog. Models
that would be started with other settings now are drained, and start anew for the requests that wait; all others go on
undisturbed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict

from router import errors, threads
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.pool.core import Core
from router.pool.downloads import Downloads
from router.pool.lease import Lease
from router.pool.settings_loads import SettingsLoads

log = logging.getLogger("router.pool")


class CatalogExchange:
    """The present catalog is `Core.catalog`; a catalog itself never changes.

    `lease`, `unload` and `is_running` are the pool's.
    `known_names` returns all names that anything is kept of.
    """

    def __init__(
        self,
        core: Core,
        settings: SettingsLoads,
        downloads: Downloads,
        *,
        lease: Callable[[ModelSpec], Awaitable[Lease]],
        unload: Callable[[str], None],
        is_running: Callable[[str], bool],
        known_names: Callable[[], set[str]],
    ) -> None:
        self._core = core
        self._store = core.store
        self._settings = settings
        self._downloads = downloads
        self._lease = lease
        self._unload = unload
        self._is_running = is_running
        self._known_names = known_names
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<CatalogExchange {len(self._core.catalog)} models>"

    # Changes

    async def replace(self, catalog: Catalog) -> Changes:
        """Make this the catalog."""
        needs: dict[ModelSpec, Need | None] = {}
        changes = self._compare(catalog)
        # While needs are estimated, other models may be started, and settings change.
        while unknown := {spec for spec in self._next_specs(changes, catalog) if spec not in needs}:
            for spec in unknown:
                needs[spec] = await self._core.need_or_none(spec)
            changes = self._compare(catalog)
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
            self._settings.cancel_pending(name)
            self._core.scheduler.clear_failures(name)  # its failures were another model's
            self._core.plans.needs.pop(name, None)
            if self._is_running(name):
                if name in changes.removed or (need := needs[self._core.effective(name)]) is None:
                    self._unload(name)
                else:
                    self._settings.renew(self._core.effective(name), need)
        for name in self._known_names() | set(changes.removed):
            self._core.forget(name)
        log.info("catalog: %s", changes)
        self._core.change_log.feed.publish("*", "models_reload", asdict(changes))
        wanted = [spec for spec in catalog.models if spec.load_on_startup and spec.name in starting]
        self._core.tasks.start(self._load_in_turn(wanted))
        return changes

    def adopt_descriptions(self, described: Catalog, of: Catalog) -> None:
        """Replace the catalog `of` by the same models, now with what their files' headers say. Does nothing if another
        catalog has come meanwhile."""
        if self._core.catalog is of:
            self._core.catalog = described
            self._core.tasks.start(self._describe_with_settings(described))

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
        models = self._core.catalog.models
        left = [spec for spec in models if spec.name != name or spec.source != "cache" or not spec.repo_to_download]
        if len(left) < len(self._core.catalog):
            with contextlib.suppress(errors.CatalogError):  # it is the default model
                self._core.catalog = Catalog(left, self._core.catalog.default_name)
                self._core.change_log.mark_changed(name)
        self._core.forget(name)

    def _compare(self, catalog: Catalog) -> Changes:
        return Changes.between(self._core.catalog, catalog, self._store.is_changed)

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
            is_same = after.is_from_repo(before.repo_to_download or "")
        return self._downloads.is_fetching(before.name) and is_same

    # Startup

    async def load_on_startup(self) -> None:
        """Load the models that are to be loaded on startup, one after the other, as many as the count limit allows."""
        await self._load_in_turn([spec for spec in self._core.catalog.models if spec.load_on_startup])

    async def _load_in_turn(self, wanted: Sequence[ModelSpec]) -> None:
        limit = self._core.scheduler.limits.models_max or len(wanted)
        for spec in wanted[limit:]:
            log.warning("%s is not loaded on startup: --models-max is %d", spec.name, limit)
        for spec in wanted[:limit]:
            try:
                (await self._lease(spec)).release()
            except errors.RouterError as exc:
                log.error("could not load %s at startup: %s", spec.name, exc.message)

    # Needs of models that do not run, for the listing

    def survey(self, estimate: Callable[[ModelSpec], Need]) -> None:
        """Begin to estimate every model whose need is unknown, one after the other. `estimate` blocks."""
        self._core.tasks.start(self._survey(estimate))

    def end(self) -> None:
        """Estimate no further models."""
        self._has_ended = True

    async def _survey(self, estimate: Callable[[ModelSpec], Need]) -> None:
        for spec in self._core.catalog.models:
            if spec.name not in self._core.plans.needs and not spec.problem and not self._has_ended:
                with contextlib.suppress(errors.RouterError):
                    what = f"The model file {spec.model_path} of {spec.name!r}"
                    need = await threads.FILES.run(estimate, spec, timeout=threads.DISK_TIMEOUT_S, what=what)
                    # An estimate for a load is better than this one, and may have come meanwhile.
                    self._core.plans.needs.setdefault(spec.name, need)
                    self._core.change_log.mark_changed(spec.name)
