"""News for whoever listens: a broadcast with a bound, so that a slow listener costs only itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

News = Mapping[str, Any]


class Feed:
    """`publish` never waits. A listener that falls `backlog` items behind is cut off and may subscribe again."""

    def __init__(self, backlog: int = 1024) -> None:
        self._backlog = backlog
        self._listeners: set[asyncio.Queue[News | None]] = set()

    def publish(self, model: str, event: str, data: Any) -> None:
        """`{"model", "event", "data"}`, as llama.cpp's `/models/sse` has it."""
        for queue in tuple(self._listeners):
            if queue.qsize() >= self._backlog:
                self._cut(queue)
            else:
                queue.put_nowait({"model": model, "event": event, "data": data})

    def subscribe(self) -> Subscription:
        """From this moment on."""
        queue: asyncio.Queue[News | None] = asyncio.Queue()
        self._listeners.add(queue)
        return Subscription(self, queue)

    def drop(self, queue: asyncio.Queue[News | None]) -> None:
        self._listeners.discard(queue)

    def close(self) -> None:
        """Ends every subscription."""
        for queue in tuple(self._listeners):
            self._cut(queue)

    def _cut(self, queue: asyncio.Queue[News | None]) -> None:
        self._listeners.discard(queue)
        queue.put_nowait(None)


class Subscription:
    """`async with feed.subscribe() as news: item = await news.next()`."""

    def __init__(self, feed: Feed, queue: asyncio.Queue[News | None]) -> None:
        self._feed, self._queue = feed, queue

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._feed.drop(self._queue)

    async def next(self, timeout: float | None = None) -> News | None:
        """The next item; None when the feed ended. Raises TimeoutError after `timeout` seconds of silence."""
        async with asyncio.timeout(timeout):
            return await self._queue.get()
