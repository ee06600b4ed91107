"""The models in a folder (`--models-dir`): which files are models, and which are companions of one.

`x.gguf` is the model x. A subfolder with a model in it is one model of the subfolder's name, and may hold its projector
and its draft model. Deeper folders are not searched. Called when the catalog is built. The rules are those of
llama.cpp's router (tools/server/server-models.cpp).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from router.errors import CatalogError
from router.models.shards import is_shard, shards, stem
from router.models.spec import Package, Source

logger = logging.getLogger("router.catalog")

# How the file of a draft model begins.
DRAFT_PREFIXES = ("mtp-", "dspark-", "dflash-")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that was found on disk, with the companions beside it. `path` is its first shard.

    `problem` says why it cannot be used; then `path` is what was found in its place.
    `adapters`, `aliases` and `package` come from the stores of other programs.
    """

    source: Source
    path: Path
    mmproj: Path | None = None
    draft: Path | None = None
    problem: str | None = None
    adapters: tuple[Path, ...] = ()
    aliases: tuple[str, ...] = ()
    package: Package | None = None


def find_models(folder: Path) -> dict[str, FoundModel]:
    """The models by name. Raises CatalogError if the folder cannot be read, or if two models have one name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CatalogError(f"--models-dir {folder}: {error.strerror}; name a folder that holds .gguf files") from error
    found: dict[str, FoundModel] = {}
    for entry in entries:
        if entry.is_dir():
            name, model = entry.name, _of_subfolder(entry)
        else:
            name, model = stem(entry), FoundModel("models_dir", entry) if _is_model(entry) else None
        if model is None:
            continue
        if name in found:
            raise CatalogError(f"{model.path} and {found[name].path} would both be the model {name!r}: rename one")
        found[name] = model
    return found


def _of_subfolder(folder: Path) -> FoundModel | None:
    try:
        files = sorted(file for file in folder.iterdir() if _is_gguf(file))
    except OSError as error:
        logger.warning("%s is left out: %s", folder, error.strerror)
        return None
    models = sorted(filter(_is_model, files), key=lambda file: not is_shard(file))  # a split model comes first
    if not models:
        return None
    if len(models) > 1:
        logger.warning("%s holds several models; %s is used: give each a folder of its own", folder, models[0].name)
    projectors = sorted((file for file in files if "mmproj" in file.name), key=lambda file: "-F16." not in file.name)
    drafts = (file for file in files if file.name.startswith(DRAFT_PREFIXES))
    return FoundModel("models_dir", models[0], next(iter(projectors), None), next(drafts, None))


def _is_gguf(file: Path) -> bool:
    return file.name.endswith(".gguf") and not file.name.startswith(".") and file.is_file()


def _is_model(file: Path) -> bool:
    """Whether the file is a model by itself: no companion, and no shard after the first."""
    is_companion = "mmproj" in file.name or file.name.startswith(DRAFT_PREFIXES)
    return _is_gguf(file) and not is_companion and file == shards(file)[0]
