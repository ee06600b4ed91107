"""Where the catalog comes from: it is read from all sources at once, and again when one of them has changed.

If a source turns out to be wrong on a second reading, the catalog of the first stays as it was. Called at the start, on
reload, and after each download.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from router.engine.flags import Arg, FlagTable
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.models.build import build
from router.models.catalog import Catalog
from router.models.created import CreatedStore
from router.models.folder import FoundModels
from router.models.folders import ModelFolders, Places
from router.models.ini_files import Places as PresetPlaces
from router.models.ini_files import PresetFiles
from router.models.presets import PresetFile
from router.models.spec import ModelSpec

log = logging.getLogger("router.catalog")


class Sources:
    """The sources of one router. Reading them blocks.

    `common` are llama-server's arguments for all children.
    `preset` are the operator's preset files and folders of them; `foreign`, one from the hub, takes its place.
    `default_name` is the model of requests that name none.
    `wanted` are names on the hub that are models too, whether their files are here or not.
    `created` are the names and models that clients have made.
    """

    def __init__(
        self,
        common: Sequence[Arg],
        table: FlagTable,
        environ: Mapping[str, str],
        *,
        preset: PresetPlaces = None,
        foreign: Path | None = None,
        models_dir: Places = None,
        default_name: str | None = None,
        offline: bool = False,
        created: CreatedStore | None = None,
    ) -> None:
        self._presets = PresetFiles(foreign or preset, table, environ, foreign=bool(foreign))
        self._folders = ModelFolders(models_dir)
        self._said: frozenset[str] = frozenset()
        self._default_name = default_name
        self._offline = offline
        self._common = common
        self._table = table
        self._cache = hub.Cache(hub.cache_root(environ))
        self._file: PresetFile | None = None
        self._cached: Sequence[CacheEntry] = ()
        self.wanted: list[str] = []
        self.created = CreatedStore() if created is None else created

    def __repr__(self) -> str:
        return f"<Sources: {self._presets!r}, {self._folders!r}, cache {self._cache.root}, {len(self.wanted)} wanted>"

    def read(self) -> Catalog:
        """The catalog of all sources, read anew.

        Raises a ConfigError that says where the mistake is; then `refresh` goes on with the presets from before.
        """
        file = self._presets.read()
        catalog = self._build(file)
        self._file = file
        return catalog

    def refresh(self) -> Catalog:
        """The catalog after something was downloaded, removed or wanted; the presets are not read again."""
        return self._build(self._file) if self._file else self.read()

    def is_current(self) -> bool:
        """Whether the cache and the folders still hold what they held for the last catalog. Looks at most once a
        second."""
        return self._cache.entries() is self._cached and self._folders.is_current()

    def watch(self, models: Iterable[ModelSpec]) -> None:
        """Look at the files of these models too: they could not be read, and may be on their way here."""
        self._folders.watch(spec.model_path for spec in models if spec.model_path and spec.source == "models_dir")

    def _build(self, file: PresetFile) -> Catalog:
        self._cached = self._cache.entries(0)
        in_folders = self._folders.read()
        self._say(in_folders)
        catalog = build(
            file,
            self._cached,
            models_dir=self._folders.roots,
            in_folders=in_folders,
            cache_root=self._cache.root,
            global_args=self._common,
            table=self._table,
            default_name=self._default_name,
            offline=self._offline,
            wanted=tuple(self.wanted),
            created=self.created.found_models(),
        )
        return self.created.add_models(catalog, self._table)

    def _say(self, found: FoundModels) -> None:
        """Log what is left out of folders, as far as it is new."""
        sentences = [*found.warnings, *(f"{kind}: it is not offered" for kind in found.left_out.values())]
        for sentence in sentences:
            if sentence not in self._said:
                log.warning("%s", sentence)
        self._said = frozenset(sentences)
