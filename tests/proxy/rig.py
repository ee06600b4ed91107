"""A server in front of one child, with leases that count: what the tests of a proxied request share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.errors import RouterError
from router.proxy.body import read_body
from router.proxy.head import Head
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.routing import routing_fields
from router.wire.address import Address
from router.wire.upstream import Upstream
from tests.sockets import take
from tests.waiting import eventually

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Plain:
    name = "plain"

    def error(self, exc: RouterError, request_id: str) -> Response:
        headers = {"retry-after": "1"} if exc.retry_after else None
        return JSONResponse({"told": exc.message}, exc.status, headers)

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"data: %b\n\n" % json.dumps({"told": exc.message, "status": exc.status}).encode()


@dataclass
class Leases:
    """Gives leases and counts them. While `closed` is set, requests wait; with `refusal` they get that error."""

    address: Address
    asked: int = 0
    granted: int = 0
    cancelled: int = 0
    released: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    refusal: Exception | None = None
    dead: list[bool] = field(default_factory=list)  # the first leases are to children that are gone: heard of, or not

    async def __call__(self) -> Held:
        self.asked += 1
        try:
            await eventually(lambda: not self.closed.is_set())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.refusal is not None:
            raise self.refusal
        self.granted += 1
        return Held(self)


class Held:
    model = "m"
    key = "child-key"

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._held = True
        self._is_over = leases.dead.pop(0) if leases.dead else None
        self.address = leases.address if self._is_over is None else Address(path="/nowhere/dead.sock")

    async def is_over(self) -> bool:
        assert self._held, "the lease is kept until it is known"
        return bool(self._is_over)

    def report_unreachable(self) -> bool:
        assert self._held, "the lease is kept until it is known"
        return False

    def release(self) -> None:
        assert self._held, "released twice"
        self._held = False
        self._leases.released += 1


class Front:
    """The real HTTP server, in a thread with uvloop. Every request gets its lease from `leases`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.leases = Leases(Address())
        self.keepalive = 0.0
        self.time_limit: float | None = None
        self.upstream = Upstream()
        app = Starlette(routes=[Route("/{rest:path}", self._endpoint, methods=["GET", "HEAD", "POST"])])
        self._server = uvicorn.Server(
            uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", log_config=None, server_header=False)
        )
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(512)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._clients: list[Client] = []

    async def _endpoint(self, request: Request) -> Response:
        try:
            body = await read_body(request, 64 * 2**20)
            wish = routing_fields(body, request.headers.get("content-type"))
        except RouterError as exc:
            return Plain().error(exc, "")
        return ProxiedRequest(  # type: ignore[return-value]
            self.leases,
            self.upstream,
            Plain(),
            Head.from_scope(request.scope),
            body=body,
            stream=wish.stream,
            keepalive=self.keepalive,
            time_limit=self.time_limit,
        )

    @property
    def busy(self) -> int:
        """How many requests have not ended."""
        return len(self._server.server_state.tasks)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def part(self) -> None:
        """All clients leave."""
        for client in self._clients:
            client.leave()
        self._clients.clear()
        await eventually(lambda: self.busy == 0)

    async def send(
        self, body: bytes = b"{}", *, headers: bytes = b"", method: bytes = b"POST", target: bytes = b"/v1/x?y=%20"
    ) -> Client:
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(b"%b %b HTTP/1.1\r\nHost: h\r\n%b" % (method, target, headers))
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._clients.append(Client(reader, writer))
        return self._clients[-1]


class Client:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def head(self) -> int:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines if line)
        return self.status

    async def part(self) -> bytes:
        """The next chunk, b"" at the proper end. Raises IncompleteReadError if the response is cut off."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        if not self.status:
            await self.head()
        if "content-length" in self.headers:
            return await self._reader.readexactly(int(self.headers["content-length"]))
        parts = []
        while part := await self.part():
            parts.append(part)
        return b"".join(parts)

    async def json(self) -> Any:
        return json.loads(await self.body())

    async def cut(self) -> bool:
        try:
            await self.body()
        except asyncio.IncompleteReadError:
            return True
        return False

    def leave(self) -> None:
        self._writer.transport.abort()


def saying(*parts: bytes) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    """A child that reads a request, sends these parts one by one, and closes the connection."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return handler


async def endless(reader: StreamReader, writer: StreamWriter) -> None:
    """A child that streams until the router closes the connection."""
    await take(reader)
    writer.write(EVENTS)
    while True:
        writer.write(chunk(b'data: {"x": 1}\n\nda'))
        await writer.drain()
        writer.write(chunk(b"ta: 2\n\n"))
        await asyncio.sleep(0.01)


async def silent(reader: StreamReader, writer: StreamWriter) -> None:
    await take(reader)
    assert await reader.read() == b""


@dataclass
class Cut:
    """A child that does what `handler` does. `seen` is set when the router has closed the connection."""

    handler: Callable[[StreamReader, StreamWriter], Awaitable[None]]
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self.handler(reader, writer)
        self.seen.set()
