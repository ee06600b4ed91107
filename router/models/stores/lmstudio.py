"""LM Studio's folder of models: `PUBLISHER/MODEL/*.gguf`, with the projector beside the model.

A model is named `publisher/model`, as its folder is. If the folder holds several quantizations, each is a model of its
own, `publisher/model@q4_k_m`, and the plain name means the best of them. The name that LM Studio's own server gives a
model, the last word in lower case without `-gguf`, is an alias where it leaves no doubt. Source: docs of LM Studio
(app/advanced/import-model) and lms-cli.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from router.hub import repo
from router.hub.cache import Stamps
from router.models.folder import FoundModel

log = logging.getLogger("router.catalog")

MAX_FOLDERS = 4000
MAX_FILES = 1000  # of one folder
_ENDING = ".gguf"


class LmStudioStore:
    """The folder `root`. Threads may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._stamps = Stamps({})
        self._looked_at: float | None = None
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<LmStudioStore {self.root}>"

    def models(self) -> dict[str, FoundModel]:
        """The models by name. Blocks."""
        with self._lock:
            folders = list(_model_folders(self.root))
            self._stamps = Stamps.of([str(self.root), *{str(path.parent) for path in folders}, *map(str, folders)])
            found: dict[str, FoundModel] = {}
            for folder in folders:
                models = _of_folder(folder)
                if not models and str(folder) not in self._told and _holds_safetensors(folder):
                    self._told.add(str(folder))
                    log.warning("%s is left out: it holds safetensors, for LM Studio's MLX engine", folder)
                found |= models
            self._looked_at = time.monotonic()
            return _with_short_names(found)

    def is_current(self) -> bool:
        """Whether nothing has changed since `models`. Looks at most once a second. Blocks."""
        with self._lock:
            if self._looked_at is None:
                return False
            if time.monotonic() - self._looked_at < 1.0:
                return True
            is_same = self._stamps.are_current()
            self._looked_at = time.monotonic() if is_same else None
            return is_same


def _model_folders(root: Path) -> Iterator[Path]:
    count = 0
    for publisher in _subfolders(root):
        for folder in _subfolders(publisher):
            count += 1
            if count > MAX_FOLDERS:
                log.warning("%s has more than %d folders: the others are left out", root, MAX_FOLDERS)
                return
            yield folder


def _subfolders(folder: Path) -> list[Path]:
    """The folders in it that can be named: hidden ones, and names that no request can write, are left out."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name.isprintable())
    except OSError as error:
        log.warning("%s is left out: %s", folder, error.strerror)
        return []
    return [path for name in names if "@" not in name and ":" not in name and (path := folder / name).is_dir()]


def _of_folder(folder: Path) -> dict[str, FoundModel]:
    name = f"{folder.parent.name}/{folder.name}"
    # What is asked of names asks for small endings.
    files = {PurePosixPath(_small(file)): folder / file for file in _files(folder) if file.lower().endswith(_ENDING)}
    found: dict[str, FoundModel] = {}
    firsts = repo.first_shards(files)
    for first in firsts:
        projector = repo.projector(first, files)
        model = FoundModel("lmstudio", files[first], files[projector] if projector else None)
        quant = repo.quant_of(first) or first.name.removesuffix(_ENDING)
        full = name if len(firsts) == 1 else f"{name}@{quant.lower()}"
        if full in found:
            full = f"{name}@{first.name.removesuffix(_ENDING).lower()}"
        found[full] = model
    best = repo.pick(files, None)
    if len(firsts) > 1 and best:
        for full, model in found.items():
            if model.path == files[best]:
                found[full] = replace(model, aliases=(name,))
    return found


def _small(name: str) -> str:
    return name[: -len(_ENDING)] + _ENDING


def _files(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))[:MAX_FILES]
    except OSError as error:
        log.warning("%s is left out: %s", folder, error.strerror)
        return []
    return [name for name in names if not name.startswith(".") and (folder / name).is_file()]


def _holds_safetensors(folder: Path) -> bool:
    return any(name.lower().endswith(".safetensors") for name in _files(folder))


def _with_short_names(found: dict[str, FoundModel]) -> dict[str, FoundModel]:
    keys = {name: _key(name) for name in found}
    counts = Counter(keys.values())
    return {
        name: replace(model, aliases=(*model.aliases, keys[name])) if counts[keys[name]] == 1 else model
        for name, model in found.items()
    }


def _key(name: str) -> str:
    model, at, quant = name.partition("/")[2].lower().partition("@")
    return model.removesuffix("-gguf") + at + quant
