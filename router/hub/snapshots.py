"""What the cache has of a repository, and how downloaded files become visible in it.

A download writes blobs. `place` then links them into a snapshot and names the snapshot by a ref, all at once at the
end, so that no other program sees half a model. Called by `fetch` and `resolve`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from router.hub.layout import blob_path, file_size, gguf_sizes, oid_of, partial_path, repo_folder, snapshot_of
from router.hub.names import COMMIT, Name
from router.hub.repo import PRESET, File, Listing, Resolved


def listing(root: Path, name: Name) -> Listing | None:
    """The files that the cache has of a repository, as the hub would list them; None if it has none."""
    snapshot = snapshot_of(root, name)
    if snapshot is None:
        return None
    files = tuple(File(path, size, oid_of(snapshot / path) or path.name) for path, size in gguf_sizes(snapshot))
    return Listing(name.repo, name.revision, snapshot.name, files)


def preset(root: Path, name: Name) -> Path | None:
    """The preset file of a repository."""
    snapshot = snapshot_of(root, name)
    return snapshot / PRESET if snapshot and (snapshot / PRESET).is_file() else None


def present_bytes(root: Path, listing: Listing, file: File) -> int:
    """How many bytes of a file are in the cache; all of them only if the file is whole."""
    blob = blob_path(root, listing.repo, file.oid)
    if (size := _whole_bytes(root, listing, file)) is not None:
        return size
    part = file_size(partial_path(blob))
    return max(0, min(part, file.size - 1) if file.size else part)


def is_whole(root: Path, listing: Listing, file: File) -> bool:
    """Whether the cache has the file."""
    return _whole_bytes(root, listing, file) is not None


def _whole_bytes(root: Path, listing: Listing, file: File) -> int | None:
    """The size of a file that is whole in the cache; None if it is not."""
    snapshot = repo_folder(root, listing.repo) / "snapshots" / listing.commit
    for path in (blob_path(root, listing.repo, file.oid), snapshot / file.path):
        size = file_size(path)
        if size == file.size or (size > 0 and not file.size):
            return size
    return None


def missing_bytes(root: Path, resolved: Resolved) -> int:
    """How many bytes of a model are still to be downloaded."""
    return sum(max(0, file.size - present_bytes(root, resolved.listing, file)) for file in resolved.all_files)


def place(root: Path, resolved: Resolved) -> None:
    """Make a model whose blobs are whole visible: link its files into the snapshot, then write the ref that names it.

    If the ref moves to another commit, files that did not change between the two stay visible. Raises OSError.
    """
    listing = resolved.listing
    folder = repo_folder(root, listing.repo)
    before = snapshot_of(root, Name(listing.repo, revision=listing.revision))
    has_ref = before == folder / "snapshots" / listing.commit and not COMMIT.fullmatch(listing.revision)
    if has_ref and before and all((before / file.path).exists() for file in resolved.all_files):
        return
    unchanged = (file for file in listing.files if before and oid_of(before / file.path) == file.oid)
    for file in (*resolved.all_files, *unchanged):
        _link(folder / "blobs" / file.oid, folder / "snapshots" / listing.commit / file.path)
    _write(folder / "refs" / listing.revision, listing.commit)


def _link(blob: Path, link: Path) -> None:
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:  # Windows, or a file system without links: the blob itself moves, as huggingface_hub does there
        temporary = blob
    temporary.replace(link)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
