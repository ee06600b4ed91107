"""The models in the Hugging Face cache on disk, by the names that llama.cpp gives them.

The one idea: nothing is remembered beside the disk, because llama.cpp and huggingface_hub change the same cache. `find`
reads one repository each time. `Cache` lists all models, and reads again only repositories whose folders changed.

Models are named as llama.cpp names them (common/download.cpp): `user/repo:QUANT`. Those of another ref than `main` are
`user/repo:QUANT@REF`. The catalog is built from these entries (`models`).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from router import files
from router.hub import repo as repos
from router.hub.layout import gguf_sizes, refs_of, repo_folder, repo_names, snapshot_of, walk
from router.hub.names import MAIN, Name, name_or_none

# Two changes of a folder within one tick of the kernel's clock have the same time.
CLOCK_TICK_NS = 50_000_000
# Instead of the time of a change:
NOT_THERE = -1
TOO_RECENT = -2  # another change could have the same time, so the path counts as changed


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One model in the cache.

    `files` are its shards, first one first.
    `bytes` is the size of the shards, without the companions.
    `draft` is there only if a kind of drafting was given.
    """

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
            return files.expanded(value) / below
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return (Path(home) if home else files.home()) / ".cache/huggingface/hub"


def repo_and_quant(name: str) -> tuple[str, str | None] | None:
    """`user/repo[:quant]` as (repo, quant); None for other text, and for a name with another revision than `main`.

    Does not touch the disk.
    """
    parsed = name_or_none(name)
    return (parsed.repo, parsed.quant) if parsed and parsed.revision == MAIN else None


def is_file_of(file: Path, name: str) -> bool:
    """Whether a file lies in a cache, in the folder of the repository that `name` means. Does not touch the disk."""
    parsed = name_or_none(name)
    return parsed is not None and repo_folder(Path(), parsed.repo).name in file.parts


def find(root: Path, name: str, file: str | None = None, *, drafting: str | None = None) -> CacheEntry | None:
    """The cached model that `user/repo[:quant][@revision]` means (see `repo.pick`), or the model whose first file is at
    the path `file` in the repository; None if it is not in the cache.

    `drafting` is one of `repo.DRAFTS`: the entry then has the draft model too.
    """
    parsed = name_or_none(name)
    snapshot = snapshot_of(root, parsed) if parsed else None
    if parsed is None or snapshot is None:
        return None
    sizes = dict(gguf_sizes(snapshot))
    first = repos.pick(sizes, parsed.quant) if file is None else repos.by_path(sizes, file)
    return _entry(parsed, snapshot, sizes, first, drafting) if first else None


def entries_of_repo(root: Path, repo: str) -> Iterator[CacheEntry]:
    """The models of one repository, those of `main` first, in the order of their paths.

    If there is no `main`, the models of the first ref have their plain name too, as in llama.cpp.
    """
    refs = list(refs_of(repo_folder(root, repo)))
    for number, (ref, snapshot) in enumerate(refs):
        sizes = dict(gguf_sizes(snapshot))
        for revision in dict.fromkeys((ref if number else MAIN, ref)):
            for first in repos.first_shards(sizes):
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
    draft = repos.draft_model(first, sizes, drafting) if drafting else None
    return CacheEntry(
        str(Name(name.repo, repos.quant_of(first), name.revision)),
        tuple(snapshot / file for file in files),
        snapshot / mmproj if mmproj else None,
        sum(sizes[file] for file in files),
        snapshot / draft if draft else None,
    )


class Cache:
    """All models in a cache; only repositories that changed are read again. Threads may share it.

    ::

        cache = Cache(cache_root(os.environ))
        for entry in cache.entries():  # "user/repo:Q8_0", its files, its bytes
            ...
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._repos: dict[str, _RepoEntries] = {}
        self._root_stamps = Stamps({})
        self._looked_at: float | None = None
        self._entries: tuple[CacheEntry, ...] = ()

    def __repr__(self) -> str:
        return f"<Cache {self.root}: {len(self._entries)} models in {len(self._repos)} repositories>"

    def entries(self, max_age: float = 1.0) -> tuple[CacheEntry, ...]:
        """The models, sorted by name; the same object while nothing changes; empty if there is no cache.

        Not listed are files that cannot be read, models that lack a shard, and, as in llama.cpp, files whose name has
        no quant; `find` knows the last. Blocks. The disk is not looked at if it was within the last `max_age` seconds.
        """
        with self._lock:
            if self._looked_at is None or time.monotonic() - self._looked_at >= max_age:
                self._refresh()
                self._looked_at = time.monotonic()
            return self._entries

    def _refresh(self) -> None:
        names = list(self._repos)
        if not self._root_stamps.are_current() or self._looked_at is None:
            self._root_stamps = Stamps.of([str(self.root)])
            names = [repo for repo in repo_names(self.root) if repo_and_quant(repo)]
        known = {name: self._repos.get(name) for name in names}
        fresh = {name: one if one and one.stamps.are_current() else self._read(name) for name, one in known.items()}
        if fresh != self._repos:
            self._repos = fresh
            entries = _listed(entry for one in fresh.values() for entry in one.entries)
            self._entries = self._entries if entries == self._entries else entries

    def _read(self, repo: str) -> _RepoEntries:
        # The times before the files: a change in between is then seen the next time.
        stamps = Stamps.of(_watched_paths(repo_folder(self.root, repo)))
        return _RepoEntries(tuple(entries_of_repo(self.root, repo)), stamps)


@dataclass(frozen=True, slots=True)
class Stamps:
    """When paths last changed, in ns; or NOT_THERE, or TOO_RECENT."""

    times: Mapping[str, int]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Stamps:
        now = time.time_ns()
        times = {path: _change_time(path) for path in paths}
        return cls({path: when if now - when > CLOCK_TICK_NS else TOO_RECENT for path, when in times.items()})

    def are_current(self) -> bool:
        return all(_change_time(path) == when for path, when in self.times.items())


@dataclass(frozen=True, slots=True)
class _RepoEntries:
    """The models of one repository, and the stamps of all paths that change when the models do."""

    entries: tuple[CacheEntry, ...]
    stamps: Stamps


def _watched_paths(folder: Path) -> Iterator[str]:
    """The paths that change when the models of a repository do."""
    refs = folder / "refs"
    yield from (str(folder / part) for part in ("blobs", "snapshots", "refs"))
    for top in (refs, *(snapshot for _, snapshot in refs_of(folder))):
        yield str(top)
        yield from (entry.path for entry in walk(top) if top is refs or entry.is_dir(follow_symlinks=False))


def _change_time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return NOT_THERE


def _listed(entries: Iterable[CacheEntry]) -> tuple[CacheEntry, ...]:
    """The first entry of each name, without entries whose name has no quant."""
    named: dict[str, CacheEntry] = {}
    for entry in entries:
        named.setdefault(entry.name, entry)
    return tuple(named[name] for name in sorted(named) if ":" in name)
