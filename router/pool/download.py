"""The border between the pool and where missing models come from, and what is known of a download under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from router.models.spec import ModelSpec
from router.node.interface import LoadProgress, Part

TELLING = 0.2  # seconds between two pieces of news of one download


@dataclass(slots=True)
class Download:
    """One download under way. `parts` are its files by URL."""

    task: asyncio.Task[None] | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    _told: float = field(default=0.0, init=False)  # when the news told of it last

    def take(self, part: Part, now: float) -> bool:
        """So much of a file is here now. Whether to tell of it: some time after the last news, or when it is whole."""
        self.parts[part.url] = part
        if now - self._told < TELLING and part.done != part.total:
            return False
        self._told = now
        return True

    @property
    def progress(self) -> LoadProgress:
        done, total = (sum(getattr(part, name) for part in self.parts.values()) for name in ("done", "total"))
        payload = {part.url: {"done": part.done, "total": part.total} for part in self.parts.values()}
        return LoadProgress("download", done / total if total else 0.0, payload)


class Hub(Protocol):
    """Where missing models come from."""

    async def fetch(
        self, spec: ModelSpec, on_part: Callable[[Part], None], check: Callable[[ModelSpec], Awaitable[None]]
    ) -> None:
        """Download what the model lacks, and have the catalog read again: it is there then. `check` is asked as soon as
        its header is here, and raises if there is no point in going on. Raises RouterErrors."""

    def forget(self, name: str) -> None:
        """Nobody wants this model any more."""

    def end(self) -> None:
        """Refuse whoever waits for the hub."""
