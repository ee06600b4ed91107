"""Where the catalog comes from: it is read from all sources at once, and again when one of them has changed.

If a source turns out to be wrong on a second reading, the catalog of the first stays as it was. Called at the start, on
reload, and after each download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from router.engine.flags import Arg, FlagTable
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.models import presets
from router.models.build import build
from router.models.catalog import Catalog
from router.models.created import CreatedStore
from router.models.presets import NO_PRESETS, PresetFile
from router.models.stores.places import Store


class Sources:
    """The sources of one router. Reading them blocks.

    `common` are llama-server's arguments for all children.
    `preset` is the operator's preset file; `foreign`, one from the hub, takes its place.
    `default_name` is the model of requests that name none.
    `wanted` are names on the hub that are models too, whether their files are here or not.
    `created` are the names and models that clients have made.
    `stores` are those of other programs; where two have one name, the first of them counts.
    """

    def __init__(
        self,
        common: Sequence[Arg],
        table: FlagTable,
        environ: Mapping[str, str],
        *,
        preset: Path | None = None,
        foreign: Path | None = None,
        models_dir: Path | None = None,
        default_name: str | None = None,
        offline: bool = False,
        created: CreatedStore | None = None,
        stores: Sequence[Store] = (),
    ) -> None:
        self._preset = preset
        self._models_dir = models_dir
        self._default_name = default_name
        self._offline = offline
        self._common = common
        self._table = table
        self._foreign = foreign
        self._cache = hub.Cache(hub.cache_root(environ))
        self._file: PresetFile | None = None
        self._cached: Sequence[CacheEntry] = ()
        self.wanted: list[str] = []
        self.created = CreatedStore() if created is None else created
        self._stores = tuple(stores)

    def __repr__(self) -> str:
        file = self._foreign or self._preset
        return (
            f"<Sources: presets {file}, folder {self._models_dir}, cache {self._cache.root}, {len(self.wanted)} wanted>"
        )

    def read(self) -> Catalog:
        """The catalog of all sources, read anew.

        Raises a ConfigError that says where the mistake is; then `refresh` goes on with the presets from before.
        """
        path = self._foreign or self._preset
        file = presets.read(path, self._table, foreign=bool(self._foreign)) if path else NO_PRESETS
        catalog = self._build(file)
        self._file = file
        return catalog

    def refresh(self) -> Catalog:
        """The catalog after something was downloaded, removed or wanted; the presets are not read again."""
        return self._build(self._file) if self._file else self.read()

    def is_current(self) -> bool:
        """Whether the cache and the stores hold what they held for the last catalog. Looks at most once a second."""
        return self._cache.entries() is self._cached and all(store.is_current() for store in self._stores)

    @property
    def has_stores(self) -> bool:
        """Whether a name that is no name on the hub may come to mean a model while the router runs."""
        return bool(self._stores)

    def _build(self, file: PresetFile) -> Catalog:
        self._cached = self._cache.entries(0)
        catalog = build(
            file,
            self._cached,
            models_dir=self._models_dir,
            cache_root=self._cache.root,
            global_args=self._common,
            table=self._table,
            default_name=self._default_name,
            offline=self._offline,
            wanted=tuple(self.wanted),
            created=self.created.found_models(),
            stored={name: model for store in reversed(self._stores) for name, model in store.models().items()},
        )
        return self.created.add_models(catalog, self._table)
