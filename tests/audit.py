"""What this process asks of the file system, by the interpreter's own audit events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

_asked: list[tuple[str, list[str]]] = []


@contextlib.contextmanager
def looked(folder: Path) -> Iterator[list[str]]:
    """Paths below `folder`, of the files that are opened and the folders that are listed until the block ends, by
    whatever thread."""
    asked: tuple[str, list[str]] = (str(folder), [])
    _asked.append(asked)
    try:
        yield asked[1]
    finally:
        _asked.remove(asked)


def _hear(event: str, args: tuple[object, ...]) -> None:
    if _asked and event in ("open", "os.scandir", "os.listdir"):
        path = str(args[0])
        for folder, paths in _asked:
            if path.startswith(folder):
                paths.append(path)


sys.addaudithook(_hear)  # for good: there is no way to take one back
