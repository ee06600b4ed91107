"""The files of Ollama's layers: `blobs/sha256-HEX`, each named by the hash of its content.

Texts are read whole, within bounds, and their hash is checked, so that a link cannot pass off another file of the
machine as a prompt or a license. Files of weights are too large for that: they must be regular, of the size that the
manifest tells, and no link may lead out of the store.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from router import files
from router.models.spec import Package
from router.models.stores.manifest import Layer, Unusable

MAX_TEXT_BYTES = 1 << 20


class Blobs:
    """The files of the store in `root`. All methods block on the disk."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "blobs"
        self._inside = tuple({os.path.realpath(root), os.path.realpath(self._folder)})

    def __repr__(self) -> str:
        return f"<Blobs in {self._folder}>"

    def path(self, digest: str) -> Path:
        """Where the file is, or would be. Stores of 2023 have a colon in the names."""
        path, old = (self._folder / f"sha256{sign}{digest}" for sign in "-:")
        return old if not os.path.lexists(path) and os.path.lexists(old) else path

    def weights(self, layer: Layer) -> Path:
        """A file that the engine reads. Raises Unusable."""
        path = self.path(layer.digest)
        status = self._status(path, layer)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"{path} is not a regular file")
        if layer.size and status.st_size != layer.size:
            raise Unusable(f"{path} has {status.st_size} bytes and should have {layer.size}: pull the model again")
        return path

    def text(self, layer: Layer) -> bytes:
        """The content of a small file. Raises Unusable."""
        path = self.path(layer.digest)
        self._status(path, layer)
        try:
            data = files.read(path, MAX_TEXT_BYTES)
        except OSError as error:
            raise Unusable(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != layer.digest:
            raise Unusable(f"{path} has another content than its name says: pull the model again")
        return data

    def _status(self, path: Path, layer: Layer) -> os.stat_result:
        """Raises Unusable."""
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode) and not self._is_inside(os.path.realpath(path)):
                raise Unusable(f"{path} is a link that leads out of the store: name the file in a preset instead")
            return os.stat(path)
        except FileNotFoundError:
            if os.path.exists(f"{path}-partial"):
                raise Unusable("Ollama is still downloading it, or has stopped in the middle: pull it again") from None
            raise Unusable(f"the file {path} of its {layer.kind or 'model'} is missing: pull the model again") from None
        except OSError as error:
            raise Unusable(f"{path} cannot be read: {error.strerror}") from error

    def _is_inside(self, path: str) -> bool:
        is_below: Callable[[str], bool] = lambda root: os.path.commonpath((root, path)) == root  # noqa: E731
        return any(map(is_below, self._inside))


def licenses(package: Package) -> list[str]:
    """The texts, as far as they can be read. Blocks."""
    found: list[str] = []
    for path in package.licenses:
        try:
            data = files.read(path, MAX_TEXT_BYTES)
        except (OSError, ValueError):
            continue
        if hashlib.sha256(data).hexdigest() == path.name[-64:]:
            found.append(data.decode(errors="replace"))
    return found
