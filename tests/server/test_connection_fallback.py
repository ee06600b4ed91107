"""A request on the fast path falls back to ASGI if its response does not come whole: large, broken or late."""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter

import pytest

from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.wire.response import HIGH_WATER_BYTES
from tests.front import (
    CHAT,
    DIALECTS,
    EVENTS,
    OK,
    Client,
    Front,
    Reply,
    Works,
    answer,
    body_of,
    post,
    sends,
    sends_and_resets,
)
from tests.sockets import Flood, Handler
from tests.waiting import eventually


async def test_response_in_pieces_is_sent_in_full(front: Front) -> None:
    client = await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        for place in range(0, len(OK), 30):
            writer.write(OK[place : place + 30])
            await front.turn()

    front.child.act = act
    reply = client.ask(post(CHAT, body_of()))
    task = asyncio.create_task(reply)
    await eventually(lambda: bool(front.child.received))
    assert (await task).body == b'{"ok": 1}'


async def test_response_above_high_water_falls_back(front: Front) -> None:
    client = await front.ready()
    for size in (HIGH_WATER_BYTES - 1, HIGH_WATER_BYTES, HIGH_WATER_BYTES + 1, 8 * HIGH_WATER_BYTES):
        body = (b"%06d" * (size // 6 + 1) % tuple(range(size // 6 + 1)))[:size]
        for chunked in (False, True):
            front.child.act = sends(answer("200 OK", body, chunked=chunked))
            made = front.made
            for _ in range(3):
                assert (await client.ask(post(CHAT, body_of()))).body == body
            if size != HIGH_WATER_BYTES + 1:  # it goes either way: the last byte may come by itself
                assert front.made - made == (3 if size > HIGH_WATER_BYTES else 0)
    await eventually(lambda: front.leases == 0)


async def test_large_response_waits_for_its_reader(front: Front) -> None:
    client = await front.ready()
    flood = Flood(32 * 2**20)
    front.child.act = lambda reader, writer: _flooded(flood, reader, writer)
    client.send(post(CHAT, body_of()))
    await flood.blocked.wait()
    assert flood.sent < 4 * 2**20
    assert len((await client.reply()).body) == flood.size


async def _flooded(flood: Flood, reader: StreamReader, writer: StreamWriter) -> None:
    again = StreamReader()  # it takes the request itself
    again.feed_data(b"GET / HTTP/1.1\r\n\r\n")
    await flood(again, writer)


async def test_connection_closed_by_the_child_is_replaced(front: Front) -> None:
    client = await front.ready()
    for path in DIALECTS:
        first = front.children.connections

        async def act(reader: StreamReader, writer: StreamWriter, first: int = first) -> None:
            if front.children.connections == first:
                raise ConnectionResetError
            writer.write(OK)

        front.child.act = act
        made = front.made
        assert (await client.ask(post(path, body_of()))).status == 200
        assert front.children.connections == first + 1
        assert [each.tasks - made for each in front.child.received] == [0, 1]
        assert front.child.received[0].body == front.child.received[1].body
        await eventually(lambda: front.leases == 0)
        front.child.received.clear()


async def both(front: Front, client: Client, act: Handler, request: bytes) -> tuple[Reply, Reply]:
    """The replies of the fast path and of the ordinary way."""
    replies = []
    for way in (Client.ask, Client.ask_ordinary_way):
        await front.warm(client)
        front.child.act, made = act, front.made
        replies.append(await way(client, request))
        assert front.child.received[0].tasks - made == (way is Client.ask_ordinary_way)
    await eventually(lambda: front.leases == 0)
    return replies[0], replies[1]


async def test_child_that_ends_before_its_response_is_a_502(front: Front) -> None:
    client = await front.ready()
    for path in DIALECTS:
        for said in (b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"):
            short, ordinary = await both(front, client, sends_and_resets(said), post(path, body_of()))
            assert short.comparable == ordinary.comparable
            assert (short.status, b"Send the request again" in short.body) == (502, True)


async def test_broken_response_is_cut_off(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = await front.ready()
    for way in (Client.ask, Client.ask_ordinary_way):
        await front.warm(client)
        front.child.act = sends_and_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await way(client, post(CHAT, body_of()))
        assert caught.value.partial == b"abc"
        client = await front.client()
    await eventually(lambda: front.leases == 0)
    await eventually(lambda: not front.tasks)
    front.may_log_errors = True
    told = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
    assert told == {"ASGI callable returned without completing response."}  # which is how uvicorn comes to cut it


async def test_broken_event_stream_ends_with_an_error_event(front: Front) -> None:  # B-C4
    client = await front.ready()
    for path in DIALECTS:
        short, ordinary = await both(front, client, sends_and_resets(EVENTS[:-20]), post(path, body_of()))
        assert short.comparable == ordinary.comparable
        first, error, end = short.body.split(b"\n\n")
        assert (first, end) == (b"data: 1", b"")
        assert error.startswith(b"data: {")
        assert b"in the middle of its answer" in error


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxx",
    "long head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


async def test_garbage_from_a_child_is_a_502(front: Front) -> None:
    client = await front.ready()
    for name, said in GARBAGE.items():
        short, ordinary = await both(front, client, sends(said), post(CHAT, body_of()))
        assert (name, short.comparable) == (name, ordinary.comparable)
        assert (name, short.status) == (name, 502)


async def test_unknown_status_of_a_child_is_a_502(front: Front) -> None:
    client = await front.ready()
    for status in ("000", "099", "600", "700", "999"):
        front.child.act = sends(answer(f"{status} Odd", b"{}"))
        for _ in range(2):
            reply = await client.ask(post(CHAT, body_of()))
            assert (reply.status, f"the status {status}" in reply.json()["error"]["message"]) == (502, True)
            await eventually(lambda: front.leases == 0)
        await front.warm(client)


class Broken(Catalog):
    def resolve(self, name: str | None) -> ModelSpec:
        if name == "broken":
            raise ZeroDivisionError
        return super().resolve(name)


async def test_defect_is_a_500_on_both_ways(front: Front) -> None:
    client = await front.ready(kind=Broken)
    front.may_log_errors = True
    request = post(CHAT, body_of(model="broken"))
    short, ordinary = await client.ask(request), await (await front.client()).ask_ordinary_way(request)
    assert short.comparable == ordinary.comparable
    assert (short.status, b"has a defect" in short.body) == (500, True)


async def test_silent_child_is_a_502(front: Front) -> None:
    client = await front.ready(read_timeout=0.5)
    for said in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"):
        works = Works()
        front.child.act = sends(said) if said else works
        made = front.made
        reply = await client.ask(post(CHAT, body_of()))
        assert (reply.status, b"sent nothing for 0.5 s" in reply.body) == (502, True)
        assert front.child.received[-1].tasks == made
        if not said:
            await works.is_cut()
        await eventually(lambda: front.leases == 0)
        await front.warm(client)
