"""The models in the Hugging Face cache on disk, by the names that llama.cpp gives them.

The one idea: nothing is remembered beside the disk, because llama.cpp and huggingface_hub change the same cache. `find`
reads one repository each time. `Cache` lists all models, and reads again only repositories whose folders changed.

Models are named as llama.cpp names them (common/download.cpp): `user/repo:QUANT`. Those of another ref than `main` are
`user/repo:QUANT@REF`. The catalog is built from these entries (`models`).
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from router import files, patience
from router.hub import repo as repos
from router.hub.change_times import ChangeTimes
from router.hub.layout import (
    COMMIT_FILE_BYTES,
    gguf_sizes,
    is_folder,
    name_in_cache,
    refs_of,
    relative,
    repo_folder,
    repo_names,
    snapshot_of,
    walk,
)
from router.hub.names import MAIN, Name, name_or_none

log = logging.getLogger("router.catalog")


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
    if parsed is None:
        return None
    parsed = name_in_cache(root, parsed)
    snapshot = snapshot_of(root, parsed)
    if snapshot is None:
        return None
    sizes = dict(gguf_sizes(snapshot))
    first = repos.pick(sizes, parsed.quant) if file is None else repos.by_path(sizes, file)
    if first is None:
        return None
    quant = repos.quants(repos.first_shards(sizes))[first]
    return _entry(replace(parsed, quant=quant), snapshot, sizes, first, drafting)


def entries_of_repo(root: Path, repo: str) -> Iterator[CacheEntry]:
    """The models of one repository, those of `main` first, in the order of their paths.

    If there is no `main`, the models of the first ref have their plain name too, as in llama.cpp.
    """
    refs = list(refs_of(repo_folder(root, repo)))
    for number, (ref, snapshot) in enumerate(refs):
        sizes = dict(gguf_sizes(snapshot))
        for revision in dict.fromkeys((ref if number else MAIN, ref)):
            for first, quant in repos.quants(repos.first_shards(sizes)).items():
                if entry := _entry(Name(repo, quant, revision), snapshot, sizes, first):
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
        str(name),
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
        self._root_times = ChangeTimes({})
        self._said: frozenset[str] = frozenset()
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
        (names,) = patience.each(self._repo_names, [self.root], key=str)
        if isinstance(names, patience.Hung):
            self._say([f"the cache {self.root} does not answer: its disk or network share hangs"])
            return
        # A repository on a disk that hangs stays as it was.
        looked = patience.each(self._look, names, key=lambda name: str(repo_folder(self.root, name)))
        hung = [name for name, one in zip(names, looked, strict=True) if isinstance(one, patience.Hung)]
        fresh = {name: one for name, one in zip(names, looked, strict=True) if isinstance(one, _RepoEntries)}
        fresh |= {name: self._repos[name] for name in hung if name in self._repos}
        self._say(
            [
                *(f"{repo_folder(self.root, name)} does not answer: its disk or network share hangs" for name in hung),
                *(problem for one in fresh.values() for problem in one.problems),
            ]
        )
        if fresh != self._repos:
            self._repos = fresh
            entries = _listed(entry for one in fresh.values() for entry in one.entries)
            self._entries = self._entries if entries == self._entries else entries

    def _repo_names(self, root: Path) -> list[str]:
        if self._root_times.are_current() and self._looked_at is not None:
            return list(self._repos)
        self._root_times = ChangeTimes.of([str(root)])
        return [repo for repo in repo_names(root) if repo_and_quant(repo)]

    def _look(self, repo: str) -> _RepoEntries:
        known = self._repos.get(repo)
        return known if known and known.times.are_current() else self._read(repo)

    def _say(self, problems: Sequence[str]) -> None:
        """Log what is new among the problems."""
        for problem in problems:
            if problem not in self._said:
                log.warning("%s", problem)
        self._said = frozenset(problems)

    def _read(self, repo: str) -> _RepoEntries:
        # The times before the files: a change in between is then seen the next time.
        folder = repo_folder(self.root, repo)
        paths, problems = _survey(folder)
        times = ChangeTimes.of(paths)
        return _RepoEntries(tuple(entries_of_repo(self.root, repo)), times, tuple(problems))


@dataclass(frozen=True, slots=True)
class _RepoEntries:
    """The models of one repository, the times of all paths that change when the models do, and what cannot be read."""

    entries: tuple[CacheEntry, ...]
    times: ChangeTimes
    problems: tuple[str, ...] = ()


def _survey(folder: Path) -> tuple[list[str], list[str]]:
    """The paths that change when the models of a repository do, and what cannot be read, as sentences."""
    refs = folder / "refs"
    paths = [str(folder / part) for part in ("blobs", "snapshots", "refs")]
    problems, read = [], dict(refs_of(folder))
    for top in (refs, *read.values()):
        paths.append(str(top))
        for entry in walk(top):
            if top is refs or is_folder(entry):
                paths.append(entry.path)
                is_unread = top is refs and not is_folder(entry) and relative(refs, entry) not in read
                if is_unread and (problem := _problem_of_ref(entry.path)):
                    problems.append(f"{problem}. The models of this ref are left out")
            elif entry.name.endswith(".gguf") and (problem := _problem_of(entry.path)):
                problems.append(problem)
    problems += [f"{path} may not be read" for path in (str(folder), *paths) if _is_closed(path)]
    return paths, problems


def _problem_of_ref(file: str) -> str | None:
    try:
        files.read_start(file, COMMIT_FILE_BYTES)
    except FileNotFoundError as exc:
        return files.problem_of(file, exc) if os.path.islink(file) else None  # else it has just been removed
    except OSError as exc:
        return files.problem_of(file, exc)
    return None


def _problem_of(file: str) -> str | None:
    try:
        os.stat(file)
    except OSError as exc:
        return files.problem_of(file, exc)
    return None


def _is_closed(path: str) -> bool:
    """Whether it is a folder that this user may not list."""
    return os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)


def _listed(entries: Iterable[CacheEntry]) -> tuple[CacheEntry, ...]:
    """The first entry of each name, without entries whose name has no quant."""
    named: dict[str, CacheEntry] = {}
    for entry in entries:
        named.setdefault(entry.name, entry)
    return tuple(named[name] for name in sorted(named) if ":" in name)
