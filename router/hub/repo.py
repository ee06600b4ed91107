"""PURE: names on the Hugging Face hub, and which files of a repository they mean.

What a file is, its name tells, as in llama.cpp (common/download.cpp): shards end in `-00001-of-00003`, projectors have
`mmproj` in their names, drafts a kind of drafting, and the last word of a name is its quant. Paths are relative to
the repository.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from router.errors import InvalidRequest

MAIN = "main"
PRESET = "preset.ini"  # in the root of a repository, as in llama.cpp
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")

# Hub id syntax: `-` and `.` only between word characters, which also rules out `..` and hidden folders.
_PART = r"(?=[^/:@]{1,96}(?:[/:@]|$))\w+(?:[.-]\w+)*"
_REVISION = r"(?=.{1,96}$)\w+(?:[./-]\w+)*"
NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<quant>{_PART}))?(?:@(?P<revision>{_REVISION}))?", re.ASCII)
REVISION = re.compile(_REVISION, re.ASCII)
LONGEST = 400
SHOWN = 60  # characters of a wrong name that its error repeats

SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")
QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)$")
DRAFTS = ("mtp", "dflash", "eagle3", "dspark")  # kinds of drafting, in the order in which the engine looks for them
COMPANION = re.compile(rf"mmproj|imatrix|(?:{'|'.join(DRAFTS)})-")  # no models by themselves
F16 = re.compile(r"(?<![A-Za-z])f16\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Name:
    """`user/repo[:quant][@revision]`; a revision is a branch, a tag, or a commit."""

    repo: str
    quant: str | None = None
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises InvalidRequest for what is no such name. Nothing on disk or on the network is touched."""
        match = NAME.fullmatch(text) if len(text) <= LONGEST else None
        if match is None:
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            raise InvalidRequest(
                f"{shown!r} is no name of a model on the hub: write user/repo, user/repo:QUANT or "
                "user/repo:QUANT@REVISION, each part up to 96 letters, digits, _ and, between them, - or ."
            )
        return cls(match["repo"], match["quant"], match["revision"] or MAIN)

    def __str__(self) -> str:
        quant = f":{self.quant}" if self.quant else ""
        return f"{self.repo}{quant}" + (f"@{self.revision}" if self.revision != MAIN else "")


def bare(name: str) -> str:
    """Without the host that Ollama's clients put before what is on the hub."""
    return name.removeprefix("hf.co/").removeprefix("huggingface.co/")


@dataclass(frozen=True, slots=True)
class File:
    """`oid` names its content: sha256 of what is stored as LFS, 64 digits, as GGUFs are; else git's, 40 digits."""

    path: PurePosixPath
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The GGUF files of a repository at one commit, to which `revision` led, and its preset file."""

    repo: str
    revision: str
    commit: str
    files: tuple[File, ...]
    preset: File | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means: `files` are the model's shards, first one first; `draft` only if one was asked for. `name` is
    what the cache will list it as."""

    listing: Listing
    name: str
    quant: str | None
    files: tuple[File, ...]
    mmproj: File | None = None
    draft: File | None = None

    @property
    def wanted(self) -> tuple[File, ...]:
        return (*self.files, *filter(None, (self.mmproj, self.draft)))

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.wanted)


def choose(
    listing: Listing, quant: str | None, file: str | None = None, *, drafting: str | None = None
) -> Resolved | None:
    """The model of a repository that a quant (see `pick`) or the path of a `file` means, with its companions; None when
    there is none. `drafting` is one of DRAFTS, for which a draft model comes along."""
    files = {file.path: file for file in listing.files}
    first = pick(files, quant) if file is None else named(files, file)
    return _assembled(listing, files, first, drafting) if first else None


def every(listing: Listing) -> list[Resolved]:
    """All models of a repository, the smallest first."""
    files = {file.path: file for file in listing.files}
    found = filter(None, (_assembled(listing, files, first, None) for first in models(files)))
    return sorted(found, key=lambda one: one.bytes)


def _assembled(
    listing: Listing, files: Mapping[PurePosixPath, File], first: PurePosixPath, drafting: str | None
) -> Resolved | None:
    paths = shards(first, files)
    if not paths:
        return None
    mmproj = projector(first, files)
    drafts = draft(first, files, drafting) if drafting else None
    return Resolved(
        listing,
        str(Name(listing.repo, tag(first), listing.revision)),
        tag(first),
        tuple(files[path] for path in paths),
        files[mmproj] if mmproj else None,
        files[drafts] if drafts else None,
    )


def models(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """The first shard of each model, in the order of the paths."""
    return sorted(path for path in paths if _parse(path)[1] == 1 and _is_model(path))


def shards(first: PurePosixPath, paths: Iterable[PurePosixPath]) -> tuple[PurePosixPath, ...]:
    """All files of the model in their order; none when one of them is missing."""
    stem, _, count = _parse(first)
    found = sorted(path for path in paths if path.parent == first.parent and _parse(path)[::2] == (stem, count))
    return tuple(found) if len(found) == count else ()


def tag(path: PurePosixPath) -> str | None:
    """The quant that the last word of a file's name is, as models are listed."""
    match = QUANT.search(_parse(path)[0])
    return match[1].upper() if match else None


def pick(paths: Collection[PurePosixPath], quant: str | None) -> PurePosixPath | None:
    """The first shard of the model that a quant means, whole words in any case: `f16` is not `bf16`, `Q4_K` is not
    `Q4_K_M`. Without one it is Q4_K_M, else Q8_0, else the first."""
    found = models(paths)
    picked = next(filter(None, (_match(found, word) for word in ([quant] if quant else DEFAULT_QUANTS))), None)
    return picked or (found[0] if found and quant is None else None)


def named(paths: Iterable[PurePosixPath], file: str) -> PurePosixPath | None:
    """The model whose first file has this path, or a path that ends so."""
    return next((path for path in models(paths) if f"/{path}".endswith(f"/{file}")), None)


def _match(paths: Iterable[PurePosixPath], quant: str) -> PurePosixPath | None:
    """The nearest: by the end of its name, then by a word in it, then by a folder."""
    word = re.compile(rf"(?<!\w){re.escape(quant)}(?=[./-]|$)", re.IGNORECASE | re.ASCII)

    def places(path: PurePosixPath) -> tuple[bool, bool, bool]:
        ends = any(match.end() == len(_parse(path)[0]) for match in word.finditer(_parse(path)[0]))
        return ends, word.search(path.name) is not None, word.search(path.as_posix()) is not None

    return max((path for path in paths if any(places(path))), key=places, default=None)


def projector(model: PurePosixPath, paths: Iterable[PurePosixPath]) -> PurePosixPath | None:
    """The vision projector nearest to the model: the same folder before one above it, then F16 before others."""
    found = [path for path in paths if "mmproj" in path.name and path.parent in model.parents]
    return min(found, key=lambda path: (-len(path.parts), F16.search(path.name) is None, path.name), default=None)


def draft(model: PurePosixPath, paths: Iterable[PurePosixPath], drafting: str) -> PurePosixPath | None:
    """The draft model for a kind of drafting that is nearest to the model, one of the same quant before others."""
    found = [path for path in paths if f"{drafting}-" in path.name and path.parent in model.parents]
    return min(found, key=lambda path: (-len(path.parts), tag(path) != tag(model), path.name), default=None)


def _is_model(path: PurePosixPath) -> bool:
    return path.suffix == ".gguf" and not COMPANION.search(path.name)


def _parse(path: PurePosixPath) -> tuple[str, int, int]:
    """The file's name without shard number and ending, which shard it is, and of how many."""
    stem = path.name.removesuffix(".gguf")
    match = SHARD.fullmatch(stem)
    return (match["stem"], int(match["index"]), int(match["count"])) if match else (stem, 1, 1)
