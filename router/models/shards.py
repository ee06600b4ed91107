"""PURE: the file names of a model that is split over several files.

llama.cpp names the parts `NAME-00001-of-00003.gguf`. The first part stands for the whole model: the catalog names it,
and a child is started with it. Called wherever a path has to become all files of a model.
"""

from __future__ import annotations

import re
from pathlib import Path

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def shards(path: Path) -> tuple[Path, ...]:
    """All files of the model that begins with `path`, whether they exist or not; `path` alone if it is not split."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, count = match[1], int(match[3])
    return tuple(path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)) or (path,)


def is_shard(path: Path) -> bool:
    """Whether the name is that of one part of a split model."""
    return SHARD.fullmatch(path.name) is not None


def stem(path: Path) -> str:
    """The name of the model: the file's name without the number of the shard and without `.gguf`."""
    shard = SHARD.fullmatch(path.name)
    return shard[1] if shard else path.name.removesuffix(".gguf")
