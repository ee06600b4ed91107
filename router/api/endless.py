"""An answer that goes on until its client leaves, such as a stream of news.

A proxy must not collect it before it passes it on: `X-Accel-Buffering: no` tells nginx so. A client that does not read
holds up nobody but itself; when the router ends, it is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from router.server.uvicorn_protocol import ABORT

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
# For the last pieces, when the router ends; a client that does not take them in this time has left.
LAST_PIECES_S = 2.0


class EndlessResponse(Response, ABC):
    """What a subclass yields as `pieces` is sent as it comes."""

    def __init__(self, media_type: str) -> None:
        super().__init__(media_type=media_type, headers={**STREAM_HEADERS, "x-content-type-options": "nosniff"})
        del self.headers["content-length"]

    @abstractmethod
    def pieces(self) -> AsyncGenerator[bytes]:
        """What is sent; none of it is empty. The generator is closed when the client has left."""

    @abstractmethod
    async def until_end(self) -> None:
        """Returns when the router ends, so that only the last pieces are worth waiting for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        sending = asyncio.create_task(self._send(start, send))
        leaving = asyncio.create_task(_until_left(receive))
        ending = asyncio.create_task(self.until_end())
        try:
            await asyncio.wait({sending, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and not (sending.done() or leaving.done()):
                await asyncio.wait({sending, leaving}, timeout=LAST_PIECES_S, return_when=asyncio.FIRST_COMPLETED)
                if not (sending.done() or leaving.done()):
                    scope.get(ABORT, lambda: None)()
        finally:
            for task in (sending, leaving, ending):
                task.cancel()
            await asyncio.wait({sending, leaving, ending})
        if not sending.cancelled():
            sending.result()

    async def _send(self, start: Message, send: Send) -> None:
        async with contextlib.aclosing(self.pieces()) as pieces:
            await send(start)
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
