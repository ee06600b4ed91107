"""Where things lie in the Hugging Face cache, and walks over its folders.

It is the cache that huggingface_hub and llama.cpp share. `models--USER--REPO/snapshots/COMMIT/FILE` are links into
`blobs`, whose files are named by their content. `refs/REF` holds the commit that a ref names. A folder or a file that
is missing or cannot be read counts as empty. Everything here blocks for some calls of the file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from router import files
from router.hub.names import COMMIT, MAIN, REVISION, Name

COMMIT_FILE_BYTES = 100  # that are read of a file in `refs`
MAX_DEPTH = 32  # of folders; no repository has more


def repo_folder(root: Path, repo: str) -> Path:
    return root / f"models--{repo.replace('/', '--')}"


def repo_names(root: Path) -> list[str]:
    """What the folders in the cache are called as repositories; some may not be names on the hub."""
    folders = (entry.name for entry in entries_of(root) if entry.name.startswith("models--"))
    return [folder.removeprefix("models--").replace("--", "/") for folder in sorted(folders)]


def name_in_cache(root: Path, name: Name) -> Name:
    """The name with its repository as the cache spells it, since the hub takes names in any case; the same name if the
    cache lacks it."""
    if repo_folder(root, name.repo).is_dir():
        return name
    folded = name.repo.casefold()
    return replace(name, repo=next((repo for repo in repo_names(root) if repo.casefold() == folded), name.repo))


def blob_path(root: Path, repo: str, oid: str) -> Path:
    return repo_folder(root, repo) / "blobs" / oid


def partial_path(blob: Path) -> Path:
    """Where a blob grows until it is whole."""
    return blob.with_name(f"{blob.name}.incomplete")


def lock_path(root: Path, repo: str, oid: str) -> Path:
    """The lock that huggingface_hub holds while it downloads a blob."""
    return locks_folder(root, repo_folder(root, repo)) / f"{oid}.lock"


def locks_folder(root: Path, folder: Path) -> Path:
    """The folder of the locks of a repository."""
    return root / ".locks" / folder.name


def snapshot_of(root: Path, name: Name) -> Path | None:
    """The folder of the commit that the name's revision means. Without a ref `main` that of the first ref."""
    folder = repo_folder(root, name.repo)
    refs = dict(refs_of(folder))
    if found := refs.get(name.revision):
        return found
    if COMMIT.fullmatch(name.revision) and (folder / "snapshots" / name.revision).is_dir():
        return folder / "snapshots" / name.revision
    return next(iter(refs.values()), None) if name.revision == MAIN else None


def refs_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The refs of a repository whose snapshots are there, each with its snapshot; `main` first."""
    found = ((relative(folder / "refs", entry), entry.path) for entry in files_below(folder / "refs"))
    for ref, path in sorted(found, key=lambda one: (one[0] != MAIN, one[0])):
        if not REVISION.fullmatch(ref):
            continue
        try:
            commit = files.read_start(path, COMMIT_FILE_BYTES).decode("ascii", "replace").strip()
        except OSError:
            continue
        if COMMIT.fullmatch(commit) and os.path.isdir(folder / "snapshots" / commit):
            yield ref, folder / "snapshots" / commit


def gguf_sizes(snapshot: Path) -> Iterator[tuple[PurePosixPath, int]]:
    """The GGUF files of a snapshot: path below it, and size in bytes."""
    for entry in files_below(snapshot):
        if entry.name.endswith(".gguf"):
            try:
                yield PurePosixPath(relative(snapshot, entry)), entry.stat().st_size
            except FileNotFoundError:
                continue  # a link whose blob is gone or not yet there
            except OSError:
                yield PurePosixPath(relative(snapshot, entry)), 0  # it is there, and loading it tells what is wrong


def oid_of(link: Path) -> str | None:
    """The name of the blob that a link of a snapshot leads to; None if the blob is not there."""
    target = link_target(link)
    return target.name if target and link.exists() else None


def link_target(link: Path) -> Path | None:
    """Where a link leads in one step, without following what is there."""
    return Path(os.path.normpath(link.parent / os.readlink(link))) if link.is_symlink() else None


def relative(folder: Path, entry: os.DirEntry[str]) -> str:
    """The entry's path below a folder, with slashes."""
    return entry.path[len(str(folder)) + 1 :].replace(os.sep, "/")


def files_below(folder: Path) -> list[os.DirEntry[str]]:
    """All files below a folder, and links, which are not followed."""
    return [entry for entry in walk(folder) if not is_folder(entry)]


def walk(folder: str | Path, depth: int = MAX_DEPTH) -> Iterator[os.DirEntry[str]]:
    """What lies below a folder, `depth` folders deep."""
    for entry in entries_of(folder):
        yield entry
        if depth and is_folder(entry):
            yield from walk(entry.path, depth - 1)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder itself, and no link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # its disk or network share has gone
        return False


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def file_size(path: Path) -> int:
    """In bytes; -1 if there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
