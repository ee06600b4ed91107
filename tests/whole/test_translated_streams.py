"""Streams of every API that is translated from chat completions: whole, cut, left, and read slowly."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.front import Client, Front, post
from tests.waiting import eventually

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
ASKED: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
    "/v1/responses": {"input": "x", "max_output_tokens": 4},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}},
    "/api/generate": {"prompt": "x", "options": {"num_predict": 4}},
}


@pytest.fixture(params=ASKED)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def event(reason: str | None = None, /, **delta: Any) -> bytes:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    fields = {"choices": [choice], "created": 1, "id": "c", "object": "chat.completion.chunk"}
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = chunk(event("stop")) + chunk(b"data: [DONE]\n\n") + END


async def asked(front: Front, path: str, **more: Any) -> Client:
    client = await front.client()
    body = json.dumps({"model": "a", "stream": True, **ASKED[path], **more}).encode()
    client.send(post(path, body))
    return client


def objects_of(path: str, body: bytes) -> Iterator[dict[str, Any]]:
    """The events or lines, which must be whole."""
    end = b"\n" if path.startswith("/api/") else b"\n\n"
    assert body.endswith(end)
    for each in body.removesuffix(end).split(end):
        data = each if path.startswith("/api/") else each.partition(b"\ndata: ")[2]
        yield json.loads(data)


def text_of(value: dict[str, Any]) -> str:
    """The piece of text that an event or a line of any of the APIs brings."""
    match value:
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case {"message": {"content": str(text)}, "done": bool()} | {"response": str(text), "done": bool()}:
            return text
    return ""


async def test_texts_that_come_together_are_all_told(front: Front, path: str) -> None:
    """In whatever pieces the child's bytes come: one event each, many at once, or a few bytes."""
    await front.ready()
    words = [" one", " two", "\n", '"', " \u2028", " three"] * 20
    said = [event(content=word) for word in words]
    body = b"".join(said)
    for pieces in (said, [body], [body[start : start + 50] for start in range(0, len(body), 50)]):

        async def act(reader: StreamReader, writer: StreamWriter, pieces: list[bytes] = pieces) -> None:
            writer.write(HEAD + b"".join(map(chunk, pieces)) + LAST)

        front.child.act = act
        reply = await (await asked(front, path)).reply()
        assert reply.status == 200
        assert "".join(map(text_of, objects_of(path, reply.body))) == "".join(words)
    assert front.leases == 0


async def test_a_child_that_dies_in_an_event_is_an_error_event(front: Front, path: str) -> None:  # B-C4
    await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        half = event(content=" half")[:-30]
        writer.write(HEAD + chunk(event(content="one")) + chunk(event(content=" two") + half))
        await writer.drain()
        raise ConnectionResetError

    front.child.act = act
    reply = await (await asked(front, path)).reply()
    found = list(objects_of(path, reply.body))
    assert "".join(map(text_of, found)) == "one two"
    assert "error" in found[-1]
    assert "ended in the middle" in json.dumps(found[-1])
    await eventually(lambda: front.leases == 0)


@pytest.mark.parametrize("raw", [False, True])
async def test_what_comes_with_an_error_is_told_before_it(front: Front, path: str, raw: bool) -> None:  # B-C4
    await front.ready()
    failed = b'data: {"error":{"code":500,"message":"out of luck"}}\n\n'
    said = [event(content=word) for word in ("one", " two", " three")]
    if raw:  # a completion, which only Ollama's API asks for
        if path != "/api/generate":
            return
        said = [b'data: {"content":"%b","stop":false}\n\n' % word for word in (b"one", b" two", b" three")]

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(HEAD + b"".join(map(chunk, (*said, failed))) + END)

    front.child.act = act
    reply = await (await asked(front, path, **({"raw": True} if raw else {}))).reply()
    found = list(objects_of(path, reply.body))
    assert "".join(map(text_of, found)) == "one two three"
    assert "out of luck" in json.dumps(found[-1])
    assert front.leases == 0


async def test_a_client_that_leaves_in_an_event_ends_its_generation(front: Front, path: str) -> None:  # B-S2
    await front.ready()
    is_cut = asyncio.Event()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(HEAD + chunk(event(content="one") + event(content=" two") + event(content=" half")[:-30]))
        await reader.read()
        is_cut.set()
        raise ConnectionResetError

    front.child.act = act
    client = await asked(front, path)
    await client.read_until(b"two")
    client.leave()
    async with asyncio.timeout(10):
        await is_cut.wait()
    await eventually(lambda: front.leases == 0)


async def test_a_client_that_does_not_read_holds_the_child_back(front: Front, path: str) -> None:  # B-T5
    """Of a long stream the router keeps little, and nothing of it is lost."""
    await front.ready()
    word = "x" * 5000
    size, sent, is_held = 10_000, 0, asyncio.Event()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        said = chunk(event(content=word))
        while sent < size:
            writer.write(said)
            sent += 1
            drained = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait([drained], timeout=0.5))[0]:
                is_held.set()
            await drained
        writer.write(LAST)

    front.child.act = act
    client = await asked(front, path)
    client.patience = 60.0
    async with asyncio.timeout(60):
        await is_held.wait()
    assert sent * len(word) < 12 * 2**20, "of 50 MB"
    if path == "/v1/responses":
        return  # its last events repeat the whole text, which the router has to keep for them
    found = 0
    async for part in bodies(client):
        found += part.count(b"x" * 100)
    assert found == size * (len(word) // 100)
    await eventually(lambda: front.leases == 0)


async def bodies(client: Client) -> AsyncIterator[bytes]:
    yield (await client.reply()).body
