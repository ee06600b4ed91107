"""A request without a token limit is ended by the clock."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from typing import Any

import pytest

from router.proxy.head import Head
from router.proxy.proxied_request import ProxiedRequest
from router.wire.upstream import Upstream
from tests.proxy.rig import EVENTS, Cut, Front, Leases, Plain, chunk, endless, saying, silent
from tests.sockets import Server, take
from tests.waiting import eventually


async def test_endless_stream_is_ended(front: Front, child: Server) -> None:  # B-L14 B-C4
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


async def test_response_that_does_not_begin_is_ended(front: Front, child: Server) -> None:  # B-L14
    front.time_limit = 0.1
    cut = Cut(silent)
    async with child.running(cut):
        client = await front.send()
        assert "max_tokens" in (await asyncio.wait_for(client.json(), 5))["told"]
        await asyncio.wait_for(cut.seen.wait(), 5)
    assert client.status == 504


async def test_stream_that_does_not_begin_is_ended_after_its_comments(front: Front, child: Server) -> None:  # B-L14
    front.time_limit, front.keepalive = 0.1, 0.01
    front.leases.closed.set()
    async with child.running(silent):
        client = await front.send(b'{"stream":true}')
        await client.head()
        front.leases.closed.clear()
        *comments, last, _ = (await asyncio.wait_for(client.body(), 5)).split(b"\n\n")
    assert set(comments) == {b": loading"}
    assert json.loads(last[6:])["status"] == 504


async def test_wait_for_a_lease_does_not_count(front: Front, child: Server) -> None:  # B-L14
    front.time_limit = 1.0  # a busy machine may take a while for the answer itself
    front.leases.closed.set()
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")):
        client = await front.send()
        await eventually(lambda: front.leases.asked == 1)
        asyncio.get_running_loop().call_later(1.2, front.leases.closed.clear)
        assert await client.json() == {}


async def test_unfinished_json_is_cut(front: Front, child: Server) -> None:  # B-L14
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        assert await reader.read() == b""

    front.time_limit = 0.1
    async with child.running(handler):
        assert await asyncio.wait_for((await front.send()).cut(), 5)


async def test_time_limit_holds_for_a_client_that_does_not_read(front: Front, child: Server) -> None:  # B-L14
    """The time ends while the request waits for its client."""

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
        await eventually(lambda: front.leases.released == 1)
        assert front.busy == 1
        *events, last, nothing = (await client.body()).split(b"\n\n")
    assert set(events) == {b"data: " + b"x" * 65536}
    assert (json.loads(last[6:])["status"], nothing) == (504, b"")


async def test_head_that_was_not_sent_does_not_count_as_started(child: Server) -> None:  # B-L14
    """The time ends while the server holds the head back, as it does for a client that has not read the response
    before."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 1:
            await asyncio.Event().wait()

    leases = Leases(child.address)
    request = ProxiedRequest(leases, Upstream(), Plain(), Head("POST", "/", b"/", []), time_limit=0.1)
    async with child.running(endless):
        await asyncio.wait_for(request({"type": "http"}, receive, send), 5)
    assert [message.get("status") for message in sent] == [200, 504, None]
    assert leases.released == 1


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_time_limit_and_disconnect_at_once_end_quietly(child: Server, turns: int) -> None:  # B-L14 B-S2
    """In either order, or both before the request notices: it ends without an error, and releases once."""
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
    request = ProxiedRequest(leases, Upstream(), Plain(), Head("POST", "/", b"/", []), time_limit=limit)
    async with child.running(handler):
        await request({"type": "http"}, receive, send)
    assert leases.released == 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
