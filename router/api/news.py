"""`GET /models/sse`: the pool's feed of what happens to models, as server-sent events."""

from __future__ import annotations

import asyncio
import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.pool.pool import Pool

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # nginx sends it on as it comes


class NewsStream(Response):
    """One client's stream. A comment goes out after every `KEEPALIVE_S` seconds of silence."""

    KEEPALIVE_S = 15.0

    def __init__(self, pool: Pool) -> None:
        super().__init__(media_type="text/event-stream", headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        events = asyncio.create_task(self._send_events(send))
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            events.cancel()
            await asyncio.wait({events})

    async def _send_events(self, send: Send) -> None:
        async with self._pool.feed.subscribe() as news:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            chunk = b": hello\n\n"
            while chunk:  # an empty one ends the stream
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                try:
                    item = await news.next(self.KEEPALIVE_S)
                    chunk = b"data: " + json.dumps(item).encode() + b"\n\n" if item is not None else b""
                except TimeoutError:
                    chunk = b": still here\n\n"
            await send({"type": "http.response.body", "body": b"", "more_body": False})
