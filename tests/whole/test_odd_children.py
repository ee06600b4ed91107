"""Whatever a child answers, the client gets one well-formed answer or a cut. B-T8, B-T5"""

from __future__ import annotations

import asyncio
import json
import logging
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any

import pytest

from router.api.ollama import embedding, events, generation
from router.wire.response import MAX_HEAD_BYTES
from tests.front import CHAT, OK, Front, answer, body_of, post, sends
from tests.sockets import Handler

JSON = "Content-Type: application/json"
WAYS = ("short", "ordinary", "anthropic", "ollama", "ollama stream")


async def ask(front: Front, way: str) -> tuple[int, bytes]:
    """Send one request in this way. Returns status and body, status 0 for a cut answer. Fails if the answer is not
    HTTP."""
    client = await front.client()
    try:
        if way == "ordinary":
            reply = await client.ask_ordinary_way(post(CHAT, body_of()))
        elif way == "short":
            reply = await client.ask(post(CHAT, body_of()))
        elif way == "anthropic":
            reply = await client.ask(post("/v1/messages", body_of(messages=[{"role": "user", "content": "x"}])))
        else:
            asked = {"messages": [{"role": "user", "content": "x"}], "stream": way == "ollama stream"}
            reply = await client.ask(post("/api/chat", body_of(**asked)))
    except asyncio.IncompleteReadError:
        return 0, b""
    return reply.status, reply.body


def assert_well_formed(way: str, status: int, body: bytes) -> None:
    """The body is an error in the shape of its API."""
    error = json.loads(body.splitlines()[-1])["error"]
    if way.startswith("ollama"):
        assert isinstance(error, str)
    else:
        assert isinstance(error["message"], str)
    assert b"defect" not in body


HEAD = b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b"\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


# What must not reach a client: each becomes a 502 of the router.
BROKEN: dict[str, bytes] = {
    **{f"status {status}": answer(f"{status} Odd", b"{}", JSON) for status in ("000", "099", "600", "700", "999")},
    **{f"status {status}": answer(f"{status} Odd", b"{}", JSON) for status in ("1", "20", "2000", "-20", "2x0")},
    "no status line": b"content-length: 2\r\n\r\n{}",
    "nothing like HTTP": b"hello there\r\n\r\n",
    "HTTP/0.9": b"<html>",
    "a newline alone": b"\n\n\n\n{}\n",
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x02{}",
    "endless 1xx": b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_HEAD_BYTES // 20),
    "a header without end": HEAD + b"X: " + b"x" * (2 * MAX_HEAD_BYTES),
    "NUL in a header": HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "CR in a header": HEAD + b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "a blank in a name": HEAD + b"X Y: a\r\nContent-Length: 2\r\n\r\n{}",
    "no colon": HEAD + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a huge length": HEAD + b"Content-Length: %d\r\n\r\n{}" % 10**30,
    "a length in words": HEAD + b"Content-Length: two\r\n\r\n{}",
    "nothing": b"",
}


def once(said: bytes) -> Handler:
    """Writes it, and closes its side."""

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()
        raise ConnectionResetError

    return act


@pytest.mark.parametrize("way", WAYS)
async def test_a_broken_answer_is_a_502(front: Front, way: str, caplog: pytest.LogCaptureFixture) -> None:  # B-T8
    client = await front.ready()
    for name, said in BROKEN.items():
        for act in (sends(said), once(said)) if said else (once(said),):
            await front.warm(client)
            front.child.act = act
            status, body = await ask(front, way)
            assert status == 502, (name, status, body)
            assert_well_formed(way, status, body)
            assert front.leases == 0
    assert "defect" not in caplog.text


# Odd, but answers: each comes through, or is cut.
ODD: dict[str, tuple[bytes, set[int]]] = {
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", {204}),
    "304 with a body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n{}", {304}),
    "205 with a body": (answer("205 Reset", b"{}", JSON), {205}),
    "longer than its length": (OK + b"and more", {200}),
    "two answers": (OK + OK, {200}),
    "shorter than its length": (HEAD + b"Content-Length: 200\r\n\r\n{}", {0, 502}),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n", {200}),
    "trailers with a length": (CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n", {0, 200, 502}),
    "endless trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nX-A: " + b"x" * 40 * MAX_HEAD_BYTES, {0, 502}),
    "a chunk's endless extension": (CHUNKED + b"2;" + b"x" * 40 * MAX_HEAD_BYTES, {0, 502}),
    "a chunk without size": (CHUNKED + b"x\r\n{}\r\n0\r\n\r\n", {0, 502}),
    "a huge chunk": (CHUNKED + b"f" * 40 + b"\r\n{}", {0, 502}),
    "kept for ever": (answer("200 OK", b"{}", JSON, "Keep-Alive: timeout=999999999999, max=999999999999"), {200}),
    "kept for less than nothing": (answer("200 OK", b"{}", JSON, "Keep-Alive: timeout=-1, max=-1"), {200}),
    "many headers": (answer("200 OK", b"{}", JSON, *[f"X-{n}: {n}" for n in range(500)]), {200}),
    "folded": (HEAD + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", {200, 502}),
    "bytes beyond ASCII": (HEAD + b"X-A: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}", {200, 502}),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, {200}),
    "its own CORS": (answer("200 OK", b"{}", JSON, "Access-Control-Allow-Origin: *"), {200}),
    "an unknown encoding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}", {200, 502, 0}),
}


@pytest.mark.parametrize("way", ["short", "ordinary", "anthropic"])
async def test_an_odd_answer_comes_through_or_is_cut(  # B-T8
    front: Front, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await front.ready()
    front.may_log_errors = True  # uvicorn logs each cut
    for name, (said, allowed) in ODD.items():
        await front.warm(client)
        front.child.act = once(said)
        status, body = await ask(front, way)
        # A message is made of the answer, and none of these is one.
        assert status in ({502} if way == "anthropic" else allowed), (name, status, body)
        if status == 502:
            assert_well_formed(way, status, body)
        assert front.leases == 0, name
    await front.warm(client)
    assert "defect" not in caplog.text
    assert not any(record.levelno >= logging.CRITICAL for record in caplog.records)


@pytest.mark.parametrize("begin", [b"2\r\n{}\r\n0\r\nX: ", b"2;", b"2\r\n{}\r\n2;x="])
async def test_bytes_that_are_no_answer_have_a_bound(front: Front, begin: bytes) -> None:  # B-T5
    """Without a bound the router would keep them in memory, for as long as they come."""
    await front.ready()
    front.may_log_errors = True  # uvicorn logs each cut
    sent, most = 0, 64 << 20

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        writer.write(CHUNKED + begin)
        while sent < most:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    front.child.act = act
    assert (await ask(front, "short"))[0] in (0, 502)
    assert sent < most // 4
    assert front.leases == 0


DEEP = b"[" * 40_000 + b"]" * 40_000
NESTED = b"[" * 900 + b"]" * 900


BODIES: dict[str, bytes] = {
    "a list": b"[1]",
    "a string": b'"x"',
    "null": b"null",
    "nothing": b"",
    "an error that is a list": b'{"error": [1]}',
    "an error that is text": b'{"error": "x"}',
    "a message that is a list": b'{"error": {"message": [1, {"a": NaN}]}}',
    "a message with half a character": b'{"error": {"message": "a\\ud800b"}}',
    "bytes that are no text": b'{"error": {"message": "\xff\xed\xa0\x80"}}',
    "deep": b'{"error": {"message": %b}}' % DEEP,
    "nested": b'{"error": {"message": %b}}' % NESTED,
    "no number": b'{"error": {"message": 1e999, "code": NaN}}',
    "digits": b'{"error": {"code": %b, "message": "x"}}' % (b"9" * 10_000),
    "control characters": b'{"error": {"message": "a\\u0000\\u001b[31m\\r\\nb"}}',
    "long": b'{"error": {"message": "%b"}}' % (b"x" * 3_000_000),
    "half of it": b'{"error": {"mess',
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", ["400", "500", "599"])
async def test_errors_of_any_shape_are_passed_on(front: Front, way: str, status: str) -> None:  # B-T8
    client = await front.ready()
    for name, body in BODIES.items():
        await front.warm(client)
        front.child.act = sends(answer(f"{status} Odd", body, JSON))
        got, reply = await ask(front, way)
        assert got == int(status), name
        if way in ("anthropic", "ollama", "ollama stream"):
            assert_well_formed(way, got, reply)
            assert len(reply) < 100_000, name
        else:
            assert reply == body  # as the child sent it


def stream(*chunks: bytes) -> bytes:
    return answer("200 OK", b"".join(b"data: %b\n\n" % chunk for chunk in chunks), "Content-Type: text/event-stream")


CHUNKS: dict[str, bytes] = {
    "choices that are text": b'{"choices": "x"}',
    "choices that are numbers": b'{"choices": [1]}',
    "a delta that is a list": b'{"choices": [{"delta": [1]}]}',
    "content that is a list": b'{"choices": [{"delta": {"content": [1]}, "finish_reason": "stop"}]}',
    "calls that are text": b'{"choices": [{"delta": {"tool_calls": "xy"}}]}',
    "an index without end": b'{"choices": [{"delta": {"tool_calls": [{"index": 1e999}]}}]}',
    "a function that is a list": b'{"choices": [{"delta": {"tool_calls": [{"function": [1]}]}}]}',
    "arguments that are numbers": b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": 1}}]}}]}',
    "logprobs that are numbers": b'{"choices": [{"delta": {}, "logprobs": {"content": [1]}}]}',
    "a reason that is a list": b'{"choices": [{"delta": {}, "finish_reason": [1]}]}',
    "an error that is a list": b'{"error": [1]}',
    "an error with half a character": b'{"error": {"message": "\\ud800", "code": 1e999}}',
    "deep": b'{"choices": %b}' % DEEP,
    "nested": b'{"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": %b}]}}]}' % NESTED,
    "digits": b'{"choices": %b}' % (b"9" * 10_000),
    "no JSON": b"{nonsense",
    "half a character": b'{"choices": [{"delta": {"content": "\\ud800"}}]}',
    "bytes that are no text": b'{"choices": [{"delta": {"content": "\xff\xfe"}}]}',
}


LAST = b'{"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": %b}'


TIMINGS = (
    b"{}",
    b"[1]",
    b'"x"',
    b'{"prompt_n": 1e999, "predicted_n": NaN, "prompt_ms": "x", "cache_n": %b}' % (b"9" * 400),
)


@pytest.mark.parametrize("way", ["ollama", "ollama stream"])
async def test_ollama_survives_chunks_of_any_shape(  # B-T8
    front: Front, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await front.ready()
    said = {**CHUNKS, **{f"timings {number}": LAST % timings for number, timings in enumerate(TIMINGS)}}
    for name, chunk in said.items():
        await front.warm(client)
        front.child.act = sends(stream(chunk))
        status, body = await ask(front, way)
        assert status in (200, 502, 500), name
        for line in body.splitlines():
            assert isinstance(json.loads(line, parse_constant=pytest.fail), dict), name
        assert b"defect" not in body, name
        assert front.leases == 0
    assert "defect" not in caplog.text


VECTORS = (
    *(b"[1]", b"{}", b'{"data": 1}', b'{"data": [1]}', b'{"data": [{"index": 0, "embedding": ["x"]}]}', b"{", b""),
    *(b'{"data": [{"index": 0, "embedding": %b}]}' % vector for vector in (b"[[1]]", DEEP, NESTED, b"1e999", b'"x"')),
    b'{"data": [{"index": 0, "embedding": [1]}, {"index": "x", "embedding": [1]}]}',
    b'{"data": [{"index": 0, "embedding": [%b]}], "usage": {"prompt_tokens": -1e999}}' % (b"9" * 400),
    b'{"data": [{"index": 0, "embedding": [1.5, NaN, 1e999, null]}], "usage": [1]}',
    b'{"data": []}',
)


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
async def test_ollama_survives_embeddings_of_any_shape(  # B-T8
    front: Front, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await front.ready()
    for vector in VECTORS:
        await front.warm(client)
        front.child.act = sends(answer("200 OK", vector, JSON))
        reply = await (await front.client()).ask(post(path, body_of(input="x", prompt="x")))
        assert reply.status in (200, 502), vector[:80]
        assert isinstance(json.loads(reply.body, parse_constant=pytest.fail), dict)
        assert front.leases == 0
    assert "defect" not in caplog.text


async def test_answers_that_are_read_whole_have_bounds(  # B-T5
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "MAX_ANSWER_BYTES", 100_000)
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 50_000)
    monkeypatch.setattr(embedding, "MAX_EMBEDDINGS_BYTES", 100_000)
    await front.ready()
    chunk = b'{"choices": [{"delta": {"content": "%b"}}]}'
    call = b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "%b"}}]}}]}'
    for way, said in (
        ("ollama", stream(*[chunk % (b"x" * 1000)] * 200)),
        ("ollama stream", stream(*[call % (b"x" * 1000)] * 200)),
        ("ollama", answer("200 OK", b"data: {" + b"x" * 400_000, "Content-Type: text/event-stream")),
        ("ollama stream", answer("200 OK", b"data: {" + b"x" * 400_000, "Content-Type: text/event-stream")),
    ):
        front.child.act = sends(said)
        status, body = await ask(front, way)
        assert status == 502
        assert "more than" in json.loads(body)["error"]
    front.child.act = sends(answer("200 OK", b" " * 200_000, JSON))
    vectors = await (await front.client()).ask(post("/api/embed", body_of(input="x")))
    assert (vectors.status, "more than 97 KiB" in vectors.json()["error"]) == (502, True)
    front.child.act = sends(stream(*[chunk % (b"x" * 1000)] * 200, LAST % b"{}"))  # this is sent on as it comes
    assert (await ask(front, "ollama stream"))[0] == 200


async def test_token_counts_of_any_size_are_survived(front: Front) -> None:  # B-T8
    client = await front.ready()
    for counts in ("(9 tokens) is more than 0", f"({'9' * 9000} tokens) is more than {'9' * 9000}", "(1 tokens) x 1"):
        await front.warm(client)
        front.child.act = sends(answer("500 X", json.dumps({"error": {"message": counts}}).encode(), JSON))
        reply = await (await front.client()).ask(post("/api/embed", body_of(input="x")))
        assert reply.status == 500


PROPS = (b"[1]", b"{", b'{"a": NaN, "b": 1e999, "c": "\\ud800"}', b'{"a": %b}' % DEEP, b'{"a": %b}' % NESTED, b"\xff")


async def test_props_are_merged_if_they_make_sense(  # B-T8
    tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router.models.catalog import Catalog

    class Lone(Catalog):
        def __init__(self, models: Any) -> None:
            super().__init__(models[:1])

    client = await front.ready(kind=Lone)
    for props in PROPS:
        front.child.act = sends(answer("200 OK", props, JSON))
        reply = await client.ask(b"GET /props HTTP/1.1\r\nHost: h\r\n\r\n")
        assert reply.status == 200
        assert json.loads(reply.body, parse_constant=pytest.fail)["role"] == "router"
    front.child.act = sends(answer("200 OK", b'{"a": "%b"}' % (b"x" * (9 << 20)), JSON))
    assert "a" not in (await client.ask(b"GET /props HTTP/1.1\r\nHost: h\r\n\r\n")).json()


LOOKUPS = (b"{}", b"[1]", b'[{"x": 1}]', b'[{"conversation_id": [1]}]', b"{", DEEP, NESTED, b"[" + b" " * (2 << 20))


async def test_streams_are_looked_up_whatever_the_child_says(  # B-T8
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    client = await front.ready()
    front.child.act = sends(stream(b"1", b"[DONE]"))
    assert (await client.ask(post(CHAT, body_of(stream=True), "X-Conversation-Id: c"))).status == 200
    lookup = post("/v1/streams/lookup", json.dumps({"conversation_ids": ["c"]}).encode())
    front.child.act = sends(answer("200 OK", b'[{"conversation_id": "c", "x": NaN}]', JSON))
    assert (await client.ask(lookup)).json() == [{"conversation_id": "c", "x": None}]
    for kept in LOOKUPS:
        front.child.act = sends(answer("200 OK", kept, JSON))
        reply = await client.ask(lookup)
        assert (reply.status, reply.json()) == (200, [])
    assert "defect" not in caplog.text
