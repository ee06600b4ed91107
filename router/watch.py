"""Reports when a file has been written.

The file's status is read again and again. Events of the kernel would be quicker, but they do not come from network
shares, nor for single files that are mounted into a container. Called by the reloader for preset files.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path


async def changes(path: Path, interval: float = 1.0) -> AsyncIterator[None]:
    """Yields when the file has changed, and has then stayed the same for `interval` seconds.

    A file that still changes is still being written. A file that appears or disappears has changed too.
    """
    known = latest = _stamp(path)
    while True:
        await asyncio.sleep(interval)
        now = _stamp(path)
        if now == latest != known:
            known = now
            yield
        latest = now


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What differs between two versions of a file; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
