"""Tells when a file has been written. By its status, asked for again and again: notices of the kernel do not come from
network shares, nor for files that are mounted into a container one by one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path


async def changes(path: Path, interval: float = 1.0) -> AsyncIterator[None]:
    """Yields when the file is another one than before, and has then been the same for `interval` seconds: until then
    somebody may still be writing it. A file that is gone is another one."""
    known = latest = _stamp(path)
    while True:
        await asyncio.sleep(interval)
        now = _stamp(path)
        if now == latest != known:
            known = now
            yield
        latest = now


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
