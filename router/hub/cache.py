"""The Hugging Face cache on disk: what is there, what a download adds to it, what goes.

It is the cache that huggingface_hub and llama.cpp share: `models--USER--REPO/snapshots/COMMIT/FILE` are links into
`blobs`, whose files are named by their content, and `refs/main` names the commit. Entries are named as llama.cpp names
them (common/download.cpp); those of another ref than `main` as `user/repo:QUANT@REF`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from router import files as regular
from router.errors import Forbidden, InvalidRequest, RouterError, UnknownModel
from router.hub import repo as repos
from router.hub.repo import MAIN, PRESET, REVISION, File, Listing, Name, Resolved

COMMIT = re.compile(r"[0-9a-fA-F]{40}")
# Two changes of a folder within a tick of the kernel's clock have one time.
TICK = 50_000_000  # ns


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One model in the cache. `files` are its shards, first one first; `bytes` is their size without the companions.
    `draft` is there only if it was asked for."""

    name: str
    files: tuple[Path, ...]
    mmproj: Path | None
    bytes: int
    draft: Path | None = None

    @property
    def repo(self) -> str:
        return re.split("[:@]", self.name)[0]


def cache_root(environ: Mapping[str, str]) -> Path:
    """Where the cache is, by the same variables in the same order as llama.cpp (common/hf-cache.cpp)."""
    for variable, below in (
        ("LLAMA_CACHE", ""),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if value := environ.get(variable):
            return Path(value).expanduser() / below
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return (Path(home) if home else Path.home()) / ".cache/huggingface/hub"


def split(name: str) -> tuple[str, str | None] | None:
    """`user/repo[:quant]` as (repo, quant); None when it is no such name, or one of another revision than `main`.
    Nothing on disk is touched."""
    parsed = _parsed(name)
    return (parsed.repo, parsed.quant) if parsed and parsed.revision == MAIN else None


def find(root: Path, name: str, file: str | None = None, *, drafting: str | None = None) -> CacheEntry | None:
    """The cached model that `user/repo[:quant][@revision]` means (see `repo.pick`), or the repository's `file` (a
    path), with the draft model for a kind of `drafting` (see `repo.DRAFTS`); None if it is not there."""
    parsed = _parsed(name)
    snapshot = _snapshot(root, parsed) if parsed else None
    if parsed is None or snapshot is None:
        return None
    sizes = dict(_files(snapshot))
    first = repos.pick(sizes, parsed.quant) if file is None else repos.named(sizes, file)
    return _entry(parsed, snapshot, sizes, first, drafting) if first else None


class Cache:
    """All models in a cache; only repositories that changed are read again. Threads may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._repos: dict[str, _Seen] = {}
        self._root = _Seen((), {})
        self._looked: float | None = None
        self._entries: tuple[CacheEntry, ...] = ()

    def entries(self, max_age: float = 1.0) -> tuple[CacheEntry, ...]:
        """Sorted by name, the same object while nothing changes; empty when there is no cache. Left out is what cannot
        be read, a file whose name tells no quant, as in llama.cpp, which `find` knows, and a model that lacks a shard.
        Blocks; with a `max_age` in seconds the disk is not even looked at when it was within that time."""
        with self._lock:
            if self._looked is None or time.monotonic() - self._looked >= max_age:
                self._look()
                self._looked = time.monotonic()
            return self._entries

    def _look(self) -> None:
        names = list(self._repos)
        if not self._root.is_current() or self._looked is None:
            self._root = _Seen.of((), [str(self.root)])
            names = _repos(self.root)
        seen = {name: self._repos.get(name) for name in names}
        fresh = {name: one if one and one.is_current() else self._read(name) for name, one in seen.items()}
        if fresh != self._repos:
            self._repos = fresh
            entries = _sorted(entry for one in fresh.values() for entry in one.entries)
            self._entries = self._entries if entries == self._entries else entries

    def _read(self, repo: str) -> _Seen:
        # The times before the files: what comes in between is seen the next time.
        seen = _Seen.of((), _watched(_folder(self.root, repo)))
        return _Seen(tuple(_entries(self.root, repo)), seen.times)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read, and the times (ns) of all that changes when it changes; -1 for what is not there."""

    entries: tuple[CacheEntry, ...]
    times: Mapping[str, int]

    @classmethod
    def of(cls, entries: tuple[CacheEntry, ...], paths: Iterable[str]) -> _Seen:
        now = time.time_ns()
        times = {path: _time(path) for path in paths}
        return cls(entries, {path: when if now - when > TICK else -2 for path, when in times.items()})

    def is_current(self) -> bool:
        return all(_time(path) == when for path, when in self.times.items())


def listing(root: Path, name: Name) -> Listing | None:
    """What the cache has of a repository, as the hub would list it; None when it has nothing."""
    snapshot = _snapshot(root, name)
    if snapshot is None:
        return None
    files = tuple(File(path, size, _oid(snapshot / path) or path.name) for path, size in _files(snapshot))
    return Listing(name.repo, name.revision, snapshot.name, files)


def preset(root: Path, name: Name) -> Path | None:
    """The preset file of a repository."""
    snapshot = _snapshot(root, name)
    return snapshot / PRESET if snapshot and (snapshot / PRESET).is_file() else None


def held(root: Path, listing: Listing, file: File) -> int:
    """How many bytes of a file are in the cache; all of them only if it is whole."""
    folder = _folder(root, listing.repo)
    blob = folder / "blobs" / file.oid
    whole = (blob, folder / "snapshots" / listing.commit / file.path)
    if any(_size(path) == file.size for path in whole):
        return file.size
    return max(0, min(_size(part_of(blob)), file.size - 1))


def blob_of(root: Path, repo: str, oid: str) -> Path:
    return _folder(root, repo) / "blobs" / oid


def part_of(blob: Path) -> Path:
    """Where a blob grows until it is whole."""
    return blob.with_name(f"{blob.name}.incomplete")


def lock_of(root: Path, repo: str, oid: str) -> Path:
    """What huggingface_hub holds while it downloads a blob."""
    return root / ".locks" / _folder(root, repo).name / f"{oid}.lock"


def place(root: Path, resolved: Resolved) -> None:
    """Make a model whose blobs are whole visible: its files in the snapshot, then the ref that names it.

    Where the ref moves to another commit, what did not change between the two stays visible.
    """
    wanted = resolved.listing
    folder = _folder(root, wanted.repo)
    before = _snapshot(root, Name(wanted.repo, revision=wanted.revision))
    is_named = before == folder / "snapshots" / wanted.commit and not COMMIT.fullmatch(wanted.revision)
    if is_named and before and all((before / file.path).exists() for file in resolved.wanted):
        return
    kept = (file for file in wanted.files if before and _oid(before / file.path) == file.oid)
    for file in (*resolved.wanted, *kept):
        _link(folder / "blobs" / file.oid, folder / "snapshots" / wanted.commit / file.path)
    _write(folder / "refs" / wanted.revision, wanted.commit)


def remove(root: Path, name: Name) -> int:
    """Delete a model from the cache, or with `user/repo` alone all of a repository; the bytes that this freed.

    A blob stays while another file, or another ref, uses it; a projector or draft while a model is left. Nothing
    outside of the repository's folder is touched. Raises UnknownModel, Forbidden for a folder that is a link.
    """
    folder = _folder(root, name.repo)
    if folder.is_symlink():
        raise Forbidden(f"{folder} is a link: remove by hand what it leads to")
    try:
        if name == Name(name.repo) and folder.is_dir():
            return _remove_all(root, folder)
        snapshot, entry = _snapshot(root, name), find(root, str(name))
        if snapshot is None or entry is None:
            raise UnknownModel(f"{name} is not in the cache {root}; GET /v1/models lists what is")
        return _remove(root, folder, snapshot, _doomed(snapshot, entry))
    except OSError as error:
        raise RouterError(f"{name} cannot be removed ({error.strerror}: {error.filename})") from error


def is_in(file: Path, name: str) -> bool:
    """Whether a file is in a cache, and in the repository of that name there."""
    parsed = _parsed(name)
    return parsed is not None and _folder(Path(), parsed.repo).name in file.parts


def exact(root: Path, name: Name) -> Name:
    """With the quant of the only model in the cache that `user/repo` means. Raises UnknownModel, InvalidRequest where
    there are several."""
    found = {entry.name for entry in _entries(root, name.repo) if Name.parse(entry.name).revision == name.revision}
    if name.quant is None and len(found) > 1:
        raise InvalidRequest(f"which one? The cache has {', '.join(sorted(found))}")
    entry = find(root, str(name))
    if entry is None:
        raise UnknownModel(f"{name} is not in the cache {root}; llama-router list tells what is")
    return Name.parse(entry.name)


def _doomed(snapshot: Path, entry: CacheEntry) -> set[PurePosixPath]:
    """The entry's files; all GGUFs of the snapshot if none of what is left is a model."""
    files = {path for path, _ in _files(snapshot)}
    own = {PurePosixPath(file.relative_to(snapshot)) for file in entry.files}
    return own if repos.models(files - own) else files


def _remove(root: Path, folder: Path, snapshot: Path, doomed: set[PurePosixPath]) -> int:
    """From the snapshot and from those that no ref names any more, as they would keep the blobs."""
    named = {other for _, other in _refs(folder) if other != snapshot}
    snapshots = [Path(one.path) for one in _listed(folder / "snapshots") if Path(one.path) not in named]
    links = [one / path for one in snapshots for path in doomed if _is_inside(one / path, folder)]
    blobs = {blob for link in links if (blob := _target(link))}
    freed = 0
    for link in links:
        freed += link.stat().st_size if link.is_file() and not link.is_symlink() else 0
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            for parent in list(link.relative_to(folder / "snapshots").parents)[:-1]:
                (folder / "snapshots" / parent).rmdir()
    left = [Path(entry.path) for entry in _files_in(folder / "snapshots")]
    is_quiet = not any(entry.name.endswith(".incomplete") for entry in _listed(folder / "blobs"))
    if not left and is_quiet:  # else somebody may be downloading another model of it
        return freed + _remove_all(root, folder)
    for blob in blobs - {_target(path) for path in left}:
        if blob.parent == folder / "blobs" and _is_inside(blob, folder):
            freed += 0 if blob.is_symlink() else max(0, _size(blob))
            blob.unlink(missing_ok=True)
    return freed


def _remove_all(root: Path, folder: Path) -> int:
    files = (entry for part in ("blobs", "snapshots") for entry in _files_in(folder / part))
    size = sum(entry.stat().st_size for entry in files if not entry.is_symlink())
    shutil.rmtree(folder)
    shutil.rmtree(root / ".locks" / folder.name, ignore_errors=True)
    return size


def _target(link: Path) -> Path | None:
    """Where a link leads in one step, without following what is there."""
    return Path(os.path.normpath(link.parent / os.readlink(link))) if link.is_symlink() else None


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether no folder on the way to it is a link that leads out."""
    return path.parent.resolve().is_relative_to(folder.resolve())


def _oid(link: Path) -> str | None:
    target = _target(link)
    return target.name if target and link.exists() else None


def _link(blob: Path, link: Path) -> None:
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:  # a Windows or a file system that has no links: as huggingface_hub does there
        temporary = blob
    temporary.replace(link)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _parsed(name: str) -> Name | None:
    try:
        return Name.parse(name)
    except InvalidRequest:
        return None


def _sorted(entries: Iterable[CacheEntry]) -> tuple[CacheEntry, ...]:
    """The first of each name, without those whose name tells no quant."""
    named: dict[str, CacheEntry] = {}
    for entry in entries:
        named.setdefault(entry.name, entry)
    return tuple(named[name] for name in sorted(named) if ":" in name)


def _folder(root: Path, repo: str) -> Path:
    return root / f"models--{repo.replace('/', '--')}"


def _repos(root: Path) -> list[str]:
    folders = (entry.name for entry in _listed(root) if entry.name.startswith("models--"))
    found = (folder.removeprefix("models--").replace("--", "/") for folder in sorted(folders))
    return [repo for repo in found if split(repo)]


def _entries(root: Path, repo: str) -> Iterator[CacheEntry]:
    """The models of one repository, those of `main` first, in the order of their paths.

    Where there is no `main`, those of the first ref have its plain name too, which llama.cpp gives them.
    """
    refs = list(_refs(_folder(root, repo)))
    for number, (ref, snapshot) in enumerate(refs):
        sizes = dict(_files(snapshot))
        for revision in dict.fromkeys((ref if number else MAIN, ref)):
            for first in repos.models(sizes):
                if entry := _entry(Name(repo, revision=revision), snapshot, sizes, first):
                    yield entry


def _entry(
    name: Name,
    snapshot: Path,
    sizes: Mapping[PurePosixPath, int],
    first: PurePosixPath,
    drafting: str | None = None,
) -> CacheEntry | None:
    files = repos.shards(first, sizes)
    if not files:
        return None
    mmproj = repos.projector(first, sizes)
    draft = repos.draft(first, sizes, drafting) if drafting else None
    return CacheEntry(
        str(Name(name.repo, repos.tag(first), name.revision)),
        tuple(snapshot / file for file in files),
        snapshot / mmproj if mmproj else None,
        sum(sizes[file] for file in files),
        snapshot / draft if draft else None,
    )


def _snapshot(root: Path, name: Name) -> Path | None:
    """The folder of the commit that the revision names; without `main` that of the first ref."""
    folder = _folder(root, name.repo)
    refs = dict(_refs(folder))
    if found := refs.get(name.revision):
        return found
    if COMMIT.fullmatch(name.revision) and (folder / "snapshots" / name.revision).is_dir():
        return folder / "snapshots" / name.revision
    return next(iter(refs.values()), None) if name.revision == MAIN else None


def _refs(folder: Path) -> Iterator[tuple[str, Path]]:
    """The refs whose commits are there, `main` first."""
    found = ((_below(folder / "refs", entry), entry.path) for entry in _files_in(folder / "refs"))
    for ref, path in sorted(found, key=lambda one: (one[0] != MAIN, one[0])):
        if not REVISION.fullmatch(ref):
            continue
        try:
            commit = regular.start(path, 100).decode("ascii", "replace").strip()
        except OSError:
            continue
        if COMMIT.fullmatch(commit) and os.path.isdir(folder / "snapshots" / commit):
            yield ref, folder / "snapshots" / commit


def _files(snapshot: Path) -> Iterator[tuple[PurePosixPath, int]]:
    for entry in _files_in(snapshot):
        if entry.name.endswith(".gguf"):
            try:
                yield PurePosixPath(_below(snapshot, entry)), entry.stat().st_size
            except OSError:
                continue  # a link whose blob is gone or not yet there


def _watched(folder: Path) -> Iterator[str]:
    """What changes when the models of a repository do."""
    refs = folder / "refs"
    yield from (str(folder / part) for part in ("blobs", "snapshots", "refs"))
    for top in (refs, *(snapshot for _, snapshot in _refs(folder))):
        yield str(top)
        yield from (entry.path for entry in _walk(top) if top is refs or entry.is_dir(follow_symlinks=False))


def _below(folder: Path, entry: os.DirEntry[str]) -> str:
    return entry.path[len(str(folder)) + 1 :].replace(os.sep, "/")


def _files_in(folder: Path) -> list[os.DirEntry[str]]:
    """All files below a folder, and links, which are not followed."""
    return [entry for entry in _walk(folder) if not entry.is_dir(follow_symlinks=False)]


def _walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    for entry in _listed(folder):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
