"""A connection that answers by itself what needs no waiting but for the child: nobody sees which way a request went.

Whether a task was made tells it: uvicorn makes one for each request that goes the ordinary way.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from router.api import anthropic, native, openai
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.proxy.proxied_request import ProxiedRequest
from router.server.connection import ClientConnection
from router.wire.response import HIGH_WATER_BYTES, Response
from tests.conftest import Starter
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
    breaks_off,
    echoes,
    post,
    says,
    until,
)
from tests.routers import Router, chat
from tests.sockets import Flood, Handler
from tests.waiting import PATIENCE_S

# Both ways


ANSWERS = {
    "json": OK,
    "chunked": answer("200 OK", b'{"a": "bcd"}', "Content-Type: application/json", chunked=True),
    "empty": answer("200 OK"),
    "created": answer("201 Created", b"x" * 5000, "Content-Type: text/plain"),
    "headers": answer(
        "200 OK", b"{}", "X-One: 1", "X-One: 2", "Set-Cookie: a=b", "X-Odd: \xe4", "ETag: W/y", "X-Empty:"
    ),
    "hops": answer("200 OK", b"{}", "Connection: X-Hop", "X-Hop: 1", "TE: x", "Trailer: y", "Upgrade: z", "X-Stays: 1"),
    "cors": answer("200 OK", b"{}", "Access-Control-Allow-Origin: *", "access-control-max-age: 3", "Vary: Origin"),
    "ids": answer("200 OK", b"{}", "X-Request-Id: theirs", "Request-Id: theirs"),
    "date": answer("200 OK", b"{}", "Server: llama.cpp"),
    "bad": answer("400 Bad", b'{"error": {"code": 400, "message": "no such field", "type": "invalid_request_error"}}'),
    "lost": answer("404 No", b'{"error": {"code": 404, "message": "not here"}}', "Content-Type: application/json"),
    "broken": answer("500 Oops", b"<html>", "Retry-After: 3"),
    "moved": answer("301 Away", b"there", "Location: /elsewhere"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "same": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "events": EVENTS,
    "lines": answer("200 OK", b'{"a": 1}\n{"b": 2}\n', "Content-Type: application/x-ndjson"),
    "interim": b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK,
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "rest": answer("200 OK", b"{}") + b"rubbish",
}
HANDED_OVER = {"nothing", "same", "events", "lines"}
RETOLD = {"bad", "lost", "broken"}


@pytest.mark.parametrize("path", DIALECTS)
async def test_both_ways_answer_the_same(front: Front, path: str) -> None:
    client = await front.ready()
    request = post(path + "?x=%20y", body_of(more="\u00e4"), "X-A: b")
    for name, said in ANSWERS.items():
        front.child.act = says(said)
        made = front.made
        short = await client.ask(request)
        is_retold = path.startswith("/v1/messages") and name in RETOLD
        assert (name, front.made - made) == (name, int(name in HANDED_OVER or is_retold))
        assert [asked.tasks for asked in front.child.asked] == [made], "no task was made before the child was asked"
        await front.warm(client)
        made = front.made
        ordinary = await client.ask_first(request)
        assert front.made - made == 1
        assert (name, short.told) == (name, ordinary.told)
        assert ("x-request-id", "mine") in short.headers
        assert front.leases == 0
        await front.warm(client)


async def test_a_length_that_was_told_is_told(front: Front) -> None:
    client = await front.ready()
    for name in ("json", "headers", "bad", "empty"):
        front.child.act = says(ANSWERS[name])
        reply = await client.ask(post(CHAT, body_of()))
        assert (name, reply.named("content-length")) == (name, [str(len(reply.body))])
        assert not reply.named("transfer-encoding")
        assert len(reply.named("date")) == 1


FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\0\xff\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--XX--\r\n'
)
MULTIPART = "Content-Type: multipart/form-data; boundary=XX"
REQUESTS = {
    **{path: post(path, body_of()) for path in (*openai.PATHS, *anthropic.PATHS, *native.BY_BODY) if "{" not in path},
    "query": post("/v1/completions?model=b&x=%C3%A4&autoload=1", body_of()),
    "model in the query": post("/completion?model=a", b'{"max_tokens": 1}'),
    "whole address": post("http://elsewhere" + CHAT + "?a=b", body_of()),
    "escapes": post("/v1/chat%2Fcompletions?a=%00", body_of()),
    "form": post("/v1/audio/transcriptions", FORM, MULTIPART),
    "headers": post(CHAT, body_of(), "X-A: 1", "X-a: 2", "Cookie: \xe4", "Accept: */*", "User-Agent: u", "Empty:"),
    "own": post(CHAT, body_of(), "Authorization: Bearer x", "X-Api-Key: y", "Accept-Encoding: gzip", "Host: other"),
    "hops": post(CHAT, body_of(), "Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: 5", "TE: x"),
    "offer": post(CHAT, body_of(), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"),
    "chunked": (
        b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body_of()), body_of())
    ),
    "conversation": post(CHAT, body_of(), "X-Conversation-Id: c"),
    "task": post(CHAT, body_of(), "X-Task: title"),
    "proxy": post(CHAT, body_of(), "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "Forwarded: for=x"),
    "spaces": post(CHAT, b' {"model" : "a",\r\n"max_tokens":1,"n":1e400}\n'),
    "large": post(CHAT, body_of(text="x" * 30_000)),
}


async def test_the_child_gets_the_same_on_both_ways(front: Front) -> None:
    client = await front.ready(task_header="x-task")
    for name, request in REQUESTS.items():
        made = front.made
        replies = [await client.ask(request)]
        assert (name, front.made - made) == (name, int(name == "chunked"))
        replies.append(await client.ask_first(request))
        assert (name, front.made - made) == (name, 1 + int(name == "chunked"))
        short, ordinary = front.child.asked
        assert (name, short.head) == (name, ordinary.head)
        assert (name, short.body) == (name, ordinary.body)
        assert [reply.status for reply in replies] == [200, 200]
        front.child.asked.clear()
    assert front.children.connections == 1


async def test_the_body_goes_through_as_it_came(front: Front) -> None:
    client = await front.ready()
    body = b' {"model" : "a",\r\n"max_tokens":1, "x": "\\u00e4"}\n'
    await client.ask(post(CHAT + "?a=%2F&b", body, "X-A: b", "Authorization: Bearer x"))
    (asked,) = front.child.asked
    lines = asked.head.decode().split("\r\n")
    key = front.pool.status("a").pid
    assert lines[0] == f"POST {CHAT}?a=%2F&b HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        f"authorization: Bearer key-{key}",
        f"content-length: {len(body)}",
        "host: localhost",
        "x-a: b",
        "x-request-id: mine",
    ]
    assert asked.body == body


async def test_a_head_that_comes_again(front: Front) -> None:
    """From whomever it comes; what is remembered is not the length of the body, and one that differs is another one."""
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    bodies = [body_of(text="x" * length) for length in (0, 1, 100, 5000)]
    made = front.made
    for number, name in enumerate(["Content-Length", "content-length"] * 2):
        client = await front.client() if number > 1 else client
        for body in bodies:
            wish = post(CHAT, body, "X-A: b").replace(b"Content-Length", name.encode())
            assert (await client.ask(wish)).body == body
            other = wish.replace(b"X-A: b", b"X-A: c").replace(b"mine", b"ours")
            reply = await client.ask(other)
            assert (reply.body, reply.named("x-request-id")) == (body, ["ours"])
            assert [b"x-a: c" in asked.head for asked in front.child.asked[-2:]] == [False, True]
    assert front.made == made


@pytest.mark.parametrize("target", ["/v1/ch\xe4t", "http://", "*", "//", "/v1/models", f"{CHAT}#x", "?model=a"])
async def test_odd_targets(front: Front, target: str) -> None:
    short = await (await front.ready()).ask(post(target, body_of()))
    ordinary = await (await front.client()).ask_first(post(target, body_of()))
    assert short.told == ordinary.told


async def test_what_only_looks_like_a_length_is_none(front: Front) -> None:
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for decoy in ("X-Content-Length: %d", "X: Content-Length: %d", "x-content-length: %d"):
        for more in (0, 0, -3, 50, 0):
            body = body_of(more=more)
            assert (await client.ask(post(CHAT, body, decoy % (len(body) + more)))).body == body


EARLY = {
    "no such path": (b"POST /nowhere HTTP/1.1\r\nHost: h\r\n", 404),
    "no such method": (b"PUT /health HTTP/1.1\r\nHost: h\r\n", 405),
    "no key": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\n", 401),
}


@pytest.mark.parametrize("name", EARLY)
async def test_a_body_behind_its_answer_is_no_request(front: Front, name: str) -> None:
    """A proxy in front of us may send the request of another client next, on the same connection."""
    front.start(keys=("k",) if name == "no key" else ())
    client = await front.client()
    start, status = EARLY[name]
    inner = b"GET /health HTTP/1.1\r\nHost: inner\r\n\r\n"
    victim = post("/nowhere", inner, "Authorization: Bearer k").removesuffix(inner)
    offer = b"POST / HTTP/1.1\r\nUpgrade:" + b"a" * (len(victim) - 10) + b"\r\n\r\n"
    for body in (offer, post(CHAT, body_of())):
        assert (await client.ask(start + b"Content-Length: %d\r\n\r\n" % len(body))).status == status
        client.send(body)
        await front.turn()
        assert (await client.ask(victim + inner)).status == 404
        assert (await client.ask(start + b"Content-Length: 0\r\n\r\n")).status == status
    assert not front.child.asked


async def test_the_body_of_an_offer_is_no_request(front: Front) -> None:
    """Where a proxy passes offers on, cut anywhere, behind an empty line or another request."""
    client = await front.ready()
    inner = b"GET /health HTTP/1.1\r\nHost: inner\r\n\r\n"
    offer = post(CHAT, inner, "Connection: Upgrade", "Upgrade: h2c").removesuffix(inner)
    for pieces in (
        [offer, inner],
        [b"\r\n" + offer, inner],
        [offer[:-50], offer[-50:], inner],
        [offer[:10], offer[10:] + inner],
        [inner + offer + inner],
        [inner + b"\r\n\r\n" + offer[:-2], offer[-2:] + inner],
    ):
        for piece in pieces:
            client.send(piece)
            await front.turn()
        if pieces[0].startswith(inner):
            assert (await client.reply()).status == 200
        assert b"not valid JSON" in (await client.reply()).body
        assert (await client.ask(post(CHAT, body_of()))).status == 200


async def test_a_request_without_a_body(front: Front) -> None:
    client = await front.ready()
    made = front.made
    assert (await client.ask(post("/tokenize?model=a", b""))).status == 200
    assert front.made == made
    assert front.child.asked[0].head.startswith(b"POST /tokenize?model=a HTTP/1.1\r\n")
    assert b"\r\ncontent-length: 0\r\n" in front.child.asked[0].head


@pytest.mark.parametrize("cut", [10, 60, None])
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_request_that_comes_in_pieces(front: Front, size: int, cut: int | None) -> None:
    """Most clients send head and body apart. What is longer than uvicorn holds goes the ordinary way."""
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for body, count in ((body_of(), 0), (body_of(text="x" * 150_000), 1), (body_of(), 0)):
        head = post(CHAT, body).removesuffix(body)
        made = front.made
        if cut:
            client.send(head[:cut])
            await front.turn()
            client.send(head[cut:-3])
            await front.turn()
            client.send(head[-3:])
        else:
            client.send(head)
        for start in range(0, len(body), max(size, len(body) // 30)):
            await front.turn()
            client.send(body[start : start + max(size, len(body) // 30)])
        assert (await client.reply()).body == body
        assert front.made - made == count


async def test_a_long_head_that_comes_in_pieces(front: Front) -> None:
    client = await front.ready()
    request = post(CHAT, body_of(), *(f"X-{number}: {'x' * 5000}" for number in range(5)))
    made = front.made
    for cut in (10_000, 20_000):
        client.send(request[:cut])
        await front.turn()
        assert (await client.ask(request[cut:])).status == 200
    assert front.made == made


async def test_a_request_that_waits_for_100_continue(front: Front) -> None:
    client = await front.ready()
    made, request = front.made, post(CHAT, body_of(), "Expect: 100-continue")
    assert (await client.ask(request)).status == 100
    first = await client.reply()
    client.send(request[: -len(body_of())])
    assert (await client.reply()).status == 100
    second = await client.ask(body_of())
    assert front.made - made == 2
    assert first.told == second.told == (await client.ask(post(CHAT, body_of()))).told
    assert len({asked.head for asked in front.child.asked}) == 1


# Keep-alive


async def test_a_hundred_requests_on_one_connection(front: Front) -> None:
    client = await front.ready()
    made = front.made
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for number in range(100):
        assert (await client.ask(post(CHAT, body_of(n=number)))).body == body_of(n=number)
    assert front.made == made
    assert front.children.connections == 1
    assert (front.leases, len(front.server.server_state.connections)) == (0, 1)


FAILING = [(breaks_off(OK[:20]), 502), (says(b"rubbish\r\n\r\n"), 502)]


@pytest.mark.parametrize(("act", "status"), [(says(OK), 200), (says(EVENTS), 200), *FAILING])
async def test_a_request_leaves_no_cycle(front: Front, act: Handler, status: int) -> None:
    """Whoever serves has Python look for cycles seldom."""
    client = await front.ready()
    front.child.act = act
    await until(lambda: not front.tasks)
    assert (await client.ask(post(CHAT, body_of()))).status == status
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(20):
            assert (await client.ask(post(CHAT, body_of()))).status == status
            client.leave()
            client = await front.client()
        await until(lambda: len(front.server.server_state.connections) == 1 and not front.tasks)
        gc.collect()
        kinds = ClientConnection | ProxiedRequest | RequestResponseCycle | Response
        assert not [left for left in gc.garbage if isinstance(left, kinds)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_whoever_wants_it_closed_has_it_closed(front: Front) -> None:
    await front.ready()
    for headers, version in (
        (["Connection: close"], "1.1"),
        ([], "1.0"),
        (["Connection: keep-alive"], "1.0"),
    ):
        for said in (OK, ANSWERS["chunked"]):
            client, made, front.child.act = await front.client(), front.made, says(said)
            reply = await client.ask(post(CHAT, body_of(), *headers, version=version))
            assert reply.status == 200
            assert reply.body == (b'{"ok": 1}' if said is OK else b'{"a": "bcd"}')
            is_long = version == "1.0" and said is not OK  # as long as the connection
            assert reply.named("content-length") == ([] if is_long else [str(len(reply.body))])
            assert not reply.named("transfer-encoding")
            assert reply.named("connection") == ["close"]
            assert await client.is_closed()
            assert front.made - made == int(version == "1.0")


async def test_whoever_wants_it_closed_again_has_it_closed_again(front: Front) -> None:
    """Whatever the length was the first time."""
    await front.ready()
    for body in (b"", body_of(), b"", body_of()):
        client = await front.client()
        reply = await client.ask(post("/tokenize?model=a", body, "Connection: close"))
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_a_version_that_there_is_not_has_its_end(front: Front, version: str) -> None:
    client = await front.ready()
    front.child.act = says(ANSWERS["chunked"])
    reply = await client.ask(post(CHAT, body_of(), "Connection: keep-alive", version=version))
    assert (reply.status, reply.body, reply.named("connection")) == (200, b'{"a": "bcd"}', ["close"])
    assert await client.is_closed()


async def test_a_client_that_knows_no_chunks_gets_none(front: Front) -> None:
    """nginx speaks HTTP/1.0 to whoever is behind it, unless it is told not to."""
    await front.ready()
    client, front.child.act = await front.client(), says(EVENTS)
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
        assert [asked.body for asked in front.child.asked] == [*bodies, bodies[0]]
        front.child.asked.clear()


async def test_a_pipelined_request_is_no_part_of_the_one_before(front: Front) -> None:
    """Nor where what stands behind a body would be passed over, as in a form."""
    client = await front.ready()
    form = post("/v1/audio/transcriptions", FORM, MULTIPART)
    assert (await client.ask(form)).status == 200
    client.send(form + post(CHAT, body_of()))
    assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert [asked.body for asked in front.child.asked] == [FORM, FORM, body_of()]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_behind_another_waits_for_it(front: Front, stream: bool) -> None:
    client, other, works = await front.ready(), await front.client(), Works()
    front.child.act = works
    other.send(post(CHAT, body_of()))
    await works.begun.wait()
    front.child.act = says(OK)
    assert (await client.ask(post(CHAT, body_of()))).status == 200
    works.go.set()
    assert (await other.reply()).status == 200
    assert front.children.connections == 2, "so a second request need not wait for a connection"
    works = front.child.act = Works(EVENTS)
    client.send(post(CHAT, body_of(stream=stream)))
    await works.begun.wait()
    front.child.act = says(OK)
    client.send(post(CHAT, body_of()))
    await front.turn()
    works.go.set()
    assert b"[DONE]" in (await client.reply()).body
    assert (await client.reply()).told == (await client.ask(post(CHAT, body_of()))).told


@pytest.mark.parametrize("start", [b"POST /tokenize HTTP/1.1\r\nHost: h\r\n", b"POST /tokenize HTTP/1.1", b"POST "])
async def test_a_request_in_a_head_is_none(front: Front, start: bytes) -> None:
    client = await front.ready()
    client.send(start)
    await front.turn()
    assert (await client.ask(post(CHAT, body_of()))).status == 400
    assert not front.child.asked


async def test_pipelined_requests_of_all_kinds(front: Front) -> None:
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
    assert front.leases == 0


async def test_a_pipelined_request_whose_body_comes_later(front: Front) -> None:
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
    assert front.child.asked[-1].body == body_of(text="x" * 200_000)


async def test_a_connection_that_nobody_uses_is_closed(front: Front) -> None:
    client = await front.ready(keep_alive=0.3)
    for _ in range(3):
        assert (await client.ask(post(CHAT, body_of()))).status == 200
    assert await client.is_closed()


async def test_a_connection_is_in_use_while_its_answer_is_awaited(front: Front) -> None:
    client, works = await front.ready(keep_alive=1.0), Works()
    front.child.act = works
    client.send(post(CHAT, body_of()))
    with pytest.raises(TimeoutError):
        await works.is_cut(1.5)
    assert (await client.reply()).status == 200
    assert await client.is_closed()


# Handing over


async def test_an_answer_that_comes_in_pieces_comes_whole(front: Front) -> None:
    client = await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        for place in range(0, len(OK), 30):
            writer.write(OK[place : place + 30])
            await front.turn()

    front.child.act = act
    reply = client.ask(post(CHAT, body_of()))
    asked = asyncio.create_task(reply)
    await until(lambda: bool(front.child.asked))
    assert (await asked).body == b'{"ok": 1}'


async def test_large_answers(front: Front) -> None:
    client = await front.ready()
    for size in (HIGH_WATER_BYTES - 1, HIGH_WATER_BYTES, HIGH_WATER_BYTES + 1, 8 * HIGH_WATER_BYTES):
        body = (b"%06d" * (size // 6 + 1) % tuple(range(size // 6 + 1)))[:size]
        for chunked in (False, True):
            front.child.act = says(answer("200 OK", body, chunked=chunked))
            made = front.made
            for _ in range(3):
                assert (await client.ask(post(CHAT, body_of()))).body == body
            if size != HIGH_WATER_BYTES + 1:  # it goes either way: the last byte may come by itself
                assert front.made - made == (3 if size > HIGH_WATER_BYTES else 0)
    assert front.leases == 0


async def test_an_answer_without_end_waits_for_its_reader(front: Front) -> None:
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


async def test_a_kept_connection_that_the_child_closes_is_replaced(front: Front) -> None:
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
        assert [asked.tasks - made for asked in front.child.asked] == [0, 1]
        assert front.child.asked[0].body == front.child.asked[1].body
        assert front.leases == 0
        front.child.asked.clear()


async def both(front: Front, client: Client, act: Handler, request: bytes) -> tuple[Reply, Reply]:
    """The short way, and the ordinary one."""
    replies = []
    for way in (Client.ask, Client.ask_first):
        await front.warm(client)
        front.child.act, made = act, front.made
        replies.append(await way(client, request))
        assert front.child.asked[0].tasks - made == (way is Client.ask_first)
    assert front.leases == 0
    return replies[0], replies[1]


async def test_a_child_that_ends_before_its_answer_is_told_of(front: Front) -> None:
    client = await front.ready()
    for path in DIALECTS:
        for said in (b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"):
            short, ordinary = await both(front, client, breaks_off(said), post(path, body_of()))
            assert short.told == ordinary.told
            assert (short.status, b"Send the request again" in short.body) == (502, True)
            assert ("request_id" in short.json()) == (path == "/v1/messages")


async def test_an_answer_that_breaks_off_is_cut(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    client = await front.ready()
    for way in (Client.ask, Client.ask_first):
        await front.warm(client)
        front.child.act = breaks_off(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await way(client, post(CHAT, body_of()))
        assert caught.value.partial == b"abc"
        client = await front.client()
    assert front.leases == 0
    await until(lambda: not front.tasks)
    front.may_log_errors = True
    told = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
    assert told == {"ASGI callable returned without completing response."}  # which is how uvicorn comes to cut it


async def test_events_that_break_off_end_with_the_error(front: Front) -> None:  # B-C4
    client = await front.ready()
    for path in DIALECTS:
        short, ordinary = await both(front, client, breaks_off(EVENTS[:-20]), post(path, body_of()))
        assert short.told == ordinary.told
        first, error, end = short.body.split(b"\n\n")
        assert (first, end) == (b"data: 1", b"")
        assert error.startswith(b"event: error" if path == "/v1/messages" else b"data: {")
        assert b"in the middle of its answer" in error


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxx",
    "long head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


async def test_garbage_is_told_of(front: Front) -> None:
    client = await front.ready()
    for name, said in GARBAGE.items():
        short, ordinary = await both(front, client, says(said), post(CHAT, body_of()))
        assert (name, short.told) == (name, ordinary.told)
        assert (name, short.status) == (name, 502)


async def test_a_status_that_uvicorn_does_not_know_keeps_nobody_waiting(front: Front) -> None:
    client = await front.ready()
    for status in ("000", "099", "600", "700", "999"):
        front.child.act = says(answer(f"{status} Odd", b"{}"))
        for _ in range(2):
            reply = await client.ask(post(CHAT, body_of()))
            assert (reply.status, f"the status {status}" in reply.json()["error"]["message"]) == (502, True)
            assert front.leases == 0
        await front.warm(client)


class Broken(Catalog):
    def resolve(self, name: str | None) -> ModelSpec:
        if name == "broken":
            raise ZeroDivisionError
        return super().resolve(name)


async def test_a_defect_is_told_on_both_ways(front: Front) -> None:
    client = await front.ready(kind=Broken)
    front.may_log_errors = True
    request = post(CHAT, body_of(model="broken"))
    short, ordinary = await client.ask(request), await (await front.client()).ask_first(request)
    assert short.told == ordinary.told
    assert (short.status, b"has a defect" in short.body) == (500, True)


async def test_silence_is_told_of(front: Front) -> None:
    client = await front.ready(read_timeout=0.5)
    for path, said in ((CHAT, b""), ("/v1/messages", b""), (CHAT, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")):
        works = Works()
        front.child.act = says(said) if said else works
        made = front.made
        reply = await client.ask(post(path, body_of()))
        assert (reply.status, b"sent nothing for 0.5 s" in reply.body) == (502, True)
        assert ("request_id" in reply.json()) == (path == "/v1/messages")
        assert front.child.asked[-1].tasks == made
        if not said:
            await works.is_cut()
        assert front.leases == 0
        await front.warm(client)


# A client that leaves


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
async def test_a_client_that_leaves_stops_the_child(
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
    await until(lambda: front.leases == 0)
    await until(lambda: len(front.server.server_state.connections) == 1 + is_apart)
    assert (front.made, len(front.child.asked)) == (made, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await front.warm(await front.client())


async def test_a_client_that_leaves_is_heard_behind_a_long_body(front: Front) -> None:  # B-S2
    """uvicorn reads no further when it holds 64 KiB."""
    await front.ready()
    for _ in range(5):
        client, works = await front.client(), Works()
        front.child.act = works
        client.send(post(CHAT, body_of(text="x" * 150_000)))
        await works.begun.wait()
        client.leave()
        await works.is_cut()
        await until(lambda: front.leases == 0)
        await front.warm(await front.client())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_with_more_requests_that_leaves_after_the_ordinary_way_was_taken(
    front: Front, stream: bool
) -> None:  # B-S2
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


async def test_clients_that_leave_at_any_moment(front: Front) -> None:  # B-S2
    await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    for turns in range(60):
        client = await front.client()
        client.send(post(CHAT, body_of(n=turns)))
        for _ in range(turns // 4):
            await asyncio.sleep(0)
        client.leave()
    await until(lambda: len(front.server.server_state.connections) == 1 and front.leases == 0 and not front.tasks)
    assert (await (await front.client()).ask(post(CHAT, body_of()))).body == body_of()


async def test_rubbish_behind_a_request(front: Front) -> None:
    await front.ready()
    client, works = await front.client(), Works()
    front.child.act = works
    client.send(post(CHAT, body_of()) + b"rubbish\r\n\r\n")
    await works.begun.wait()
    works.go.set()
    assert [(await client.reply()).status for _ in range(2)] == [200, 400]
    assert await client.is_closed()
    await until(lambda: front.leases == 0)


# The end of the router


async def test_a_request_under_way_at_the_end_is_answered(front: Front) -> None:
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


async def test_a_request_that_has_not_come_whole_at_the_end_is_answered(front: Front) -> None:
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


# What is not for the short way


async def test_keys(front: Front) -> None:
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
            assert short.told == (await client.ask_first(request)).told
            assert short.status == status
    assert {asked.head.count(b"authorization") for asked in front.child.asked} == {1}
    assert not any("sécret".encode() in asked.head for asked in front.child.asked)


async def test_a_browser_gets_what_cors_says(front: Front) -> None:
    client = await front.ready()
    made = front.made
    reply = await client.ask(post(CHAT, body_of(), "Origin: http://localhost:3000"))
    assert front.made - made == 1
    assert reply.named("access-control-allow-origin") == ["http://localhost:3000"]
    assert (await client.ask(post(CHAT, body_of(), "Origin: http://elsewhere"))).status == 403  # B-T1
    plain = await client.ask(post(CHAT, body_of()))
    assert not [name for name, _ in plain.headers if name.startswith("access-control")]


async def test_what_is_refused_is_refused_alike(front: Front) -> None:  # B-C1
    front.start(body_limit=1000, autoload=False)
    client = await front.client()
    assert (await client.ask(post(CHAT + "?autoload=true", body_of()))).status == 200
    front.child.asked.clear()
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
            short, ordinary = await client.ask(request), await client.ask_first(request)
            assert (path, name, short.status) == (path, name, status)
            assert (path, name, short.told) == (path, name, ordinary.told)
            assert front.made - made == 2
    assert not front.child.asked
    made = front.made
    assert (await client.ask(post(CHAT + "?autoload=false", body_of()))).status == 200
    assert front.made == made


async def test_a_model_that_does_not_run_is_loaded(front: Front) -> None:  # B-S1
    client = await front.ready()
    made = front.made
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 1
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 1
    unload = post("/models/unload", b'{"model": "b"}')
    assert (await client.ask(unload)).status == 200
    await until(lambda: front.pool.status("b").value == "unloaded")
    assert (await client.ask(post(CHAT, body_of(model="b")))).status == 200
    assert front.made - made == 3


async def test_two_at_once_are_both_answered(front: Front) -> None:
    """One connection is kept: the other request needs a new one."""
    first, second = await front.ready(), await front.client()
    works = front.child.act = Works()
    made = front.made
    first.send(post(CHAT, body_of()))
    await works.begun.wait()
    second.send(post(CHAT, body_of()))
    await until(lambda: len(front.child.asked) == 2)
    assert [asked.tasks - made for asked in front.child.asked] == [0, 1]
    assert front.leases == 2
    works.go.set()
    assert [(await client.reply()).status for client in (first, second)] == [200, 200]
    assert (front.leases, front.children.connections) == (0, 2)


async def test_streams_and_what_has_no_limit_go_on_the_ordinary_way(front: Front) -> None:  # B-L14
    client = await front.ready(generation_time=60)
    for body, headers in (
        (body_of(stream=True), []),
        (body_of(stream=True), ["X-Conversation-Id: c"]),
        (b'{"model": "a"}', []),
        (b'{"model": "a", "max_tokens": -1}', []),
    ):
        front.child.act = says(EVENTS if b"stream" in body else OK)
        made, request = front.made, post(CHAT, body, *headers)
        short = await client.ask(request)
        assert front.made - made == 1
        assert short.told == (await client.ask_first(request)).told
        first, second = front.child.asked
        assert (first.head, first.body) == (second.head, second.body)
        assert (b"t_max_predict_ms" in first.body) == (b"stream" not in body)
        assert (b"x-conversation-id: c" in first.head) == bool(headers)
        front.child.asked.clear()
    assert front.leases == 0


async def test_each_event_of_a_stream_comes_when_it_is_told(front: Front) -> None:
    client = await front.ready()
    heard = asyncio.Event()
    told = EVENTS.index(b"data: 1\n\n") + len(b"data: 1\n\n")

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(EVENTS[:told])
        await heard.wait()
        writer.write(EVENTS[told:])

    front.child.act = act
    client.send(post(CHAT, body_of(stream=True)))
    await client.hears(b"data: 1\n\n")
    heard.set()
    await client.hears(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_the_stream_of_a_conversation_goes_on_when_its_client_has_left(front: Front) -> None:
    await front.ready()
    client, works = await front.client(), Works(EVENTS)
    front.child.act = works
    client.send(post(CHAT, body_of(stream=True), "X-Conversation-Id: c"))
    await works.begun.wait()
    front.child.act = says(EVENTS)
    other = await front.client()
    assert (await other.ask(b"GET /v1/stream?conv_id=c HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
    client.leave()
    with pytest.raises(TimeoutError):
        await works.is_cut(0.3)
    await until(lambda: front.leases == 0)


async def test_what_has_no_limit_is_ended_by_the_clock(front: Front) -> None:  # B-L14
    client = await front.ready(generation_time=0.1)
    works = front.child.act = Works()
    reply = await client.ask(post(CHAT, b'{"model": "a"}'))
    assert (reply.status, reply.json()["error"]["type"]) == (504, "timeout_error")
    await works.is_cut()
    assert front.leases == 0


# A client that does not read


@pytest.mark.parametrize(("size", "count"), [(20 * 1024, 300), (200 * 1024, 60)])
async def test_answers_wait_for_their_reader(front: Front, size: int, count: int) -> None:
    client = await front.ready()
    front.child.act = says(answer("200 OK", b"x" * size))
    client.send(post(CHAT, body_of()) * count)
    assert size * await rests(lambda: len(front.child.asked)) < 4 * 2**20
    for _ in range(count):
        assert len((await client.reply()).body) == size
    assert (len(front.child.asked), front.leases) == (count, 0)


@pytest.mark.parametrize(("size", "count"), [(20 * 1024, 300), (200 * 1024, 60)])
async def test_answers_by_the_short_way_wait_for_their_reader(front: Front, size: int, count: int) -> None:
    """Each request comes when the one before it was answered, until one is not."""
    client = await front.ready()
    front.child.act = says(answer("200 OK", b"x" * size))
    made = front.made
    sent = 0
    while await rests(lambda: len(front.child.asked), sent) == sent:
        await front.turn()
        client.send(post(CHAT, body_of()))
        sent += 1
    assert front.child.asked[100_000 // size].tasks == made
    client.send(post(CHAT, body_of()) * (count - sent))
    assert size * await rests(lambda: len(front.child.asked)) < 4 * 2**20
    for _ in range(count):
        assert len((await client.reply()).body) == size
    assert (len(front.child.asked), front.leases) == (count, 0)


@pytest.mark.parametrize("how", ["more", "end"])
async def test_a_large_answer_that_is_handed_over_comes_whole(front: Front, how: str) -> None:
    """To a reader that takes its time."""

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


async def test_more_from_the_client_and_the_answer_in_one_turn(front: Front) -> None:
    await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        front.child.act = says(OK)
        writer.write(OK)
        client.send(post(CHAT, body_of()))

    for _ in range(50):
        client, front.child.act = await front.client(), act
        assert [(await client.ask(post(CHAT, body_of()))).status, (await client.reply()).status] == [200, 200]
        client.leave()


async def rests(count: Callable[[], int], wanted: int = 1_000_000) -> int:
    """That count, when it is as wanted or has not grown for a while."""
    before, now = -1, count()
    while before != now < wanted:
        before = now
        for _ in range(50):
            if (now := count()) >= wanted:
                break
            await asyncio.sleep(0.005)
    return now


# Whole routers


@contextlib.asynccontextmanager
async def whole(routers: Starter, fake: str, models: Path, **environ: str) -> AsyncIterator[tuple[Router, Client]]:
    """A router with the fake engine, and a client of it when a connection to the child of tiny-a is kept."""
    router = routers("--engine", fake, "--models-dir", str(models), "--allowed-hosts", "h", **environ)
    url = httpx.URL(router.url)
    client = Client(*await asyncio.open_connection(url.host, url.port))
    client.patience = PATIENCE_S
    try:
        assert (await client.ask(post(CHAT, body_of(**chat("tiny-a"))))).status == 200
        yield router, client
    finally:
        client.leave()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn


async def test_a_whole_router_answers_in_order(routers: Starter, fake: str, tiny_models: Path) -> None:
    async with whole(routers, fake, tiny_models) as (_, client):
        counts = [1, 3, 2, 5, 4] * 4
        client.send(b"".join(post(CHAT, body_of(**chat("tiny-a", count))) for count in counts))
        for count in counts:
            assert (await client.reply()).json()["usage"]["completion_tokens"] == count
        reply = await client.ask(post(CHAT, body_of(**chat("tiny-a")), version="1.0"))
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()


async def test_a_child_that_ends_under_a_request_is_not_the_clients_concern(
    routers: Starter, fake: str, tiny_models: Path
) -> None:  # B-S14
    async with whole(routers, fake, tiny_models, FAKE_CRASH_AFTER_REQUESTS="1") as (router, client):
        assert (await client.ask(post(CHAT, body_of(**chat("tiny-a"))))).status == 200
        assert router.loads() == 2


async def test_a_router_that_is_stopped_answers_first(
    routers: Starter, fake: str, tiny_models: Path, tmp_path: Path
) -> None:  # B-S3
    journal = tmp_path / "journal"
    slow = {"FAKE_FIRST_SECONDS": "0.5", "FAKE_JOURNAL": str(journal)}
    async with whole(routers, fake, tiny_models, **slow) as (router, client):
        client.send(post(CHAT, body_of(**chat("tiny-a"))))
        await until(lambda: journal.read_text().count(" request ") == 2)
        stopped = asyncio.create_task(asyncio.to_thread(router.stop))
        reply = await client.reply()
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()
        assert await stopped == 0
        assert "a defect" not in router.log
