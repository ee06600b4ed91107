"""Models in the Hugging Face cache: what is there, and which file `user/repo:QUANT` means.

The cache is the one that huggingface_hub and llama.cpp share: `models--USER--REPO/snapshots/COMMIT/FILE`, with
`refs/main` naming the commit. Entries are named as llama.cpp names them (common/download.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_QUANT = "Q4_K_M"

# Hub id syntax: `-` and `.` only between word characters, which also rules out `..` and hidden folders.
NAME = re.compile(r"(?P<repo>\w+(?:[.-]\w+)*/\w+(?:[.-]\w+)*)(?::(?P<quant>\w+(?:[.-]\w+)*))?", re.ASCII)
LONGEST = 256

COMMIT = re.compile(r"[0-9a-fA-F]{40}")
SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")
QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)$")
COMPANION = re.compile(r"mmproj|imatrix|mtp-|eagle3-|dflash-|dspark-")  # no models by themselves


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One model in the cache. `files` are its shards, first one first; `bytes` is their size without the projector."""

    name: str
    files: tuple[Path, ...]
    mmproj: Path | None
    bytes: int

    @property
    def repo(self) -> str:
        return self.name.partition(":")[0]


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
    """`user/repo[:quant]` as (repo, quant); None when it is no such name. Nothing on disk is touched."""
    match = NAME.fullmatch(name) if len(name) <= LONGEST else None
    return (match["repo"], match["quant"]) if match else None


def scan(root: Path) -> tuple[CacheEntry, ...]:
    """All models in the cache, sorted by name; empty when there is no cache. What cannot be read is left out.

    A file whose name tells no quant is left out too, as in llama.cpp; `find` knows it.
    """
    folders = (folder.name.removeprefix("models--") for folder in _listed(root, "models--*--*"))
    repos = (folder.replace("--", "/") for folder in folders)
    entries: dict[str, CacheEntry] = {}
    for entry in (entry for repo in repos if split(repo) for entry in _entries(root, repo)):
        entries.setdefault(entry.name, entry)
    return tuple(entries[name] for name in sorted(entries) if ":" in name)


def find(root: Path, name: str, file: str | None = None) -> CacheEntry | None:
    """The cached model that `user/repo[:quant]` means, or the repository's `file` (a path); None if it is not there.

    A quant matches whole words of a file's name: `f16` is not `bf16`, `Q4_K` is not `Q4_K_M`. Without a quant it is
    Q4_K_M, else the first file.
    """
    parts = split(name)
    if parts is None:
        return None
    repo, quant = parts
    entries = _entries(root, repo)
    if file is not None:
        return next((entry for entry in entries if entry.files[0].as_posix().endswith(f"/{file}")), None)
    word = re.compile(rf"(?<!\w){re.escape(quant or DEFAULT_QUANT)}(?=[.-])", re.IGNORECASE | re.ASCII)
    match = next((entry for entry in entries if word.search(entry.files[0].name)), None)
    return match or (entries[0] if entries and quant is None else None)


def _entries(root: Path, repo: str) -> list[CacheEntry]:
    """The models of one repository in the order of their paths."""
    snapshot = _snapshot(root / f"models--{repo.replace('/', '--')}")
    if snapshot is None:
        return []
    sizes = dict(_files(snapshot))
    entries = []
    for path in sizes:
        stem, index, _ = _parse(path)
        if index != 1 or COMPANION.search(path.name):
            continue
        quant = QUANT.search(stem)
        files = _shards(path, sizes)
        size = sum(sizes[file] for file in files)
        entries.append(
            CacheEntry(f"{repo}:{quant[1].upper()}" if quant else repo, files, _projector(path, sizes), size)
        )
    return entries


def _snapshot(repo: Path) -> Path | None:
    """The folder of the commit that `refs/main` names, or any other ref."""
    for ref in sorted(_listed(repo / "refs", "*"), key=lambda ref: (ref.name != "main", ref.name)):
        try:
            commit = ref.read_text("ascii", "replace").strip()
        except OSError:
            continue
        if COMMIT.fullmatch(commit) and (repo / "snapshots" / commit).is_dir():
            return repo / "snapshots" / commit
    return None


def _files(snapshot: Path) -> Iterator[tuple[Path, int]]:
    for path in _listed(snapshot, "**/*.gguf"):
        try:
            yield path, path.stat().st_size
        except OSError:
            continue  # a link whose blob is gone or not yet there


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _parse(path: Path) -> tuple[str, int, int]:
    """The file's name without shard number and ending, which shard it is, and of how many."""
    stem = path.name.removesuffix(".gguf")
    match = SHARD.fullmatch(stem)
    return (match["stem"], int(match["index"]), int(match["count"])) if match else (stem, 1, 1)


def _shards(first: Path, files: Mapping[Path, int]) -> tuple[Path, ...]:
    stem, _, count = _parse(first)
    same = (file for file in files if file.parent == first.parent)
    return tuple(file for file in same if _parse(file)[0] == stem and _parse(file)[2] == count)


def _projector(model: Path, files: Mapping[Path, int]) -> Path | None:
    """The projector nearest to the model: the same folder before one above it, then F16 before others."""
    projectors = [file for file in files if "mmproj" in file.name and file.parent in model.parents]
    f16 = re.compile(r"(?<![A-Za-z])f16\.gguf$", re.IGNORECASE)
    return min(projectors, key=lambda file: (-len(file.parts), f16.search(file.name) is None, file.name), default=None)
