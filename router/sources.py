"""Where the catalog comes from, read again without losing what was good: folder, presets, cache, what is wanted of the
hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from router import catalog as catalogs
from router import hub, presets
from router.catalog import Catalog
from router.flags import Arg, FlagTable
from router.hub import CacheEntry
from router.presets import PresetFile
from router.settings import Settings


class Sources:
    """`common` are llama-server's arguments for all children. `foreign` is a preset file from the hub, which takes the
    place of the operator's own. `wanted` are names on the hub that are models too, here or not. Blocks."""

    def __init__(
        self,
        settings: Settings,
        common: Sequence[Arg],
        table: FlagTable,
        environ: Mapping[str, str],
        foreign: Path | None = None,
    ) -> None:
        self._settings = settings
        self._common = common
        self._table = table
        self._foreign = foreign
        self._cache = hub.Cache(hub.cache_root(environ))
        self._file: PresetFile | None = None
        self._cached: Sequence[CacheEntry] = ()
        self.wanted: list[str] = []

    def read(self) -> Catalog:
        """All of them. Raises a ConfigError that says where, and leaves what `refresh` takes as it was."""
        path = self._foreign or self._settings.models_preset
        file = presets.read(path, self._table, foreign=bool(self._foreign)) if path else catalogs.NO_PRESETS
        catalog = self._build(file)
        self._file = file
        return catalog

    def refresh(self) -> Catalog:
        """What was downloaded, removed or wanted since then, with the presets as they were read last."""
        return self._build(self._file) if self._file else self.read()

    def is_current(self) -> bool:
        """Whether the cache holds what the catalog says; looks at most once a second."""
        return self._cache.entries() is self._cached

    def _build(self, file: PresetFile) -> Catalog:
        s = self._settings
        self._cached = self._cache.entries(0)
        return catalogs.build(
            file,
            self._cached,
            models_dir=s.models_dir,
            cache_root=self._cache.root,
            global_args=self._common,
            table=self._table,
            default_name=s.models_default,
            offline=s.offline,
            wanted=tuple(self.wanted),
        )
