"""Children that answer with anything, cut anywhere, slowly or not at all. Clients use each dialect and both ways.

A client gets one answer that a strict parser understands, or a connection that ends; never a defect of the router.
"""

from __future__ import annotations

import asyncio
import json
import random
from asyncio import StreamReader, StreamWriter

import h11

from tests.front import OK
from tests.security.fuzz import Found, dice, numbers, pieces
from tests.security.fuzz.rig import KEY, Rig, parse, rig
from tests.security.fuzz.wire import BATCH, LAST, ask

PATHS = (
    "/v1/chat/completions",
    "/completion",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
    "/v1/embeddings",
    "/api/embed",
)
VALUES = (
    "null",
    "[]",
    "{}",
    '"x"',
    "1",
    "-1",
    "1e999",
    "NaN",
    "9" * 5000,
    "[" * 5000,
    '"\\ud800"',
    "true",
    '{"a":' * 2000,
)
EVENTS = (
    b"data: [DONE]\n\n",
    b"data: \n\n",
    b": c\n\n",
    b"event: x\ndata: {}\n\n",
    b'data: {"choices": [{"delta": {"content": "hi"}, "index": 0}]}\n\n',
    b"data: {\r\n\r\n",
    b"\xff\xfe\n\n",
    b"data: " + b"x" * 70_000 + b"\n\n",
)


def _json(rng: random.Random) -> bytes:
    value = rng.choice(VALUES)
    shapes = (
        '{"choices": [{"message": {"content": %s}, "index": 0}]}',
        '{"choices": [{"message": %s}]}',
        '{"choices": %s, "usage": {}}',
        '{"choices": [{"message": {"tool_calls": %s}}], "usage": %s}',
        '{"choices": [], "usage": {"prompt_tokens": %s}, "timings": %s, "created": %s}',
        '{"error": {"code": %s, "message": %s, "type": %s}}',
        '{"error": %s}',
        '{"data": [{"embedding": %s}], "type": "message", "content": %s}',
        "%s",
    )
    shape = rng.choice(shapes)
    return shape.replace("%s", value).encode()


def _event(rng: random.Random) -> bytes:
    return rng.choice(EVENTS) if rng.random() < 0.5 else b"data: " + _json(rng) + b"\n\n"


def said(rng: random.Random) -> bytes:
    """A response, more or less."""
    is_stream = rng.random() < 0.5
    body = b"".join(_event(rng) for _ in range(rng.randint(0, 8))) if is_stream else _json(rng)
    status = rng.choice(
        [b"200 OK"] * 9 + [b"000 x", b"700 x", b"999", b"99 x", b"404 No", b"500 x", b"503 x", b"204 x"]
    )
    status = rng.choice(
        [status] * 4 + [b"304 x", b"101 Switching", b"200", b"2 x", b"-1 x", b"", b"200 \xff\x01", b"400 x"]
    )
    version = rng.choice([b"HTTP/1.1"] * 9 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"ICY", b""])
    kind = rng.choice(
        [b"text/event-stream" if is_stream else b"application/json"] * 4 + [b"text/html", b"\xff", b"", b"x" * 9000]
    )
    lines = [version + b" " + status, b"Content-Type: " + kind]
    odd = [
        b"Connection: close",
        b"Connection: \xff",
        b"Upgrade: h2c",
        b"Content-Encoding: gzip",
        b"X-\xe4: 1",
        b"A:",
        b":",
        b"A",
    ]
    odd += [
        b"X: a\r\n b",
        b"X: \0",
        b"X: a\rb",
        b"Retry-After: x",
        b"Keep-Alive: timeout=x, max=-1",
        b"Set-Cookie: a",
        b"X: " + b"y" * 70_000,
    ]
    odd += [b"X-Request-Id: theirs", b"Date: x", b"Trailer: x", b"Location: /", b"Access-Control-Allow-Origin: *"]
    lines += rng.sample(odd, rng.choice([0, 0, 0, 1, 3])) + [b"H%d: x" % n for n in range(rng.choice([0] * 9 + [3000]))]
    length = b"Content-Length: %d"
    match rng.randrange(9):
        case 0 | 1 | 2:
            lines.append(length % len(body))
        case 3 | 4:
            lines.append(b"Transfer-Encoding: chunked")
            sizes = rng.choice([b"%x", b"%X;a=b", b"%d", b"-%x", b"f%x", b"%x\n"]) if rng.random() < 0.4 else b"%x"
            parts = pieces(body, rng) if body else []
            body = b"".join(sizes % len(part) + b"\r\n" + part + b"\r\n" for part in parts)
            body += rng.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n", b""])
        case 5:
            lines.append(length % max(0, len(body) + rng.choice([-1, 1, 100, 10**6, 10**17])))
        case 6:
            lines += [length % len(body), rng.choice([length % 3, b"Transfer-Encoding: chunked"])]
        case 7:
            lines.append(b"Content-Length: " + rng.choice([b"x", b"-1", b"9" * 40, b"", b"0x5", b"1, 1"]))
        case _:
            pass
    interim = rng.choice([b""] * 8 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\nA: b\r\n\r\n" * 50])
    whole = interim + b"\r\n".join(lines) + b"\r\n\r\n" + body + rng.choice([b"", b"", b"", b"rubbish", OK])
    if rng.random() < 0.1:
        at = rng.randrange(len(whole))
        whole = whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :]
    return whole[: rng.randrange(len(whole))] if rng.random() < 0.15 else whole


def asked(rng: random.Random) -> bytes:
    path, stream = rng.choice(PATHS), rng.choice([True, False])
    fields = {"model": "a", "max_tokens": 4, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({**fields, "prompt": "hi", "input": "hi"}).encode()
    more = rng.choice([b"", b"", b"", b"Origin: http://localhost\r\n"])
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b%bContent-Length: %d\r\n\r\n" % (
        path.encode(),
        KEY,
        more,
        len(body),
    )
    return head + body


async def one_case(one: Rig, rng: random.Random) -> str | None:
    request, whole = asked(rng), said(rng)
    ends = rng.choice(["keeps", "keeps", "closes", "resets"])
    pause = rng.choice([0, 0, 0.001])

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        for piece in pieces(whole, dice(len(whole), 0)):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if ends != "keeps":
            if ends == "resets":
                writer.transport.abort()
            raise ConnectionResetError

    one.front.child.act = act
    try:
        stream = await ask(one, [request + LAST], 0, False)
    except TimeoutError:
        return f"it hangs: {request!r}\n{whole!r:.3000}"
    assert stream is not None
    try:
        told, _ = parse(stream, ["POST", "GET"], is_cut=True)
    except h11.RemoteProtocolError as exc:
        return f"no strict client understands this: {exc}: {stream[-1500:]!r}\n{request!r}\n{whole!r:.3000}"
    if len(told) == 2 and told[1].body != b'{"status":"ok"}':
        return f"the next request was answered with {told[1]!r:.500}: {request!r}\n{whole!r:.3000}"
    if one.defects.texts:
        return f"{one.defects.texts[0]}: {request!r}\n{whole!r:.3000}"
    return None


async def _run(seed: int, seconds: float, cases: int, only: int | None) -> int:
    done = 0
    async with rig("short", read_timeout=0.3) as short, rig("ordinary", read_timeout=0.3) as ordinary:
        rigs = (short, ordinary)
        for number in numbers(seconds, cases, only):
            wrong = await one_case(rigs[number % 2], dice(seed, number))
            done += 1
            if wrong is None and (done % BATCH == 0 or only is not None):
                wrong = await short.is_clean() or await ordinary.is_clean()
            if wrong:
                raise Found("child", seed, number, wrong, None)
    return done


def run(seed: int, seconds: float, cases: int = 10**9, only: int | None = None) -> int:
    """Returns how many cases there were. Raises Found."""
    return asyncio.run(_run(seed, seconds, cases, only))
