"""Where the stores of other programs are: the folder that the operator names, or the usual places.

Sources: envconfig/config.go and scripts/install.sh of Ollama, and the packages of distributions; lms-common-server of
LM Studio.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from router import files
from router.errors import CatalogError
from router.models.folder import FoundModels
from router.models.stores.lmstudio import LmStudioStore
from router.models.stores.manifest import Unusable, json_object
from router.models.stores.ollama import OllamaStore

AUTO = "auto"  # in place of a folder: the usual places
MAX_SETTINGS_BYTES = 1 << 20
# Of services, of distributions' packages, and of containers.
_OF_SERVICES = (
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/lib/ollama",
    "/var/snap/ollama/common/models",
    "/root/.ollama/models",
)


class Store(Protocol):
    """Where other programs keep models. Its methods block, and threads may call them."""

    @property
    def root(self) -> Path: ...

    def read(self) -> FoundModels: ...

    def is_current(self) -> bool: ...

    def watch(self, unread: Iterable[Path]) -> None: ...


def ollama(where: str | None, environ: Mapping[str, str]) -> list[Store]:
    """`where` is a folder, AUTO, or None for no store. Raises CatalogError."""
    if where is None:
        return []
    flag, needs = "--ollama-models", "the folder that holds manifests and blobs, such as ~/.ollama/models"
    if where != AUTO:
        root = Path(where)
        inside = next((each for each in (root, root / "models") if _is_store(each)), None)
        if inside is None:
            reason = "is no store of Ollama" if root.is_dir() else "is no folder"
            raise CatalogError(f"{flag} {where}: it {reason}; name {needs}")
        return [OllamaStore(inside)]
    places = list(_places_of_ollama(environ))
    roots = {os.path.realpath(each): each for each in reversed(places) if _is_usual_store(each)}
    if not roots:
        looked = ", ".join(map(str, places))
        raise CatalogError(f"{flag}: there is no store of Ollama at {looked}; name {needs}")
    return [OllamaStore(root) for root in reversed(roots.values())]


def _places_of_ollama(environ: Mapping[str, str]) -> Iterator[Path]:
    if given := environ.get("OLLAMA_MODELS"):
        yield files.expanded(given)
        return
    yield files.home() / ".ollama" / "models"
    if os.name == "posix":
        yield from map(Path, _OF_SERVICES)


def _is_usual_store(root: Path) -> bool:
    """As `_is_store`, for a place that may be that of another user."""
    try:
        return _is_store(root)
    except CatalogError:
        if root.is_relative_to("/root"):
            return False
        raise


def _is_store(root: Path) -> bool:
    """Raises CatalogError for one that this user may not read, so that nobody wonders."""
    return any(_is_folder(root / name, "--ollama-models") for name in ("manifests", "blobs"))


def _is_folder(path: Path, flag: str) -> bool:
    """Raises CatalogError if that cannot be told."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise CatalogError(
            f"{flag}: {path} may not be read by this user ({error.strerror}): add the user to the group of Ollama's "
            "service, or name another folder"
        ) from error
    except (OSError, ValueError):
        return False
    return path.is_dir()


def lm_studio(where: str | None, environ: Mapping[str, str]) -> list[Store]:
    """`where` is a folder, AUTO, or None for no store. Raises CatalogError."""
    if where is None:
        return []
    root = _folder_of_lm_studio(_home_of_lm_studio(files.home())) if where == AUTO else Path(where)
    if not _is_folder(root, "--lmstudio-models"):
        raise CatalogError(
            f"--lmstudio-models: there is no folder {root}; name the one that holds a folder for each publisher, such "
            "as ~/.lmstudio/models"
        )
    return [LmStudioStore(root)]


def _home_of_lm_studio(home: Path) -> Path:
    """Its folder: as a file in the user's home says, or the one of older versions if it is there."""
    try:
        named = files.read(home / ".lmstudio-home-pointer", 4096).decode().strip()
        if named and "\0" not in named and Path(named).is_dir():
            return Path(named)
    except (OSError, ValueError):
        pass
    old, new = home / ".cache" / "lm-studio", home / ".lmstudio"
    return old if old.is_dir() and not new.is_dir() else new


def _folder_of_lm_studio(home: Path) -> Path:
    """Its models: where its settings say, or beside them."""
    try:
        folder = json_object(files.read(home / "settings.json", MAX_SETTINGS_BYTES), "settings").get("downloadsFolder")
    except (OSError, Unusable):
        folder = None
    if not isinstance(folder, str) or not folder or "\0" in folder:
        return home / "models"
    return files.expanded(folder)
