"""Requests arrive as they were meant, each once, and each gets its own answer."""

from __future__ import annotations

import asyncio
import os
from asyncio import StreamReader, StreamWriter

import pytest

from router.errors import UpstreamFailed
from router.wire.address import Address
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream
from tests.sockets import Server, take
from tests.waiting import eventually
from tests.wire.rig import (
    OK,
    Completions,
    answering,
    ask,
    ended,
    ok_then_closing,
    send,
    sent_on_kept,
    whole,
)


async def test_a_request_arrives_and_its_answer_comes_back(upstream: Upstream, server: Server) -> None:
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


async def test_a_huge_request_arrives_whole(upstream: Upstream, server: Server) -> None:
    body = os.urandom(2**20) * 32

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        _, received = await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + (b"same" if received == body else b"diff"))
        await take(reader)

    async with server.running(handler):
        assert await whole(await ask(upstream, server, body=body)) == b"same"


async def test_a_request_is_not_sent_again_once_bytes_came(upstream: Upstream, server: Server) -> None:
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


async def test_forget_closes_idle_connections_and_cuts_no_answer(upstream: Upstream, server: Server) -> None:
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


async def test_send_needs_a_kept_connection(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        assert send(upstream, server) is None
        sent = await sent_on_kept(upstream, server)
        assert send(upstream, server) is None, "the kept connection is in use"
        assert await whole(await sent.wait_for_head()) == b"ok"
        again = send(upstream, server)
        assert again is not None
        assert await whole(await again.wait_for_head()) == b"ok"
        upstream.forget(server.address)
        assert send(upstream, server) is None
        assert server.connections == 1


async def test_open_does_not_send_again_what_was_sent(upstream: Upstream, server: Server) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            seen.append(await take(reader))
            writer.write(OK)

    async with server.running(handler):
        sent = await sent_on_kept(upstream, server)
        head = RequestHead("POST", b"/x", [(b"x-a", b"b")])
        response = await upstream.open(server.address, "secret", head, b"{}", sent=sent)
        assert response is sent
        assert await whole(response) == b"ok"
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_open_sends_again_if_the_connection_was_closed(
    upstream: Upstream, server: Server, is_awaited: bool
) -> None:
    async with server.running(answering(OK, b"")):
        sent = await sent_on_kept(upstream, server)
        if is_awaited:
            completions = Completions(sent)
            await completions.first.wait()
            assert sent.complete_body() is None
        response = await upstream.open(server.address, "secret", RequestHead("POST", b"/x", []), b"{}", sent=sent)
        assert await whole(response) == b"ok"
        assert server.connections == 2


async def test_open_does_not_send_again_once_bytes_came(upstream: Upstream, server: Server) -> None:
    async with server.running(ok_then_closing(b"HTTP/1.1 ")):
        sent = await sent_on_kept(upstream, server)
        with pytest.raises(UpstreamFailed, match="before it answered"):
            await upstream.open(server.address, "secret", RequestHead("POST", b"/x", []), b"{}", sent=sent)
        assert server.connections == 1


async def test_reprs_show_the_state_and_no_key(upstream: Upstream, server: Server) -> None:
    head = RequestHead("POST", b"/x?key=secret", [(b"x-key", b"secret")])
    assert repr(head) == "<RequestHead POST>"

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        first, _ = await take(reader)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n" if b"?key" in first else OK)
        await reader.read()

    async with server.running(handler):
        response = await upstream.open(server.address, "secret", head, b"{}")
        connections = upstream._children[server.address]
        connection = response._connection
        assert repr(upstream) == "<Upstream 1 children>"
        assert repr(response) == "<Response 404, open>"
        assert repr(response.head) == "<ResponseHead 404>"
        assert repr(connection) == "<UpstreamConnection busy, 1 requests>"
        assert repr(connections) == "<ChildConnections 0 idle, 0 stalled>"
        response.close()
        assert repr(response) == "<Response 404, failed>"
        assert repr(connection) == "<UpstreamConnection closed, 1 requests>"
        response = await ask(upstream, server)
        assert await whole(response) == b"ok"
        assert repr(response) == "<Response 200, complete>"
        assert repr(response._connection) == "<UpstreamConnection idle, 1 requests>"
        assert repr(connections) == "<ChildConnections 1 idle, 0 stalled>"
        assert repr(connections.known_heads) == "<HeadCache 1 heads>"
        upstream.forget(server.address)
        assert repr(connections) == "<ChildConnections 0 idle, 0 stalled, retired>"


# Cuts


class Cut(UpstreamFailed):
    pass


async def test_a_cut_fails_all_answers_of_the_child_and_no_others(upstream: Upstream, server: Server) -> None:  # B-S19
    going = asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        head, _ = await take(reader)
        if b"/begun" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nsome")  # it ends with the connection
        await going.wait()

    async with server.running(handler):
        begun, half = [await ask(upstream, server, target=b"/begun") for _ in range(2)]
        assert await half.read() == b"some"
        waits = asyncio.create_task(ask(upstream, server))
        reads = asyncio.create_task(half.read())
        await eventually(lambda: upstream.received(server.address) == 2)
        await eventually(lambda: len(upstream._children[server.address].open) == 3)
        upstream.cut(Address(path="/another"), Cut("another child"))
        upstream.cut(server.address, Cut("cut"))
        for task in (waits, reads):
            with pytest.raises(Cut, match="cut"):
                await task
        assert await begun.read() == b"some"  # what has come is not lost
        for answer in (begun, half):
            with pytest.raises(Cut, match="cut"):
                await answer.read()
        going.set()


async def test_a_cut_leaves_later_requests_alone(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        assert await whole(await ask(upstream, server)) == b"ok"
        upstream.cut(server.address, Cut("cut"))
        assert await whole(await ask(upstream, server)) == b"ok"
