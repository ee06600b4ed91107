"""Where the catalog comes from: it is read from all sources at once, and again when one of them has changed.

If a source turns out to be wrong on a second reading, the catalog of the first stays as it was. Called at the start, on
reload, and after each download.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from router import files, patience
from router.engine.discovery import Engine
from router.engine.flags import Arg, FlagTable
from router.errors import EngineError
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.models.build import build
from router.models.catalog import Catalog
from router.models.created import CreatedStore
from router.models.folder import FoundModels, step_aside
from router.models.folders import ModelFolders, Places
from router.models.ini_files import Places as PresetPlaces
from router.models.ini_files import PresetFiles
from router.models.spec import ModelSpec
from router.models.stores.places import Store

log = logging.getLogger("router.catalog")


class Sources:
    """The sources of one router. Reading them blocks.

    `common` are llama-server's arguments for all children.
    `preset` are the operator's preset files and folders of them; `foreign`, one from the hub, takes its place.
    `default_name` is the model of requests that name none.
    `wanted` are names on the hub that are models too, whether their files are here or not.
    `created` are the names and models that clients have made.
    `engine` is the one whose flags are in `table`: it is asked again when its file has been replaced.
    `stores` are those of other programs; where two have one name, the first of them counts.
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
        stores: Sequence[Store] = (),
        engine: Engine | None = None,
    ) -> None:
        self._engine = engine
        self._program = engine.identity() if engine else ()
        self._presets = PresetFiles(foreign or preset, table, environ, foreign=bool(foreign))
        self._folders = ModelFolders(models_dir)
        self._said: frozenset[str] = frozenset()
        self._comebacks = 0
        self._earlier: dict[str, ModelSpec] = {}
        self._default_name = default_name
        self._offline = offline
        self._common = common
        self._table = table
        self._cache = hub.Cache(hub.cache_root(environ))
        self._cached: Sequence[CacheEntry] = ()
        self.wanted: list[str] = []
        self.created = CreatedStore() if created is None else created
        self._stores = tuple(stores)
        self._stored: dict[Path, FoundModels] = {}

    def __repr__(self) -> str:
        return f"<Sources: {self._presets!r}, {self._folders!r}, cache {self._cache.root}, {len(self.wanted)} wanted>"

    def read(self) -> Catalog:
        """The catalog of all sources, read anew.

        Raises a ConfigError that says where the mistake is; then `refresh` goes on with the presets from before.
        """
        self._ask_anew()
        before = self._presets.reading
        self._presets.read()
        try:
            return self._build()
        except BaseException:
            self._presets.reading = before
            raise

    def _ask_anew(self) -> None:
        """After an upgrade of the engine its flags are others."""
        if self._engine is None or (program := self._engine.identity()) in ((), self._program):
            return
        try:
            self._table = self._presets.table = self._engine.table()
            log.info("engine: %s has been replaced; it is %s now", self._engine.command[0], self._engine.version())
        except EngineError as error:
            log.warning("engine: %s", error.message)
        self._program = program

    def refresh(self) -> Catalog:
        """The catalog after something was downloaded, removed or wanted; the presets are not read again."""
        return self._build() if self._presets.reading else self.read()

    def is_current(self) -> bool:
        """Whether the cache, the folders and the stores still hold what they held for the last catalog. Looks at most
        once a second."""
        if self._cache.entries() is not self._cached or not self._folders.is_current():
            return False
        # A disk that hangs counts as unchanged, until it comes back.
        is_same = all(patience.each(lambda store: store.is_current(), self._stores, key=repr))
        return is_same and patience.comebacks() == self._comebacks

    @property
    def has_places(self) -> bool:
        """Whether a name that is no name on the hub may come to mean a model while the router runs."""
        return bool(self._stores) or bool(self._folders)

    def watch(self, models: Iterable[ModelSpec]) -> None:
        """Look at the files of these models too: they could not be read, and may be on their way here."""
        unread = [(spec.model_path, spec.source) for spec in models if spec.model_path]
        self._folders.watch(path for path, source in unread if source == "models_dir")
        for store in self._stores:
            store.watch(path for path, source in unread if source == "lmstudio")

    def _build(self) -> Catalog:
        self._comebacks = patience.comebacks()
        self._cached = self._cache.entries(0)
        in_folders, in_stores = self._folders.read(), self._read_stores()
        in_folders.left_out = {**in_stores.left_out, **in_folders.left_out}
        # What comes into a folder or the cache must not clash with what the operator has written. What a stranger has
        # written changes nothing here: then a clash is an error.
        file = self._presets.file
        aliases = {alias for preset in file.presets if not file.foreign for alias in preset.aliases}
        step_aside(in_folders, aliases)
        hidden = [entry.name for entry in self._cached if entry.name in aliases]
        in_folders.warnings += [f"{name} of the cache is left out: it is an alias of another model" for name in hidden]
        self._say(in_folders, in_stores)
        catalog = build(
            file,
            [entry for entry in self._cached if entry.name not in aliases],
            models_dir=self._folders.roots,
            in_folders=in_folders,
            cache_root=self._cache.root,
            global_args=self._common,
            table=self._table,
            default_name=self._default_name,
            offline=self._offline,
            wanted=tuple(self.wanted),
            created=self.created.found_models(),
            earlier=self._earlier,
            stored=in_stores.models,
        )
        self._earlier = {spec.name: spec for spec in catalog.models}
        return self.created.add_models(catalog, self._table)

    def _read_stores(self) -> FoundModels:
        """What the stores hold. One on a disk that hangs stays as it was."""
        looked = patience.each(lambda store: store.read(), self._stores, key=repr)
        for store, one in zip(self._stores, looked, strict=True):
            if not isinstance(one, patience.Hung):
                self._stored[store.root] = one
        all_found = FoundModels()
        for store in reversed(self._stores):
            one = self._stored.get(store.root) or FoundModels(warnings=[files.hung(store.root)])
            all_found.models |= one.models
            all_found.left_out |= one.left_out
            all_found.warnings += one.warnings
        return all_found

    def _say(self, found: FoundModels, in_stores: FoundModels) -> None:
        """Log what is left out of folders and stores, as far as it is new."""
        left_out = (f"{kind}: it is not offered" for kind in found.left_out.values())
        sentences = [*found.warnings, *in_stores.warnings, *left_out]
        for sentence in sentences:
            if sentence not in self._said:
                log.warning("%s", sentence)
        self._said = frozenset(sentences)
