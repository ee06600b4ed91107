"""`GET /models/sse`: the pool's feed of what happens to models, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from router.api.endless import EndlessResponse
from router.pool.pool import Pool


class NewsStream(EndlessResponse):
    """One client's stream. A comment goes out after every `KEEPALIVE_S` seconds of silence."""

    KEEPALIVE_S = 15.0

    def __init__(self, pool: Pool) -> None:
        super().__init__("text/event-stream")
        self._feed = pool.feed

    async def until_end(self) -> None:
        await self._feed.until_closed()

    async def pieces(self) -> AsyncGenerator[bytes]:
        async with self._feed.subscribe() as news:
            yield b": hello\n\n"
            while True:
                try:
                    item = await news.next(self.KEEPALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if item is None:
                    return
                yield b"data: " + json.dumps(item).encode() + b"\n\n"
