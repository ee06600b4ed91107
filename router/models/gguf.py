"""GGUF model files: the header of one file, or of a whole model with all its shards.

Headers are kept by file identity, so asking again costs one `fstat`. Both functions block on the disk: the running
router calls them in threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path

from cachetools import LRUCache

from router import files
from router.errors import GgufError
from router.models.header import HeaderReader
from router.models.metadata import Metadata
from router.models.shards import shards


def _weight(metadata: Metadata) -> int:
    """What the cache counts, in tensors: they are most of what Metadata holds, about 300 bytes each."""
    kept = sum(len(value) for value in metadata.fields.values() if isinstance(value, str | tuple))
    return 64 + len(metadata.tensors) + len(metadata.fields) + kept // 64


_cache: LRUCache[tuple[Path, int, int, int, int], Metadata] = LRUCache(1 << 18, getsizeof=_weight)
_lock = threading.Lock()


def read(path: Path) -> Metadata:
    """The header of one file. It comes from a cache as long as the file stays the same. Raises GgufError."""
    try:
        with files.open_regular(path) as file:
            status = os.fstat(file.fileno())
            key = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            with _lock:
                known = _cache.get(key)
            metadata = known or HeaderReader(path, file, status.st_size).read()
    except files.NotAFile as error:
        raise GgufError(f"{path} is not a file ({error.strerror}); name a .gguf file") from error
    except OSError as error:
        raise GgufError(f"cannot read the model file {path}: {error.strerror or error}") from error
    except ValueError as error:  # a path with a NUL in it
        raise GgufError(f"{str(path)!r} is not a file name") from error
    with _lock, contextlib.suppress(ValueError):  # raised for a header that is larger than the cache
        _cache[key] = metadata
    return metadata


def read_model(path: Path) -> Metadata:
    """The whole model that begins with `path`, all its shards. Raises GgufError, which names a missing shard."""
    parts = shards(path)
    if path != parts[0]:
        raise GgufError(f"{path} is not the first shard of its model; name {parts[0].name} instead")
    for part in parts:
        if len(parts) > 1 and not part.exists():
            raise GgufError(f"{path.name} is one of {len(parts)} shards, and {part} is missing; download it too")
    first = read(path)
    declared = first.fields.get("split.count", 0)
    if isinstance(declared, int) and declared > 1 and declared != len(parts):
        raise GgufError(
            f"{path} says that it is one of {declared} shards, but its name does not; "
            f"give the files their names of the form NAME-00001-of-{declared:05d}.gguf again"
        )
    if len(parts) == 1:
        return first
    headers = [first, *(read(part) for part in parts[1:])]
    return replace(
        first,
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        file_bytes=sum(header.file_bytes for header in headers),
    )
