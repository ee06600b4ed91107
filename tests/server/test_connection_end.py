"""The client leaves or does not read, or the router stops, while a request is being answered."""

from __future__ import annotations

import asyncio
import json
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable

import pytest

from tests.front import (
    CHAT,
    Front,
    Works,
    answer,
    body_of,
    echoes,
    post,
    sends,
)
from tests.waiting import eventually


@pytest.mark.parametrize("is_apart", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        b"",
        b"POST /v1/cha",
        post(CHAT, body_of()),
        b"GET /models HTTP/1.1\r\n\r\n",
    ],
)
async def test_disconnect_stops_the_child(
    front: Front, more: bytes, is_apart: bool, caplog: pytest.LogCaptureFixture
) -> None:  # B-S2
    await front.ready()
    client, works = await front.client(), Works()
    front.child.act = works
    made = front.made
    client.send(post(CHAT, body_of()) + (b"" if is_apart else more))
    await works.begun.wait()
    assert front.leases == 1
    if is_apart:
        client.send(more)
        await front.turn()
    client.leave()
    await works.is_cut()
    await eventually(lambda: front.leases == 0)
    await eventually(lambda: len(front.server.server_state.connections) == 1 + is_apart)
    assert (front.made, len(front.child.received)) == (made, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await front.warm(await front.client())


async def test_disconnect_after_a_long_body_stops_the_child(front: Front) -> None:  # B-S2
    """uvicorn stops reading when it has buffered 64 KiB."""
    await front.ready()
    for _ in range(5):
        client, works = await front.client(), Works()
        front.child.act = works
        client.send(post(CHAT, body_of(text="x" * 150_000)))
        await works.begun.wait()
        client.leave()
        await works.is_cut()
        await eventually(lambda: front.leases == 0)
        await front.warm(await front.client())


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_of_a_pipelining_client_stops_the_child(front: Front, stream: bool) -> None:  # B-S2
    front.may_log_errors = True
    client, works = await front.ready(), Works()
    front.child.act = works
    made = front.made
    client.send(post(CHAT, body_of(stream=stream), "Expect: 100-continue") + post(CHAT, body_of()))
    await works.begun.wait()
    assert front.made > made
    await front.turn()
    client.leave()
    await works.is_cut()


async def test_disconnect_at_any_moment_releases_the_lease(front: Front) -> None:  # B-S2
    await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for turns in range(60):
        client = await front.client()
        client.send(post(CHAT, body_of(n=turns)))
        for _ in range(turns // 4):
            await asyncio.sleep(0)
        client.leave()
    await eventually(lambda: len(front.server.server_state.connections) == 1 and front.leases == 0 and not front.tasks)
    assert (await (await front.client()).ask(post(CHAT, body_of()))).body == body_of()


async def test_shutdown_answers_a_running_request(front: Front) -> None:
    client = await front.ready()
    idle, works = await front.client(), Works()
    await front.turn()
    front.child.act = works
    made = front.made
    client.send(post(CHAT, body_of()))
    await works.begun.wait()
    front.server.should_exit = True
    assert await idle.is_closed()
    works.go.set()
    reply = await client.reply()
    assert (reply.status, reply.named("connection")) == (200, ["close"])
    assert await client.is_closed()
    assert front.made == made


async def test_shutdown_answers_an_unfinished_request(front: Front) -> None:
    client = await front.ready()
    idle = await front.client()
    await front.turn()
    head, body = post(CHAT, body_of()).split(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n" + body[:1])
    await front.turn()
    front.server.should_exit = True
    assert await idle.is_closed()
    reply = await client.ask(body[1:])
    assert (reply.status, reply.named("connection")) == (200, ["close"])
    assert await client.is_closed()


@pytest.mark.parametrize(("size", "count"), [(20 * 1024, 300), (200 * 1024, 60)])
async def test_pipelined_responses_wait_for_their_reader(front: Front, size: int, count: int) -> None:
    client = await front.ready()
    front.child.act = sends(answer("200 OK", b"x" * size))
    client.send(post(CHAT, body_of()) * count)
    assert size * await rests(lambda: len(front.child.received)) < 4 * 2**20
    for _ in range(count):
        assert len((await client.reply()).body) == size
    assert (len(front.child.received), front.leases) == (count, 0)


@pytest.mark.parametrize(("size", "count"), [(20 * 1024, 300), (200 * 1024, 60)])
async def test_fast_path_responses_wait_for_their_reader(front: Front, size: int, count: int) -> None:
    """The client sends each request when the one before it was answered, until one is not."""
    client = await front.ready()
    front.child.act = sends(answer("200 OK", b"x" * size))
    made = front.made
    sent = 0
    while await rests(lambda: len(front.child.received), sent) == sent:
        await front.turn()
        client.send(post(CHAT, body_of()))
        sent += 1
    assert front.child.received[100_000 // size].tasks == made
    client.send(post(CHAT, body_of()) * (count - sent))
    assert size * await rests(lambda: len(front.child.received)) < 4 * 2**20
    for _ in range(count):
        assert len((await client.reply()).body) == size
    assert (len(front.child.received), front.leases) == (count, 0)


@pytest.mark.parametrize("how", ["more", "end"])
async def test_large_response_that_falls_back_is_sent_in_full(front: Front, how: str) -> None:
    """The client is slow."""

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        begun.set()
        await go.wait()
        writer.write(large)

    large, begun, go = answer("200 OK", b"x" * 4_000_000), asyncio.Event(), asyncio.Event()
    await front.ready()
    client, other = await front.client(), await front.client()
    await front.turn()
    front.child.act = act
    client.send(post(CHAT, body_of()))
    await begun.wait()
    if how == "more":
        client.send(b"P")
        await front.turn()
    else:
        front.server.should_exit = True
        assert await other.is_closed()
    go.set()
    async with asyncio.timeout(10):
        while not any(c.flow.write_paused for c in front.server.server_state.connections):  # type: ignore[union-attr]
            await asyncio.sleep(0.002)
    assert len((await client.reply()).body) == 4_000_000


async def rests(count: Callable[[], int], wanted: int = 1_000_000) -> int:
    """The count, when it is `wanted` or has not grown for a while."""
    before, now = -1, count()
    while before != now < wanted:
        before = now
        for _ in range(50):
            if (now := count()) >= wanted:
                break
            await asyncio.sleep(0.005)
    return now


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_model_is_unloaded_by_force_gets_an_error(front: Front, stream: bool) -> None:  # B-S19
    """On the fast path, and for a stream that has not begun."""
    await front.ready()
    client, works, other = await front.client(), Works(), await front.client()
    front.child.act = works
    asked = asyncio.ensure_future(client.ask(post(CHAT, body_of(stream=stream))))
    await works.begun.wait()
    assert (await other.ask(post("/models/unload", b'{"model": "a", "force": true}'))).status == 200
    reply = await asked
    assert (reply.status, front.leases) == (503, 0)
    error = json.loads(reply.body)["error"]
    assert (error["type"], error["message"]) == (
        "unavailable_error",
        "'a' was stopped while it served this request: unloaded. Send the request again.",
    )
    await works.is_cut()
