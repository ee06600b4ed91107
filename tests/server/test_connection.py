"""The fast path and the ordinary way answer alike, and send the same to the child.

Which way a request took is seen from the tasks: uvicorn makes one for each request on the ordinary way."""

from __future__ import annotations

import pytest

from router.api import native, openai
from tests.front import (
    CHAT,
    DIALECTS,
    Front,
    body_of,
    echoes,
    post,
    sends,
)
from tests.server.samples import ANSWERS, FORM, MULTIPART
from tests.waiting import eventually

FALLS_BACK = {"nothing", "same", "events", "lines"}


@pytest.mark.parametrize("path", DIALECTS)
async def test_both_ways_answer_the_same(front: Front, path: str) -> None:
    client = await front.ready()
    request = post(path + "?x=%20y", body_of(more="\u00e4"), "X-A: b")
    for name, said in ANSWERS.items():
        front.child.act = sends(said)
        made = front.made
        short = await client.ask(request)
        assert (name, front.made - made) == (name, int(name in FALLS_BACK))
        assert [each.tasks for each in front.child.received] == [made], (
            "no task was made before the child got the request"
        )
        await front.warm(client)
        made = front.made
        ordinary = await client.ask_ordinary_way(request)
        assert front.made - made == 1
        assert (name, short.comparable) == (name, ordinary.comparable)
        assert ("x-request-id", "mine") in short.headers
        await eventually(lambda: front.leases == 0)
        await front.warm(client)


async def test_content_length_is_sent(front: Front) -> None:
    client = await front.ready()
    for name in ("json", "headers", "bad", "empty"):
        front.child.act = sends(ANSWERS[name])
        reply = await client.ask(post(CHAT, body_of()))
        assert (name, reply.named("content-length")) == (name, [str(len(reply.body))])
        assert not reply.named("transfer-encoding")
        assert len(reply.named("date")) == 1


REQUESTS = {
    **{path: post(path, body_of()) for path in (*openai.PATHS, *native.BY_BODY) if "{" not in path},
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


async def test_both_ways_send_the_same_to_the_child(front: Front) -> None:
    client = await front.ready(task_header="x-task")
    for name, request in REQUESTS.items():
        made = front.made
        replies = [await client.ask(request)]
        assert (name, front.made - made) == (name, int(name == "chunked"))
        replies.append(await client.ask_ordinary_way(request))
        assert (name, front.made - made) == (name, 1 + int(name == "chunked"))
        short, ordinary = front.child.received
        assert (name, short.head) == (name, ordinary.head)
        assert (name, short.body) == (name, ordinary.body)
        assert [reply.status for reply in replies] == [200, 200]
        front.child.received.clear()
    assert front.children.connections == 1


async def test_body_is_passed_on_unchanged(front: Front) -> None:
    client = await front.ready()
    body = b' {"model" : "a",\r\n"max_tokens":1, "x": "\\u00e4"}\n'
    await client.ask(post(CHAT + "?a=%2F&b", body, "X-A: b", "Authorization: Bearer x"))
    (received,) = front.child.received
    lines = received.head.decode().split("\r\n")
    key = front.pool.status("a").pid
    assert lines[0] == f"POST {CHAT}?a=%2F&b HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        f"authorization: Bearer key-{key}",
        f"content-length: {len(body)}",
        "host: localhost",
        "x-a: b",
        "x-request-id: mine",
    ]
    assert received.body == body


async def test_cached_head_fits_any_body_length(front: Front) -> None:
    """It fits for any client. The cache leaves out the length of the body; any other difference is another head."""
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
            assert [b"x-a: c" in each.head for each in front.child.received[-2:]] == [False, True]
    assert front.made == made


@pytest.mark.parametrize("target", ["/v1/ch\xe4t", "http://", "*", "//", "/v1/models", f"{CHAT}#x", "?model=a"])
async def test_odd_targets_are_answered_alike(front: Front, target: str) -> None:
    short = await (await front.ready()).ask(post(target, body_of()))
    ordinary = await (await front.client()).ask_ordinary_way(post(target, body_of()))
    assert short.comparable == ordinary.comparable


async def test_header_that_looks_like_a_length_is_not_taken_for_one(front: Front) -> None:
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
async def test_body_after_an_early_response_is_not_read_as_a_request(front: Front, name: str) -> None:
    """A proxy in front of the router may send the request of another client next, on the same connection."""
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
    assert not front.child.received


async def test_body_of_an_upgrade_request_is_not_read_as_a_request(front: Front) -> None:
    """The upgrade request is cut anywhere, and follows an empty line or another request."""
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


async def test_empty_body_takes_the_fast_path(front: Front) -> None:
    client = await front.ready()
    made = front.made
    assert (await client.ask(post("/tokenize?model=a", b""))).status == 200
    assert front.made == made
    assert front.child.received[0].head.startswith(b"POST /tokenize?model=a HTTP/1.1\r\n")
    assert b"\r\ncontent-length: 0\r\n" in front.child.received[0].head


@pytest.mark.parametrize("cut", [10, 60, None])
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_small_request_in_pieces_takes_the_fast_path(front: Front, size: int, cut: int | None) -> None:
    """Most clients send head and body separately. A body that is longer than uvicorn buffers takes the ordinary way."""
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


async def test_long_head_in_pieces_takes_the_fast_path(front: Front) -> None:
    client = await front.ready()
    request = post(CHAT, body_of(), *(f"X-{number}: {'x' * 5000}" for number in range(5)))
    made = front.made
    for cut in (10_000, 20_000):
        client.send(request[:cut])
        await front.turn()
        assert (await client.ask(request[cut:])).status == 200
    assert front.made == made


async def test_100_continue_is_sent(front: Front) -> None:
    client = await front.ready()
    made, request = front.made, post(CHAT, body_of(), "Expect: 100-continue")
    assert (await client.ask(request)).status == 100
    first = await client.reply()
    client.send(request[: -len(body_of())])
    assert (await client.reply()).status == 100
    second = await client.ask(body_of())
    assert front.made - made == 2
    assert first.comparable == second.comparable == (await client.ask(post(CHAT, body_of()))).comparable
    assert len({each.head for each in front.child.received}) == 1
