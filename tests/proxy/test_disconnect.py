"""A client that leaves ends the work for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from asyncio import StreamReader, StreamWriter
from typing import Any

import pytest

from router.proxy.head import Head
from router.proxy.proxied_request import ProxiedRequest
from router.wire.upstream import Upstream
from tests.proxy.rig import EVENTS, Front, Leases, Plain, chunk
from tests.sockets import Server, take
from tests.waiting import eventually


async def test_disconnect_before_the_lease_cancels_the_wait(front: Front) -> None:  # B-S8
    front.leases.closed.set()
    client = await front.send()
    await eventually(lambda: front.leases.asked == 1)
    client.leave()
    await eventually(lambda: front.leases.cancelled == 1)
    assert front.leases.granted == 0


@pytest.mark.parametrize("said", [b"", EVENTS, EVENTS + chunk(b"data: 1\n\n"), EVENTS + chunk(b"dat")])
async def test_disconnect_closes_the_connection_to_the_child(front: Front, child: Server, said: bytes) -> None:
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
        await eventually(lambda: front.leases.released == 1)


async def test_disconnect_of_a_slow_client_closes_the_connection_to_the_child(front: Front, child: Server) -> None:
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
        await eventually(lambda: front.leases.released == 1)


@pytest.mark.parametrize("time_limit", [None, 0.02])
async def test_storm_of_disconnects_releases_every_lease(front: Front, child: Server, time_limit: float | None) -> None:
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
        await eventually(lambda: front.busy == 0)
    assert front.leases.asked == front.leases.granted + front.leases.cancelled
    assert 0 < front.leases.granted == front.leases.released


@pytest.mark.parametrize("as_the_client_leaves", [False, True])
async def test_cancelled_request_releases_and_stays_cancelled(child: Server, as_the_client_leaves: bool) -> None:
    """Also if the client leaves at the same moment."""
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

    request = ProxiedRequest(leases, Upstream(), Plain(), Head("GET", "/", b"/", []))
    async with child.running(handler):
        task = asyncio.create_task(request({"type": "http"}, receive, send))
        await asked.wait()
        if as_the_client_leaves:
            left.set()
            await asyncio.sleep(0)  # seen, but the request has not run yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert leases.released == 1
