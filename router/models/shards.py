"""PURE: the file names of a model that is split over several files.

llama.cpp names the parts `NAME-00001-of-00003.gguf`. The first part stands for the whole model: the catalog names it,
and a child is started with it. Called wherever a path has to become all files of a model. The ending may be in any
case, although llama.cpp itself finds further parts only if it is in lower case.
"""

from __future__ import annotations

import re
from pathlib import Path

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.DOTALL | re.IGNORECASE)
ENDING = ".gguf"


def shards(path: Path) -> tuple[Path, ...]:
    """All files of the model that begins with `path`, whether they exist or not; `path` alone if it is not split."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, count, ending = match[1], int(match[3]), match[4]
    return tuple(path.with_name(f"{stem}-{n:05d}-of-{count:05d}{ending}") for n in range(1, count + 1)) or (path,)


def stem(path: Path) -> str:
    """The name of the model: the file's name without the number of the shard and without `.gguf`."""
    return stem_of(path.name)


def stem_of(name: str) -> str:
    """As `stem`, by the name of the file."""
    shard = SHARD.fullmatch(name)
    if shard:
        return shard[1]
    return name[: -len(ENDING)] if is_gguf(name) else name


def is_gguf(name: str) -> bool:
    """Whether a file's name ends as that of a GGUF file."""
    return name[-len(ENDING) :].lower() == ENDING
