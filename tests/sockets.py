"""Servers on unix sockets that answer as a test says, however wrong."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from router.wire.address import Address

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]


class Server:
    """A child on a unix socket. Its handler gets each connection."""

    def __init__(self, path: Path) -> None:
        self.address = Address(path=str(path))
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, handler: Handler) -> AsyncIterator[Server]:
        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
            writer.close()

        server = await asyncio.start_unix_server(serve, self.address.path)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def take(reader: StreamReader) -> tuple[bytes, bytes]:
    """One request: head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head, await reader.readexactly(int(lengths[0])) if lengths else b""


class Flood:
    """Answers with `size` bytes, as fast as the client reads. `sent` counts them. `blocked` is set once the client has
    not read for a while."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0
        self.blocked = asyncio.Event()

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
        while self.sent < self.size:
            writer.write(b"x" * 65536)
            self.sent += 65536
            drained = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait([drained], timeout=0.2))[0]:
                self.blocked.set()
            await drained
