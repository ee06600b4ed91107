"""The files that a process reads as it starts, and whether they are still the same.

A file that was replaced is another model under the old name. The need of a load has the stamp of its files
(`memory.need`), and a reload compares it with the files as they are then (`pool.processes`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.engine import values
from router.engine.flags import Arg
from router.models.shards import shards
from router.models.spec import FILE_FLAGS

# Other flags than those of a model that name files which the child reads from beginning to end.
OTHER_FILE_FLAGS = values.PATH_LISTS | {"--chat-template-file", "--grammar-file", "--json-schema-file"}

# Of each file its path, inode, size in bytes and time of change in nanoseconds.
Stamp = tuple[tuple[str, int, int, int], ...]


def files_of(args: Sequence[Arg]) -> Iterator[Path]:
    """All files that a process with these arguments reads, whether they exist or not."""
    for arg in args:
        if arg.flag.name in FILE_FLAGS or arg.flag.name in OTHER_FILE_FLAGS:
            for path in map(Path, values.paths_of(arg)):
                yield from shards(path) if arg.flag.name in FILE_FLAGS else (path,)


def stamp(args: Sequence[Arg]) -> Stamp:
    """The stamp of the files that are there. Blocks."""
    return tuple(row for path in dict.fromkeys(files_of(args)) if (row := _row(os.fspath(path))))


def of_program(path: str) -> Stamp:
    """The stamp of the program itself: after an upgrade it is another engine. Blocks."""
    row = _row(path)
    return (row,) if row else ()


def replaced(before: Stamp) -> str | None:
    """The first file that is another one now; None if all are the same. A file that is gone does not count: what runs
    can go on without it. Blocks."""
    return next((row[0] for row in before if (now := _row(row[0])) and now != row), None)


def _row(path: str) -> tuple[str, int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return path, status.st_ino, status.st_size, status.st_mtime_ns
