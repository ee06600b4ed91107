"""The real HTTP server over the whole application, with a fake child behind it. Tests see each byte that is sent."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn

from router.api.app import create_app
from router.errors import ConfigError
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.node.interface import Launch
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.records.record import Record
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.server.admission import Admission, ClientLimits
from router.server.connection import ClientConnection
from router.server.framing import FramedConnection
from router.wire.address import Address
from router.wire.upstream import Upstream
from tests.fakes import FakeChild, FakeNode
from tests.sockets import Handler, Server, take

T = TypeVar("T")

CHAT = "/v1/chat/completions"
DIALECTS = (CHAT, "/completion")
FRAMING = {"content-length", "transfer-encoding"}


def body_of(**more: Any) -> bytes:
    return json.dumps({"model": "a", "max_tokens": 4, **more}).encode()


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: h", "X-Request-Id: mine", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(status: str, body: bytes = b"", *headers: str, chunked: bool = False) -> bytes:
    """A response of a child."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = [f"HTTP/1.1 {status}", "Keep-Alive: timeout=60, max=1000", *headers, framing]
    if chunked:
        half = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        body += b"0\r\n\r\n"
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


OK = answer("200 OK", b'{"ok": 1}', "Content-Type: application/json")
EVENTS = answer("200 OK", b"data: 1\n\ndata: [DONE]\n\n", "Content-Type: text/event-stream", chunked=True)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as a child got it. `tasks` is how many the router had made until then."""

    head: bytes
    body: bytes
    tasks: int


def sends(data: bytes) -> Handler:
    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(data)

    return act


def sends_and_resets(data: bytes) -> Handler:
    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(data)
        raise ConnectionResetError

    return act


class Child:
    """Answers each request with `act`."""

    def __init__(self) -> None:
        self.act = sends(OK)
        self.received: list[ReceivedRequest] = []
        self.tasks: Callable[[], int] = int

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            head, body = await take(reader)
            self.received.append(ReceivedRequest(head, body, self.tasks()))
            await self.act(reader, writer)


async def echoes(child: Child, writer: StreamWriter) -> None:
    is_stream = json.loads(child.received[-1].body).get("stream")
    kind = "text/event-stream" if is_stream else "application/json"
    text = b"data: %b\n\n" % child.received[-1].body if is_stream else child.received[-1].body
    writer.write(answer("200 OK", text, f"Content-Type: {kind}", chunked=bool(is_stream)))


class Works:
    """An act: works until the test sets `go`, then sends its response. Or until the router closes the connection."""

    def __init__(self, last: bytes = OK) -> None:
        self.begun, self.go, self._cut = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._last = last

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.begun.set()
        going, end = asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(reader.read())
        await asyncio.wait({going, end}, return_when=asyncio.FIRST_COMPLETED)
        if self.go.is_set():
            end.cancel()
            await asyncio.wait({end})
            writer.write(self._last)
        else:
            going.cancel()
            self._cut.set()
            raise ConnectionResetError

    async def is_cut(self, patience: float = 2.0) -> None:
        """Returns when the router has closed the connection."""
        try:
            async with asyncio.timeout(patience):
                await self._cut.wait()
        finally:
            self.go.set()  # else the server would wait for this act


@dataclass
class Near(FakeNode):
    """A node whose children are all at one address."""

    address: Address = field(default_factory=Address)

    async def spawn(self, launch: Launch) -> FakeChild:
        child = await super().spawn(launch)
        child.address = self.address
        return child


class Tasks(set["asyncio.Task[None]"]):
    """uvicorn's set of tasks; it counts all that were ever made."""

    made = 0

    def add(self, task: asyncio.Task[None]) -> None:
        self.made += 1
        super().add(task)


class Front:
    """The real HTTP server, in a thread with uvloop, and the whole application over two models, `a` and `b`."""

    def __init__(self, path: Path, child: Child, server: Server) -> None:
        self.path, self.child, self.children = str(path), child, server
        self.tasks = Tasks()
        self.turns = 0
        self.may_log_errors = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.warmed = 0  # requests that were no part of the test
        child.tasks = lambda: self.made
        self._clients: list[Client] = []
        self._thread: threading.Thread | None = None

    def start(
        self,
        *,
        keys: tuple[str, ...] = (),
        read_timeout: float = 60.0,
        keep_alive: float = 60.0,
        kind: type[Catalog] = Catalog,
        limits: ClientLimits | None = None,
        connection: type[FramedConnection] = ClientConnection,
        **options: Any,
    ) -> None:
        """`options` are the gateway's."""
        self.admission = Admission(limits)
        upstream = Upstream(read_timeout=read_timeout, idle_timeout=60.0)
        models = kind([ModelSpec(name, "models_dir", ()) for name in "ab"])
        node = self.node = Near(address=self.children.address)
        self.pool = Pool(models, [node], Limits(), lambda spec: Need(Demand()), upstream=upstream)
        self.gateway = Gateway(self.pool, upstream, **options)
        app = create_app(self.gateway, keys=keys, reload=_reload, forecast=NotImplemented)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=partial(connection, admission=self.admission),  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=20,
        )
        self.server = uvicorn.Server(config)
        self.server.server_state.tasks = self.tasks
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(64)
        self._thread = threading.Thread(target=self.server.run, args=([listening],))
        self._thread.start()

    @property
    def made(self) -> int:
        """How many tasks were made for requests of the test."""
        return self.tasks.made - self.turns

    @property
    def records(self) -> list[Record]:
        """Of the requests that have ended since `ready`, the oldest first."""
        return self.in_server(lambda: [*self.gateway.records.ended()])[::-1][self.warmed :]

    @property
    def running(self) -> list[Record]:
        return self.in_server(self.gateway.records.running)

    def in_server(self, look: Callable[[], T]) -> T:
        """What `look` finds in the server's thread. A client must have been answered."""
        if self._loop is None:
            self._loop = next(iter(self.server.server_state.connections)).loop
        found: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(lambda: found.set_result(look()))
        return found.result(10)

    @property
    def leases(self) -> int:
        return self.pool.status("a").leases

    async def client(self) -> Client:
        self._clients.append(Client(*await asyncio.open_unix_connection(self.path)))
        return self._clients[-1]

    async def ready(self, **options: Any) -> Client:
        """Starts the server. Returns a client when `a` runs and a connection to its child is kept."""
        self.start(**options)
        client = await self.client()
        await self.warm(client)
        return client

    async def warm(self, client: Client) -> None:
        act, self.child.act = self.child.act, sends(OK)
        assert (await client.ask(post(CHAT, body_of()))).status == 200
        self.child.act = act
        self.child.received.clear()
        self.warmed += 1

    async def turn(self) -> None:
        """When this returns, the router has read what clients had sent."""
        client = await self.client()
        assert (await client.ask(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
        self.turns += 1

    async def stop(self) -> None:
        for client in self._clients:
            client.leave()
        self.server.should_exit = True
        assert self._thread is not None
        await asyncio.to_thread(self._thread.join)


async def _reload() -> Changes:
    raise ConfigError("nothing to read here")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def named(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]

    @property
    def comparable(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """All of it except the date, and how the body was framed."""
        return self.status, [header for header in self.headers if header[0] not in {"date", *FRAMING}], self.body

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.patience = 10.0

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def sent(self) -> None:
        """Returns when the sent data is on its way. Raises ConnectionError."""
        async with asyncio.timeout(self.patience):
            await self._writer.drain()

    async def ask(self, request: bytes) -> Reply:
        """Sends a request in one piece."""
        self.send(request)
        return await self.reply()

    async def ask_ordinary_way(self, request: bytes) -> Reply:
        """Sends a request that the fast path leaves to uvicorn: one that waits for `100 Continue`."""
        head, body = request.split(b"\r\n\r\n", 1)
        self.send(head + b"\r\nExpect: 100-continue\r\n\r\n" + body)
        reply = await self.reply()
        return await self.reply() if reply.status == 100 else reply

    async def reply(self) -> Reply:
        async with asyncio.timeout(self.patience):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            pairs = (line.partition(": ") for line in lines)
            headers = tuple((name.lower(), value) for name, _, value in pairs)
            reply = Reply(int(first.split()[1]), headers, b"")
            return Reply(reply.status, headers, await self._body(reply))

    async def _body(self, reply: Reply) -> bytes:
        if reply.status in (100, 204, 304):
            return b""
        if lengths := reply.named("content-length"):
            return await self._reader.readexactly(int(lengths[0]))
        if not reply.named("transfer-encoding"):
            return await self._reader.read()
        parts = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)
        return b"".join(parts)

    async def read_until(self, data: bytes) -> None:
        async with asyncio.timeout(self.patience):
            await self._reader.readuntil(data)

    async def is_closed(self) -> bool:
        """Whether the router closes the connection without sending more."""
        async with asyncio.timeout(self.patience):
            return await self._reader.read() == b""

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def leave(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Front]:
    """A front that is not started yet. At the end, no error may be in the log unless the test expects one."""
    child, server = Child(), Server(tmp_path / "child")
    async with server.running(child):
        front = Front(tmp_path / "front", child, server)
        yield front
        await front.stop()
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors or front.may_log_errors
