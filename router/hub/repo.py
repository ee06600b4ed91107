"""PURE: which files of a repository on the hub are a model.

The one idea: a file's name says what the file is, as in llama.cpp (common/download.cpp). Shards end in
`-00001-of-00003`. Projectors have `mmproj` in their names. Draft models have a kind of drafting in their names. The
last word of a name is its quant. Paths are relative to the repository.

`resolve` chooses among the files that the hub lists, `cache` among the files on disk, both by these rules.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from router.hub.names import Name

PRESET = "preset.ini"  # in the root of a repository, as in llama.cpp
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")

SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")
QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)$")
LONG_QUANT = re.compile(r"[-.]([A-Za-z0-9_]+-[A-Za-z0-9_]+)$")
DRAFTS = ("mtp", "dflash", "eagle3", "dspark")  # kinds of drafting, in the order in which the engine looks for them
COMPANION = re.compile(rf"mmproj|imatrix|(?:{'|'.join(DRAFTS)})-")  # files that are no models by themselves
F16 = re.compile(r"(?<![A-Za-z])f16\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a repository.

    `size` is 0 if the hub, a mirror, does not tell it.
    `oid` names the content: sha256, 64 digits, of files that are stored as LFS, as GGUFs are; else git's, 40 digits.
    """

    path: PurePosixPath
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The GGUF files of a repository, and its preset file, at the commit that `revision` names."""

    repo: str
    revision: str
    commit: str
    files: tuple[File, ...]
    preset: File | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The files that a name means.

    `name` is the name under which the cache will list the model.
    `files` are the model's shards, first one first.
    `draft` is there only if a kind of drafting was given.
    """

    listing: Listing
    name: str
    quant: str | None
    files: tuple[File, ...]
    mmproj: File | None = None
    draft: File | None = None

    @property
    def all_files(self) -> tuple[File, ...]:
        """The shards and their companions."""
        return (*self.files, *filter(None, (self.mmproj, self.draft)))

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.all_files)


def choose(
    listing: Listing,
    quant: str | None,
    file: str | None = None,
    *,
    drafting: str | None = None,
    beside: Collection[PurePosixPath] = (),
) -> Resolved | None:
    """The model of a repository with this quant (see `pick`), or the model whose first file is at the path `file`.

    Its companions come along; the draft model only for a kind of `drafting`, one of DRAFTS. `beside` are the first
    shards that the cache has of this repository: see `quants`. None if there is no such model.
    """
    files = {file.path: file for file in listing.files}
    first = pick(files, quant) if file is None else by_path(files, file)
    return _assembled(listing, files, first, drafting, beside) if first else None


def all_models(listing: Listing) -> list[Resolved]:
    """All models of a repository, the smallest first."""
    files = {file.path: file for file in listing.files}
    found = filter(None, (_assembled(listing, files, first, None) for first in first_shards(files)))
    return sorted(found, key=lambda model: model.bytes)


def _assembled(
    listing: Listing,
    files: Mapping[PurePosixPath, File],
    first: PurePosixPath,
    drafting: str | None,
    beside: Collection[PurePosixPath] = (),
) -> Resolved | None:
    paths = shards(first, files)
    if not paths:
        return None
    mmproj = projector(first, files)
    draft = draft_model(first, files, drafting) if drafting else None
    quant = quants([*beside, first])[first]
    return Resolved(
        listing,
        str(Name(listing.repo, quant, listing.revision)),
        quant_of(first),
        tuple(files[path] for path in paths),
        files[mmproj] if mmproj else None,
        files[draft] if draft else None,
    )


def first_shards(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """The first shard of each model, in the order of the paths."""
    return sorted(path for path in paths if _shard_of(path)[1] == 1 and _is_model(path))


def shards(first: PurePosixPath, paths: Iterable[PurePosixPath]) -> tuple[PurePosixPath, ...]:
    """All files of the model in their order; none if one of them is missing."""
    stem, _, count = _shard_of(first)
    found = sorted(path for path in paths if path.parent == first.parent and _shard_of(path)[::2] == (stem, count))
    return tuple(found) if len(found) == count else ()


def quant_of(path: PurePosixPath) -> str | None:
    """The quant that the last word of a file's name is, as models are listed."""
    match = QUANT.search(_shard_of(path)[0])
    return match[1].upper() if match else None


def quants(firsts: Collection[PurePosixPath]) -> dict[PurePosixPath, str | None]:
    """The quant that each model of a folder is listed with: its file's last word, as in llama.cpp.

    If several files end with the same word, `pick` says which of them has it for its name; the others are listed with
    the word before it too, as `UD-Q4_K_XL`.
    """
    by_quant: dict[str | None, list[PurePosixPath]] = {}
    for path in dict.fromkeys(firsts):
        by_quant.setdefault(quant_of(path), []).append(path)
    found: dict[PurePosixPath, str | None] = {}
    for quant, paths in by_quant.items():
        plain = pick(paths, quant) if quant else None
        for path in paths:
            words = LONG_QUANT.search(_shard_of(path)[0]) if path != plain else None
            found[path] = words[1].upper() if words else quant
    return found


def is_of_quant(path: PurePosixPath, quant: str) -> bool:
    """Whether a model's first shard has the quant as a word in its path, prefix and all."""
    return _best_match([path], quant) is not None


def pick(paths: Collection[PurePosixPath], quant: str | None) -> PurePosixPath | None:
    """The first shard of the model that a quant means.

    A quant is whole words, in any case: `f16` is not `bf16`, `Q4_K` is not `Q4_K_M`. No quant means Q4_K_M, else Q8_0,
    else the first model.
    """
    found = first_shards(paths)
    picked = next(filter(None, (_best_match(found, word) for word in ([quant] if quant else DEFAULT_QUANTS))), None)
    return picked or (found[0] if found and quant is None else None)


def by_path(paths: Iterable[PurePosixPath], file: str) -> PurePosixPath | None:
    """The first shard of the model whose first file has this path, or a path that ends with it."""
    return next((path for path in first_shards(paths) if f"/{path}".endswith(f"/{file}")), None)


def _best_match(paths: Iterable[PurePosixPath], quant: str) -> PurePosixPath | None:
    """The path with the quant at the end of its name, else as a word in its name, else as a folder.

    Of two names that differ in a prefix of the quant, the one without the prefix: `Q4_K_XL` is not `UD-Q4_K_XL`.
    """
    word = re.compile(rf"(?<!\w){re.escape(quant)}(?=[./-]|$)", re.IGNORECASE | re.ASCII)

    def places(path: PurePosixPath) -> tuple[bool, bool, bool]:
        stem = _shard_of(path)[0]
        ends = any(match.end() == len(stem) for match in word.finditer(stem))
        return ends, word.search(path.name) is not None, word.search(path.as_posix()) is not None

    def head(path: PurePosixPath) -> str:
        return word.split(_shard_of(path)[0])[0].upper()

    found = {path: places(path) for path in paths}
    highest = max(found.values(), default=(False,))
    if not any(highest):
        return None
    best = {path: head(path) for path in found if found[path] == highest}
    return next(path for path, own in best.items() if not any(own.startswith(h) and own != h for h in best.values()))


def projector(model: PurePosixPath, paths: Iterable[PurePosixPath]) -> PurePosixPath | None:
    """The vision projector nearest to the model: the same folder before one above it, then F16 before others."""
    found = [path for path in paths if "mmproj" in path.name and path.parent in model.parents]
    return min(found, key=lambda path: (-len(path.parts), F16.search(path.name) is None, path.name), default=None)


def draft_model(model: PurePosixPath, paths: Iterable[PurePosixPath], drafting: str) -> PurePosixPath | None:
    """The draft model for a kind of drafting that is nearest to the model; one of the same quant before others."""
    found = [path for path in paths if f"{drafting}-" in path.name and path.parent in model.parents]
    return min(found, key=lambda path: (-len(path.parts), quant_of(path) != quant_of(model), path.name), default=None)


def _is_model(path: PurePosixPath) -> bool:
    return path.suffix == ".gguf" and not COMPANION.search(path.name)


def _shard_of(path: PurePosixPath) -> tuple[str, int, int]:
    """The file's name without shard number and ending, which shard it is, and the number of shards."""
    stem = path.name.removesuffix(".gguf")
    match = SHARD.fullmatch(stem)
    return (match["stem"], int(match["index"]), int(match["count"])) if match else (stem, 1, 1)
