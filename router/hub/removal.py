"""Removing models from the Hugging Face cache.

The one idea: a snapshot holds links, so the same blob may belong to several files and several refs. A blob goes only
with its last link, and nothing outside of the repository's folder is ever touched. Called by `llama-router rm`, by
`DELETE /models` and by Ollama's delete.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path, PurePosixPath

from router.errors import Forbidden, InvalidRequest, RouterError, UnknownModel
from router.hub import repo as repos
from router.hub.cache import CacheEntry, entries_of_repo, find
from router.hub.layout import (
    entries_of,
    file_size,
    files_below,
    gguf_sizes,
    link_target,
    locks_folder,
    name_in_cache,
    refs_of,
    repo_folder,
    snapshot_of,
)
from router.hub.names import Name


def only_model(root: Path, name: Name) -> Name:
    """The name with the quant of the only model in the cache that it means.

    Raises UnknownModel, and InvalidRequest if it means several.
    """
    name = name_in_cache(root, name)
    found = {
        entry.name for entry in entries_of_repo(root, name.repo) if Name.parse(entry.name).revision == name.revision
    }
    if name.quant is None and len(found) > 1:
        raise InvalidRequest(f"which one? The cache has {', '.join(sorted(found))}")
    entry = find(root, str(name))
    if entry is None:
        raise UnknownModel(f"{name} is not in the cache {root}; llama-router list shows what is")
    return Name.parse(entry.name)


def remove(root: Path, name: Name) -> int:
    """Delete a model from the cache; for `user/repo` alone the whole repository. Returns how many bytes this freed.

    A blob stays while another file or another ref uses it. A projector or a draft model stays while a model is left.
    Raises UnknownModel; Forbidden if the repository's folder is a link; RouterError if a file cannot be deleted.
    """
    name = name_in_cache(root, name)
    folder = repo_folder(root, name.repo)
    if folder.is_symlink():
        raise Forbidden(f"{folder} is a link: remove by hand what it leads to")
    try:
        if name == Name(name.repo) and folder.is_dir():
            return _remove_repo(root, folder)
        snapshot, entry = snapshot_of(root, name), find(root, str(name))
        if snapshot is None or entry is None:
            raise UnknownModel(f"{name} is not in the cache {root}; GET /v1/models lists what is")
        return _remove_files(root, folder, snapshot, _files_to_remove(snapshot, entry))
    except OSError as error:
        raise RouterError(f"{name} cannot be removed ({error.strerror}: {error.filename})") from error


def _files_to_remove(snapshot: Path, entry: CacheEntry) -> set[PurePosixPath]:
    """The entry's files; all GGUFs of the snapshot if no other model is left in it."""
    files = {path for path, _ in gguf_sizes(snapshot)}
    own = {PurePosixPath(file.relative_to(snapshot)) for file in entry.files}
    return own if repos.first_shards(files - own) else files


def _remove_files(root: Path, folder: Path, snapshot: Path, paths: set[PurePosixPath]) -> int:
    """Remove them from the snapshot, and from snapshots that no ref names any more: those would keep the blobs."""
    named = {other for _, other in refs_of(folder) if other != snapshot}
    snapshots = [Path(entry.path) for entry in entries_of(folder / "snapshots") if Path(entry.path) not in named]
    links = [one / path for one in snapshots for path in paths if _is_inside(one / path, folder)]
    blobs = {blob for link in links if (blob := link_target(link))}
    freed = 0
    for link in links:
        freed += link.stat().st_size if link.is_file() and not link.is_symlink() else 0
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            for parent in list(link.relative_to(folder / "snapshots").parents)[:-1]:
                (folder / "snapshots" / parent).rmdir()
    left = [Path(entry.path) for entry in files_below(folder / "snapshots")]
    has_download = any(entry.name.endswith(".incomplete") for entry in entries_of(folder / "blobs"))
    if not left and not has_download:  # a download may be of another model of the repository
        return freed + _remove_repo(root, folder)
    for blob in blobs - {link_target(path) for path in left}:
        if blob.parent == folder / "blobs" and _is_inside(blob, folder):
            freed += 0 if blob.is_symlink() else max(0, file_size(blob))
            blob.unlink(missing_ok=True)
    return freed


def _remove_repo(root: Path, folder: Path) -> int:
    files = (entry for part in ("blobs", "snapshots") for entry in files_below(folder / part))
    size = sum(entry.stat().st_size for entry in files if not entry.is_symlink())
    shutil.rmtree(folder)
    shutil.rmtree(locks_folder(root, folder), ignore_errors=True)
    return size


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether no folder on the way to a path is a link that leads out."""
    return path.parent.resolve().is_relative_to(folder.resolve())
