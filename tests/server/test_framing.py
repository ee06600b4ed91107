"""What one client may send: bytes, lines and time of a request, and where it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable

import pytest

from router.server.admission import ClientLimits
from router.server.framing import MAX_AHEAD_BYTES, MAX_LINGER_BYTES, FramedConnection
from router.server.head_checks import MAX_HEAD_BYTES, MAX_HEAD_LINES
from tests.front import CHAT, EVENTS, OK, Client, Front, Works, body_of, echoes, post, sends
from tests.waiting import eventually

GET = b"GET /models HTTP/1.1\r\nHost: h\r\n"


CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" % CHAT.encode()


READ = 256 * 1024  # bytes that uvloop reads at once


def connections(front: Front) -> list[FramedConnection]:
    return [one for one in front.server.server_state.connections if isinstance(one, FramedConnection)]


async def refused(client: Client, status: int) -> str:
    """The error's message. Fails if the connection stays open."""
    reply = await client.reply()
    assert (reply.status, reply.named("connection"), reply.named("content-type")) == (
        status,
        ["close"],
        ["application/json"],
    )
    error = reply.json()["error"]
    assert error["code"] == status
    assert await client.is_closed()
    return str(error["message"])


def chunked(body: bytes, *trailers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in trailers).encode()
    return CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, lines)


LONG_HEADS: dict[str, Callable[[int], bytes]] = {
    "one line": lambda size: post(CHAT, body_of(), "X-A: " + "x" * size),
    "lines": lambda size: post(CHAT, body_of(), *["X-A: " + "x" * 995] * (size // 1000)),
    "target": lambda size: b"GET /models?x=%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * size),
    "a name": lambda size: GET + b"x" * size + b": 1\r\n\r\n",
}


@pytest.mark.parametrize("step", [1 << 30, 1000, 60_000])
@pytest.mark.parametrize("kind", ["one line", "lines", "target", "a name"])
async def test_long_head_is_refused(front: Front, kind: str, step: int) -> None:  # B-T4
    client = await front.ready()
    request = LONG_HEADS[kind](MAX_HEAD_BYTES + 1000)
    for start in range(0, len(request), step):
        client.send(request[start : start + step])
        await asyncio.sleep(0)
    assert "64 KiB" in await refused(client, 431)
    assert (await (await front.client()).ask(LONG_HEADS[kind](6000))).status == 200


async def test_head_of_many_lines_is_refused(front: Front) -> None:  # B-T4
    await front.ready()
    for request in (post(CHAT, body_of(), *["A:"] * MAX_HEAD_LINES), GET + b"A:\r\n" * MAX_HEAD_LINES + b"\r\n"):
        client = await front.client()
        client.send(request)
        assert "256 lines" in await refused(client, 431)
    assert (await (await front.client()).ask(GET + b"A:\r\n" * (MAX_HEAD_LINES - 10) + b"\r\n")).status == 200


async def test_endless_head_is_not_buffered(front: Front) -> None:  # B-T4
    client = await front.ready()
    client.send(GET)
    most = 0
    for _ in range(100):
        client.send(b"X: " + b"x" * 10_000 + b"\r\n")
        await asyncio.sleep(0)
        most = max(most, front.admission.buffered_bytes)
    assert "64 KiB" in await refused(client, 431)
    assert most <= MAX_HEAD_BYTES + READ
    assert front.admission.buffered_bytes == 0


STRANGERS = {
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 50,
    "a line": b"hello\r\n",
    "lower case": b"get / HTTP/1.1\r\n",
    "no version": b"GET /\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: h\n\n",
    "a bare line feed": GET + b"A: b\nC: d\r\n\r\n",
    "a bare carriage return": GET + b"A: b\rC: d\r\n\r\n",
    "line feeds at the end": b"GET / HTTP/1.1\r\nHost: h\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in a name": GET + b"A : b\r\n\r\n",
    "a folded line": post(CHAT, body_of(), "A: b\r\n c"),
    "two lengths": post(CHAT, body_of(), "Content-Length: 3"),
    "two framings": post(CHAT, body_of(), "Transfer-Encoding: chunked"),
    "odd framing": post(CHAT, b"", "Transfer-Encoding: chunked, gzip").replace(b"Content-Length: 0\r\n", b""),
    "a negative length": post(CHAT, b"").replace(b"Length: 0", b"Length: -1"),
    "a length that is none": post(CHAT, b"").replace(b"Length: 0", b"Length: 0x5"),
    "a huge length": post(CHAT, b"").replace(b"Length: 0", b"Length: 99999999999999999999"),
    "a tunnel": b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "no chunk": CHUNKED + b"\r\nzz\r\n",
    "a huge chunk": CHUNKED + b"\r\nfffffffffffffffff\r\n",
    "a trailer that is framing": chunked(body_of(), "Content-Length: 3"),
    "a chunk that is longer": CHUNKED + b"\r\n1\r\nabc\r\n",
}


@pytest.mark.parametrize("kind", STRANGERS)
async def test_other_protocols_are_refused_at_once(front: Front, kind: str) -> None:  # B-T4
    await front.ready()
    for cut in (0, 1, len(STRANGERS[kind]) - 1):
        client = await front.client()
        client.send(STRANGERS[kind][:cut])
        await front.turn()
        client.send(STRANGERS[kind][cut:])
        assert "no HTTP/1.1 request" in await refused(client, 400)
    assert not front.child.received


@pytest.mark.parametrize("step", [1 << 30, 1, 7])
async def test_trailers_are_not_taken_for_headers(front: Front, step: int) -> None:  # B-T4
    front.start(keys=("k",))
    client = await front.client()
    key = b"Host: h\r\nAuthorization: Bearer k\r\n"
    assert (await client.ask(post(CHAT, body_of(), "Authorization: Bearer k"))).status == 200
    trailers = ("Authorization: Bearer k", "X-Api-Key: k", "Host: x", "X-Conversation-Id: c", "X-Task: t")
    for head, status in ((key, 200), (b"Host: h\r\n", 401)):
        front.child.received.clear()
        request = chunked(body_of(), *trailers).replace(b"Host: h\r\n", head)
        for start in range(0, len(request), step):
            client.send(request[start : start + step])
            await asyncio.sleep(0)
        assert (await client.reply()).status == status
        assert [each.body for each in front.child.received] == [body_of()] * (status == 200)
        assert not any(b"conversation" in each.head or b"x-task" in each.head for each in front.child.received)


ENDLESS = {
    "trailers": b"0\r\n" + b"A: b\r\n" * 200_000,
    "a trailer": b"0\r\nA: " + b"b" * 2**20,
    "an extension": b"1;" + b"a" * 2**20,
    "a size": b"0" * 2**20,
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_chunk_overhead_is_limited(front: Front, kind: str) -> None:  # B-T4
    client = await front.ready()
    client.send(CHUNKED + b"\r\n" + ENDLESS[kind])
    assert re.search("too long|no HTTP/1.1", await refused(client, 400))
    await eventually(lambda: front.leases == 0)


@pytest.mark.parametrize("step", [1 << 30, 1, 3, 5])
async def test_chunked_body_ends_where_the_next_request_begins(front: Front, step: int) -> None:
    """Also a body with empty lines, at its begin and end too."""
    client = await front.ready()
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    bodies = [body_of(x=1), body_of() + b"\r\n\r\n" * 20, b"\r\n\r\n" + body_of(), body_of() + b"\r"]
    requests = [chunked(body, *trailers) for body in bodies for trailers in ((), ("A: b",), ("A: b", "C: d"))]
    data = b"".join(requests) + post(CHAT, body_of(last=True))
    for start in range(0, len(data), step):
        client.send(data[start : start + step])
        await asyncio.sleep(0)
    wanted = [body for body in bodies for _ in range(3)]
    assert [(await client.reply()).body for _ in wanted] == wanted
    assert (await client.reply()).body == body_of(last=True)
    await eventually(lambda: front.leases == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_read_ahead_is_limited(front: Front, stream: bool) -> None:  # B-T4
    client, works = await front.ready(), Works(EVENTS if stream else OK)
    front.child.act = works
    count = 1000
    client.send(post(CHAT, body_of(stream=stream)))
    await works.begun.wait()
    front.child.act = sends(OK)
    client.send(post(CHAT, body_of(text="x" * 2000)) * count)
    await eventually(lambda: any(one.flow.read_paused for one in connections(front)))
    assert MAX_AHEAD_BYTES < front.admission.buffered_bytes <= MAX_AHEAD_BYTES + READ
    assert len(front.child.received) == 1
    works.go.set()
    assert [(await client.reply()).status for _ in range(count + 1)] == [200] * (count + 1)
    assert (front.admission.buffered_bytes, front.leases) == (0, 0)


async def test_connections_take_turns(front: Front) -> None:  # B-T4
    """Many small requests of one client do not hold up another client."""
    first, second = await front.ready(), await front.client()
    first.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" * 5000)
    before = front.server.server_state.total_requests
    assert (await second.ask(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
    assert front.server.server_state.total_requests - before < 4000
    assert [(await first.reply()).status for _ in range(5000)] == [200] * 5000


LONG = body_of(text="x" * 1000)


SLOW = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "a head": GET,
    "half a line": b"GET /mod",
    "a small body": post(CHAT, LONG)[:-500],
    "a large body": post(CHAT, body_of(text="x" * 100_000))[:-500],
    "chunks": chunked(LONG)[:-500],
    "trailers": chunked(LONG)[:-2] + b"A: b\r\n",
    "a form": post("/v1/audio/transcriptions", LONG, "Content-Type: multipart/form-data; boundary=XX")[:-500],
}


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("kind", SLOW)
async def test_slow_request_times_out(front: Front, kind: str, drips: bool) -> None:  # B-T4
    """Also if a byte comes now and then."""
    front.start(limits=ClientLimits(timeout=0.4))
    client = await front.client()
    client.send(SLOW[kind])

    async def drip() -> None:
        while True:
            client.send(b"A")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip() if drips else asyncio.sleep(0))
    if kind == "nothing" and not drips:
        assert await client.is_closed()
    else:
        assert "--client-timeout" in await refused(client, 408)
    dripping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await dripping
    assert (front.leases, front.child.received) == (0, [])


async def test_steady_body_has_more_time(front: Front) -> None:
    client = await front.ready(limits=ClientLimits(timeout=0.5))
    front.child.act = lambda reader, writer: echoes(front.child, writer)
    body = body_of(text="x" * 200_000)
    request = post(CHAT, body)
    for start in range(0, len(request), 10_000):
        client.send(request[start : start + 10_000])
        await asyncio.sleep(0.05)
    assert (await client.reply()).body == body


@pytest.mark.parametrize("stream", [False, True])
async def test_response_has_no_timeout(front: Front, stream: bool) -> None:
    client, works = await front.ready(limits=ClientLimits(timeout=0.2)), Works(EVENTS if stream else OK)
    front.child.act = works
    client.send(post(CHAT, body_of(stream=stream)))
    with pytest.raises(TimeoutError):
        await works.is_cut(1.0)
    assert (await client.reply()).status == 200


@pytest.mark.parametrize("size", [1000, 100_000, 20 * 2**20])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(("path", "status"), [(CHAT, 401), ("/v1/messages", 401), ("/nowhere", 401)])
async def test_early_response_can_be_read(front: Front, path: str, status: int, framing: str, size: int) -> None:
    """The client first sends everything, and then reads."""
    front.start(keys=("k",))
    await front.turn()
    body = b"x" * size

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(front.path)
            request = post(path, body) if framing == "length" else chunked(body).replace(CHAT.encode(), path.encode())
            client.sendall(request)
            said = b""
            while b"}" not in said and (data := client.recv(65536)):
                said += data
            return said

    said = await asyncio.to_thread(talk)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert size < 2**20 or b"\r\nconnection: close\r\n" in said


async def test_data_after_an_early_response_is_limited(front: Front) -> None:  # B-T4
    front.start(keys=("k",))
    client = await front.client()
    client.send(post(CHAT, b"").replace(b"Length: 0", b"Length: 9999999999"))
    assert (await client.reply()).status == 401
    with pytest.raises(ConnectionError):
        await floods(client, 2 * MAX_LINGER_BYTES)
    await eventually(lambda: not connections(front))


async def floods(client: Client, size: int) -> None:
    for _ in range(size // 2**20):
        client.send(b"x" * 2**20)
        await client.sent()
