"""Reports when a file has been written.

The file's status is read again and again. Events of the kernel would be quicker, but they do not come from network
shares, nor for single files that are mounted into a container. Called by the reloader for preset files.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

MAX_WATCHED = 1000  # files of one folder

_Stamp = tuple[object, ...]


async def changes(paths: Path | Sequence[Path], interval: float = 1.0) -> AsyncIterator[None]:
    """Yields when one of the files has changed, and all have then stayed the same for `interval` seconds.

    A file that still changes is still being written. A file that appears or disappears has changed too. Of a folder,
    its `*.ini` files are watched.
    """
    watched = (paths,) if isinstance(paths, Path) else tuple(paths)
    known = latest = _stamps(watched)
    while True:
        await asyncio.sleep(interval)
        now = _stamps(watched)
        if now == latest != known:
            known = now
            yield
        latest = now


def _stamps(paths: Sequence[Path]) -> list[_Stamp]:
    return [_of_folder(path) if path.is_dir() else _stamp(path) for path in paths]


def _of_folder(folder: Path) -> _Stamp:
    try:
        entries = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".ini")]
    except OSError:
        return ()
    return tuple((path, _stamp(path)) for path in sorted(entries)[:MAX_WATCHED])


def _stamp(path: Path | str) -> _Stamp:
    """What differs between two versions of a file; nothing if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
