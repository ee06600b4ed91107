"""Broadcasts news to all subscribers, such as the clients of `/models/sse`.

The one idea: a subscriber that reads slowly costs only itself. `publish` never waits; a subscriber that falls too far
behind is disconnected, and may subscribe again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

News = Mapping[str, Any]


class Feed:
    """A subscriber may be `backlog` items behind.

    ::

        async with feed.subscribe() as news:
            while (item := await news.next()) is not None:
                ...
    """

    def __init__(self, backlog: int = 1024) -> None:
        self._backlog = backlog
        self._queues: set[asyncio.Queue[News | None]] = set()
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Feed {len(self._queues)} subscribers>"

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more news for anyone; a subscription that ended before was too far behind."""
        return self._closed.is_set()

    async def until_closed(self) -> None:
        """Wait until there will be no more news."""
        await self._closed.wait()

    def publish(self, model: str, event: str, data: Any) -> None:
        """Send `{"model", "event", "data"}`, as llama.cpp's `/models/sse` has it."""
        for queue in tuple(self._queues):
            if queue.qsize() >= self._backlog:
                self._disconnect(queue)
            else:
                queue.put_nowait({"model": model, "event": event, "data": data})

    def subscribe(self) -> Subscription:
        """All news from now on."""
        queue: asyncio.Queue[News | None] = asyncio.Queue()
        self._queues.add(queue)
        if self.is_closed:
            self._disconnect(queue)
        return Subscription(self, queue)

    def unsubscribe(self, queue: asyncio.Queue[News | None]) -> None:
        self._queues.discard(queue)

    def close(self) -> None:
        """End every subscription, and each later one at once."""
        self._closed.set()
        for queue in tuple(self._queues):
            self._disconnect(queue)

    def _disconnect(self, queue: asyncio.Queue[News | None]) -> None:
        self._queues.discard(queue)
        queue.put_nowait(None)


class Subscription:
    """What `Feed.subscribe` returns; leaving its `async with` block ends it."""

    def __init__(self, feed: Feed, queue: asyncio.Queue[News | None]) -> None:
        self._feed, self._queue = feed, queue

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        self._feed.unsubscribe(self._queue)

    async def next(self, timeout: float | None = None) -> News | None:
        """The next item; None once the feed has ended. Raises TimeoutError after `timeout` seconds without one."""
        async with asyncio.timeout(timeout):
            return await self._queue.get()
