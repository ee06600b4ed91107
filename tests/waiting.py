"""Waiting for what comes about by itself: a condition is polled until it holds, and a deadline makes it a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 30.0


def until(condition: Callable[[], object], patience: float = PATIENCE_S) -> None:
    """Return once the condition holds. Fails after `patience` seconds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"it did not come about within {patience:g} s"
        time.sleep(0.005)


async def eventually(condition: Callable[[], object], patience: float = PATIENCE_S) -> None:
    """The same in an event loop, which goes on meanwhile."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.002)
