"""Waiting for what comes about by itself: a condition is polled until it holds, and a deadline makes it a failure."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 30.0


def until(condition: Callable[[], T | None], patience: float = PATIENCE_S, every: float = 0.005) -> T:
    """Return what the condition gives once that is true. It is asked every so many seconds. Fails after `patience`
    seconds."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not come about within {patience:g} s"
        time.sleep(every)
    return found


async def eventually(condition: Callable[[], object], patience: float = PATIENCE_S) -> None:
    """The same in an event loop, which goes on meanwhile."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.002)


def listens(path: Path) -> bool:
    """Whether somebody accepts connections at this Unix socket; its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
