"""A connection is used for one request after another: reuse, pipelining, and its end."""

from __future__ import annotations

import gc
from asyncio import StreamReader, StreamWriter

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from router.proxy.proxied_request import ProxiedRequest
from router.server.connection import ClientConnection
from router.wire.response import Response
from tests.front import (
    CHAT,
    EVENTS,
    OK,
    Front,
    Works,
    body_of,
    echoes,
    post,
    sends,
    sends_and_resets,
)
from tests.server.samples import ANSWERS, FORM, MULTIPART
from tests.sockets import Handler
from tests.waiting import eventually


async def test_connection_is_reused_without_tasks(front: Front) -> None:
    client = await front.ready()
    made = front.made
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for number in range(100):
        assert (await client.ask(post(CHAT, body_of(n=number)))).body == body_of(n=number)
    assert front.made == made
    assert front.children.connections == 1
    assert (front.leases, len(front.server.server_state.connections)) == (0, 1)


FAILING = [(sends_and_resets(OK[:20]), 502), (sends(b"rubbish\r\n\r\n"), 502)]


@pytest.mark.parametrize(("act", "status"), [(sends(OK), 200), (sends(EVENTS), 200), *FAILING])
async def test_request_leaves_no_reference_cycle(front: Front, act: Handler, status: int) -> None:
    """`serve` lets Python look for cycles seldom."""
    client = await front.ready()
    front.child.act = act
    await eventually(lambda: not front.tasks)
    assert (await client.ask(post(CHAT, body_of()))).status == status
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(20):
            assert (await client.ask(post(CHAT, body_of()))).status == status
            client.leave()
            client = await front.client()
        await eventually(lambda: len(front.server.server_state.connections) == 1 and not front.tasks)
        gc.collect()
        kinds = ClientConnection | ProxiedRequest | RequestResponseCycle | Response
        assert not [left for left in gc.garbage if isinstance(left, kinds)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_connection_close_is_honoured(front: Front) -> None:
    await front.ready()
    for headers, version in (
        (["Connection: close"], "1.1"),
        ([], "1.0"),
        (["Connection: keep-alive"], "1.0"),
    ):
        for said in (OK, ANSWERS["chunked"]):
            client, made, front.child.act = await front.client(), front.made, sends(said)
            reply = await client.ask(post(CHAT, body_of(), *headers, version=version))
            assert reply.status == 200
            assert reply.body == (b'{"ok": 1}' if said is OK else b'{"a": "bcd"}')
            is_long = version == "1.0" and said is not OK  # as long as the connection
            assert reply.named("content-length") == ([] if is_long else [str(len(reply.body))])
            assert not reply.named("transfer-encoding")
            assert reply.named("connection") == ["close"]
            assert await client.is_closed()
            assert front.made - made == int(version == "1.0")


async def test_connection_close_is_honoured_for_any_body_length(front: Front) -> None:
    """Also if the head is cached, and the body before had another length."""
    await front.ready()
    for body in (b"", body_of(), b"", body_of()):
        client = await front.client()
        reply = await client.ask(post("/tokenize?model=a", body, "Connection: close"))
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_unknown_http_version_closes_the_connection(front: Front, version: str) -> None:
    client = await front.ready()
    front.child.act = sends(ANSWERS["chunked"])
    reply = await client.ask(post(CHAT, body_of(), "Connection: keep-alive", version=version))
    assert (reply.status, reply.body, reply.named("connection")) == (200, b'{"a": "bcd"}', ["close"])
    assert await client.is_closed()


async def test_http_1_0_client_gets_no_chunks(front: Front) -> None:
    """nginx speaks HTTP/1.0 to servers behind it, unless it is configured otherwise."""
    await front.ready()
    client, front.child.act = await front.client(), sends(EVENTS)
    reply = await client.ask(post(CHAT, body_of(stream=True), version="1.0"))
    assert (reply.status, reply.named("transfer-encoding")) == (200, [])
    assert reply.body == b"data: 1\n\ndata: [DONE]\n\n"
    assert await client.is_closed()


async def test_pipelined_requests_are_answered_in_order(front: Front) -> None:
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for count in (2, 50):
        bodies = [body_of(n=number) for number in range(count)]
        client.send(b"".join(post(CHAT, body) for body in bodies))
        assert [(await client.reply()).body for _ in bodies] == bodies
        assert (await client.ask(post(CHAT, bodies[0]))).body == bodies[0]
        assert [each.body for each in front.child.received] == [*bodies, bodies[0]]
        front.child.received.clear()


async def test_pipelined_request_is_not_part_of_the_body_before(front: Front) -> None:
    """Also after a form, whose parser would skip what follows the form."""
    client = await front.ready()
    form = post("/v1/audio/transcriptions", FORM, MULTIPART)
    assert (await client.ask(form)).status == 200
    client.send(form + post(CHAT, body_of()))
    assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert [each.body for each in front.child.received] == [FORM, FORM, body_of()]


@pytest.mark.parametrize("stream", [False, True])
async def test_pipelined_request_waits_for_the_one_before(front: Front, stream: bool) -> None:
    client, other, works = await front.ready(), await front.client(), Works()
    front.child.act = works
    other.send(post(CHAT, body_of()))
    await works.begun.wait()
    front.child.act = sends(OK)
    assert (await client.ask(post(CHAT, body_of()))).status == 200
    works.go.set()
    assert (await other.reply()).status == 200
    assert front.children.connections == 2, "so a second request need not wait for a connection"
    works = front.child.act = Works(EVENTS)
    client.send(post(CHAT, body_of(stream=stream)))
    await works.begun.wait()
    front.child.act = sends(OK)
    client.send(post(CHAT, body_of()))
    await front.turn()
    works.go.set()
    assert b"[DONE]" in (await client.reply()).body
    assert (await client.reply()).comparable == (await client.ask(post(CHAT, body_of()))).comparable


@pytest.mark.parametrize("start", [b"POST /tokenize HTTP/1.1\r\nHost: h\r\n", b"POST /tokenize HTTP/1.1", b"POST "])
async def test_request_inside_a_head_is_refused(front: Front, start: bytes) -> None:
    client = await front.ready()
    client.send(start)
    await front.turn()
    assert (await client.ask(post(CHAT, body_of()))).status == 400
    assert not front.child.received


async def test_pipelined_requests_of_all_kinds_are_answered_in_order(front: Front) -> None:
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    models = b"GET /models HTTP/1.1\r\nHost: h\r\n\r\n"
    wishes = [body_of(n=1), body_of(n=2, stream=True), None, body_of(n=3), b"{", None, body_of(n=4, stream=True)]
    for wanted in (wishes, wishes[1:], wishes[2:], wishes[::-1]):
        client.send(b"".join(models if body is None else post(CHAT, body) for body in wanted))
        for body in wanted:
            reply = await client.reply()
            if body is None:
                assert [model["id"] for model in reply.json()["data"]] == ["a", "b"]
            elif body == b"{":
                assert reply.status == 400
            else:
                assert reply.body == (b"data: %b\n\n" % body if b"stream" in body else body)
    await eventually(lambda: front.leases == 0)


async def test_pipelined_request_with_a_late_body_is_answered(front: Front) -> None:
    client = await front.ready()
    works = front.child.act = Works()
    large = post(CHAT, body_of(text="x" * 200_000))
    client.send(post(CHAT, body_of()) + large[:100])
    await works.begun.wait()
    works.go.set()
    assert (await client.reply()).status == 200
    client.send(large[100:-1])
    await front.turn()
    client.send(large[-1:])
    assert (await client.reply()).status == 200
    assert front.child.received[-1].body == body_of(text="x" * 200_000)


async def test_idle_connection_is_closed(front: Front) -> None:
    client = await front.ready(keep_alive=0.3)
    for _ in range(3):
        assert (await client.ask(post(CHAT, body_of()))).status == 200
    assert await client.is_closed()


async def test_connection_is_not_idle_while_a_response_is_due(front: Front) -> None:
    client, works = await front.ready(keep_alive=1.0), Works()
    front.child.act = works
    client.send(post(CHAT, body_of()))
    with pytest.raises(TimeoutError):
        await works.is_cut(1.5)
    assert (await client.reply()).status == 200
    assert await client.is_closed()


async def test_garbage_after_a_request_is_refused(front: Front) -> None:
    await front.ready()
    client, works = await front.client(), Works()
    front.child.act = works
    client.send(post(CHAT, body_of()) + b"rubbish\r\n\r\n")
    await works.begun.wait()
    works.go.set()
    assert [(await client.reply()).status for _ in range(2)] == [200, 400]
    assert await client.is_closed()
    await eventually(lambda: front.leases == 0)


async def test_pipelined_request_and_response_in_one_turn(front: Front) -> None:
    await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        front.child.act = sends(OK)
        writer.write(OK)
        client.send(post(CHAT, body_of()))

    for _ in range(50):
        client, front.child.act = await front.client(), act
        assert [(await client.ask(post(CHAT, body_of()))).status, (await client.reply()).status] == [200, 200]
        client.leave()
