"""Requests for the ordinary way: refused, streamed, unlimited, or for a model that must load first."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

import pytest

from tests.front import (
    CHAT,
    DIALECTS,
    EVENTS,
    OK,
    Front,
    Works,
    body_of,
    post,
    sends,
)
from tests.waiting import eventually


async def test_keys_are_checked_alike(front: Front) -> None:
    right, wrong = "Authorization: Bearer sécret", "Authorization: Bearer other"
    front.start(keys=("sécret",))
    client = await front.client()
    for headers, status in (([right], 200), (["X-Api-Key: sécret"], 200), ([wrong], 401), ([], 401), ([right], 200)):
        for path in DIALECTS:
            request = post(path, body_of(), *headers)
            request = request.replace("é".encode("latin-1"), "é".encode())
            await client.ask(request)
            made = front.made
            short = await client.ask(request)
            assert front.made - made == (status == 401)
            assert short.comparable == (await client.ask_ordinary_way(request)).comparable
            assert short.status == status
    assert {each.head.count(b"authorization") for each in front.child.received} == {1}
    assert not any("sécret".encode() in each.head for each in front.child.received)


async def test_browser_gets_cors_headers(front: Front) -> None:
    client = await front.ready()
    made = front.made
    reply = await client.ask(post(CHAT, body_of(), "Origin: http://localhost:3000"))
    assert front.made - made == 1
    assert reply.named("access-control-allow-origin") == ["http://localhost:3000"]
    assert (await client.ask(post(CHAT, body_of(), "Origin: http://elsewhere"))).status == 403  # B-T1
    plain = await client.ask(post(CHAT, body_of()))
    assert not [name for name, _ in plain.headers if name.startswith("access-control")]


async def test_refusals_are_alike(front: Front) -> None:  # B-C1
    front.start(body_limit=1000, autoload=False)
    client = await front.client()
    assert (await client.ask(post(CHAT + "?autoload=true", body_of()))).status == 200
    front.child.received.clear()
    for path in DIALECTS:
        for name, status, request in (
            ("unknown", 404, post(path, body_of(model="c"))),
            ("none", 400, post(path, b"{}")),
            ("no name", 400, post(path, body_of(model=7))),
            ("bad JSON", 400, post(path, b'{"model": "a"')),
            ("no object", 400, post(path, b"[1]")),
            ("no UTF-8", 400, post(path, b'{"model": "\xff"}')),
            ("deep", 400, post(path, b"[" * 900)),
            ("too large", 413, post(path, body_of(text="x" * 1000))),
            ("many headers", 400, post(path, body_of(), *(f"X-{number}: 1" for number in range(100)))),
            ("not loaded", 400, post(path, body_of(model="b"))),
            ("not to be loaded", 400, post(path + "?autoload=false", body_of(model="b"))),
        ):
            made = front.made
            short, ordinary = await client.ask(request), await client.ask_ordinary_way(request)
            assert (path, name, short.status) == (path, name, status)
            assert (path, name, short.comparable) == (path, name, ordinary.comparable)
            assert front.made - made == 2
    assert not front.child.received
    made = front.made
    assert (await client.ask(post(CHAT + "?autoload=false", body_of()))).status == 200
    assert front.made == made


async def test_model_that_is_not_running_is_loaded(front: Front) -> None:  # B-S1
    client = await front.ready()
    made = front.made
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 1
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 1
    unload = post("/models/unload", b'{"model": "b"}')
    assert (await client.ask(unload)).status == 200
    await eventually(lambda: front.pool.status("b").value == "unloaded")
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 3


async def test_second_concurrent_request_opens_a_connection(front: Front) -> None:
    """The router keeps one connection; the second request needs a new one."""
    first, second = await front.ready(), await front.client()
    works = front.child.act = Works()
    made = front.made
    first.send(post(CHAT, body_of()))
    await works.begun.wait()
    second.send(post(CHAT, body_of()))
    await eventually(lambda: len(front.child.received) == 2)
    assert [each.tasks - made for each in front.child.received] == [0, 1]
    assert front.leases == 2
    works.go.set()
    assert [(await client.reply()).status for client in (first, second)] == [200, 200]
    assert (front.leases, front.children.connections) == (0, 2)


async def test_streams_and_unlimited_requests_fall_back(front: Front) -> None:  # B-L14
    client = await front.ready(generation_time=60)
    for body, headers in (
        (body_of(stream=True), []),
        (body_of(stream=True), ["X-Conversation-Id: c"]),
        (b'{"model": "a"}', []),
        (b'{"model": "a", "max_tokens": -1}', []),
    ):
        front.child.act = sends(EVENTS if b"stream" in body else OK)
        made, request = front.made, post(CHAT, body, *headers)
        short = await client.ask(request)
        assert front.made - made == 1
        assert short.comparable == (await client.ask_ordinary_way(request)).comparable
        first, second = front.child.received
        assert (first.head, first.body) == (second.head, second.body)
        assert (b"t_max_predict_ms" in first.body) == (b"stream" not in body)
        assert (b"x-conversation-id: c" in first.head) == bool(headers)
        front.child.received.clear()
    await eventually(lambda: front.leases == 0)


async def test_events_are_sent_as_they_come(front: Front) -> None:
    client = await front.ready()
    heard = asyncio.Event()
    told = EVENTS.index(b"data: 1\n\n") + len(b"data: 1\n\n")

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(EVENTS[:told])
        await heard.wait()
        writer.write(EVENTS[told:])

    front.child.act = act
    client.send(post(CHAT, body_of(stream=True)))
    await client.read_until(b"data: 1\n\n")
    heard.set()
    await client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_conversation_continues_after_disconnect(front: Front) -> None:
    await front.ready()
    client, works = await front.client(), Works(EVENTS)
    front.child.act = works
    client.send(post(CHAT, body_of(stream=True), "X-Conversation-Id: c"))
    await works.begun.wait()
    front.child.act = sends(EVENTS)
    other = await front.client()
    assert (await other.ask(b"GET /v1/stream?conv_id=c HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
    client.leave()
    with pytest.raises(TimeoutError):
        await works.is_cut(0.3)
    await eventually(lambda: front.leases == 0)


async def test_unlimited_request_is_ended_by_the_clock(front: Front) -> None:  # B-L14
    client = await front.ready(generation_time=0.1)
    works = front.child.act = Works()
    reply = await client.ask(post(CHAT, b'{"model": "a"}'))
    assert (reply.status, reply.json()["error"]["type"]) == (504, "timeout_error")
    await works.is_cut()
    await eventually(lambda: front.leases == 0)
