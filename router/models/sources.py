"""Where the catalog comes from, read again without losing what was good: folder, presets, cache, what is wanted of the
hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from router.engine.flags import Arg, FlagTable
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.models import catalog as catalogs
from router.models import presets
from router.models.catalog import Catalog
from router.models.presets import PresetFile


class Sources:
    """`common` are llama-server's arguments for all children. `preset` is the operator's file; `foreign`, one from the
    hub, takes its place. `default_name` is the model of requests that name none. `wanted` are names on the hub that are
    models too, whether their files are here or not. Reading blocks."""

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

    def read(self) -> Catalog:
        """All of them. Raises a ConfigError that says where, and leaves what `refresh` takes as it was."""
        path = self._foreign or self._preset
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
        self._cached = self._cache.entries(0)
        return catalogs.build(
            file,
            self._cached,
            models_dir=self._models_dir,
            cache_root=self._cache.root,
            global_args=self._common,
            table=self._table,
            default_name=self._default_name,
            offline=self._offline,
            wanted=tuple(self.wanted),
        )
