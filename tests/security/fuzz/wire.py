"""Requests of about thirty kinds, pipelined and cut anywhere, to the fast path and to the ordinary way.

What must hold:

- A strict client understands the responses. There is one for each request, until one that ends the connection.
- Both ways respond with the same status and body.
- The child gets each body once, byte for byte as it was meant. Nothing in a body or a trailer becomes a request or a
  header.
- Nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

import h11

from tests.front import answer
from tests.security.fuzz import Found, dice, numbers, pieces
from tests.security.fuzz.rig import KEY, PATIENCE, Rig, Told, parse, rig

BATCH = 40  # cases between two checks for what is left behind
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CREATED = re.compile(rb'"created": \d+')  # the routers did not start in the same second
SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + KEY + b"X-Tag: smuggled\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Meant:
    """A request, and how it must be answered.

    - `statuses`: the first digits of the statuses that are right.
    - `body`: what the child gets if the status begins with 2; None if no child may get the request.
    - `ends`: it is the last on its connection; None: only if it is refused.
    """

    kind: str
    data: bytes
    statuses: str = "2"
    body: bytes | None = None
    method: str = "POST"
    ends: bool | None = False
    tag: bytes = b""


def _chat(rng: random.Random) -> bytes:
    content = rng.choice(["hi", "\u00e4" * 9, "x" * rng.randint(1, 3000), "a\r\n\r\nb", SMUGGLED.decode(), "0\r\n\r\n"])
    if rng.random() < 0.05:
        content = "y" * rng.randint(60_000, 200_000)
    body = {"model": "a", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
    return json.dumps(body).encode()


def _head(tag: bytes, *lines: bytes, start: bytes = b"POST /v1/chat/completions HTTP/1.1", key: bytes = KEY) -> bytes:
    return b"\r\n".join([start, b"Host: localhost", b"X-Tag: " + tag, *lines]) + b"\r\n" + key + b"\r\n"


def _length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def _chunks(rng: random.Random, body: bytes, *, extensions: bool = False, trailers: bytes = b"") -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = rng.choice([1, rng.randint(1, 50), rng.randint(1, 5000), len(body)])
        part = body[at : at + size]
        extra = rng.choice([b"", b";a=b", b';a="x y"', b";a"]) if extensions else b""
        digits = rng.choice([b"%x", b"%X", b"000%x"]) % len(part)
        parts.append(digits + extra + b"\r\n" + part + b"\r\n")
        at += size
    return b"".join([*parts, b"0\r\n", trailers, b"\r\n"])


def plain(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("plain", _head(tag, _length(body)) + body, body=body)


def path(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    start = rng.choice([b"/v1/completions", b"/completion", b"/v1/%63hat/completions", b"/v1/chat/completions?x=%20y"])
    return Meant("path", _head(tag, _length(body), start=b"POST " + start + b" HTTP/1.1") + body, body=body)


def absolute(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    start = b"POST http://localhost/v1/chat/completions HTTP/1.1"
    return Meant("absolute", _head(tag, _length(body), start=start) + body, "24", body, ends=None)


def chunked(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("chunked", _head(tag, b"Transfer-Encoding: chunked") + _chunks(rng, body), body=body)


def extensions(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    sent = _chunks(rng, body, extensions=True)
    return Meant("extensions", _head(tag, b"Transfer-Encoding: chunked") + sent, body=body)


def trailers(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    lines = [b"X-Tag: trailer", b"Content-Length: 3", b"model: b", b"Authorization: Bearer x", b"Upgrade: h2c", b"A: b"]
    chosen = rng.sample(lines, rng.randint(1, 6))
    sent = _chunks(rng, body, trailers=b"".join(line + b"\r\n" for line in chosen))
    data = _head(tag, b"Transfer-Encoding: chunked") + sent
    if lines[1] in chosen:  # the parser refuses a length beside chunks, wherever it stands
        return Meant("trailing length", data, "24", body, ends=None)
    return Meant("trailers", data, body=body)


def trailing_key(rng: random.Random, tag: bytes) -> Meant:
    sent = _chunks(rng, _chat(rng), trailers=KEY)
    return Meant("trailing key", _head(tag, b"Transfer-Encoding: chunked", key=b"") + sent, "4", ends=None)


def no_key(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("no key", _head(tag, _length(body), key=b"") + body, "4", ends=None)


def expect(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("expect", _head(tag, b"Expect: 100-continue", _length(body)) + body, body=body)


def offer(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    lines = rng.choice(
        [
            [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
            [b"Connection: upgrade", b"upgrade: websocket", b"Sec-WebSocket-Version: 13"],
            [b"Upgrade: h2c"],
            [b"Connection: Upgrade", b"Upgrade: a,", b"UPGRADE: b"],
        ]
    )
    before = b"\r\n" * rng.choice([0, 0, 1, 3])
    if rng.random() < 0.5:
        sent = _head(tag, *lines, _length(body)) + body
    else:
        sent = _head(tag, *lines, b"Transfer-Encoding: chunked") + _chunks(rng, body)
    return Meant("offer", before + sent, body=body)


def empty_lines(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("empty lines", b"\r\n" * rng.randint(1, 9) + _head(tag, _length(body)) + body, body=body)


def get(rng: random.Random, tag: bytes) -> Meant:
    where = rng.choice([b"/health", b"/v1/models", b"/models", b"/v1/models/a", b"/metrics"])
    return Meant("get", _head(tag, start=b"GET " + where + b" HTTP/1.1"), method="GET")


def get_props(rng: random.Random, tag: bytes) -> Meant:
    return Meant("get props", _head(tag, start=b"GET /props?model=a HTTP/1.1"), body=b"", method="GET")


def get_with_body(rng: random.Random, tag: bytes) -> Meant:
    sent = _head(tag, _length(SMUGGLED), start=b"GET /health HTTP/1.1") + SMUGGLED
    return Meant("get with body", sent, method="GET")


def unknown(rng: random.Random, tag: bytes) -> Meant:
    where = rng.choice([b"/nowhere", b"/%2e%2e/x", b"/a%00b", b"//health", b"/v1/chat/completions/"])
    body = _chat(rng)
    sent = _head(tag, _length(body), start=b"POST " + where + b" HTTP/1.1") + body
    return Meant("unknown", sent, "345", ends=None)


def head(rng: random.Random, tag: bytes) -> Meant:
    where = rng.choice([b"/health", b"/v1/models", b"/nowhere"])
    return Meant("head", _head(tag, start=b"HEAD " + where + b" HTTP/1.1"), "24", method="HEAD")


def preflight(rng: random.Random, tag: bytes) -> Meant:
    lines = [b"Origin: http://localhost:3000", b"Access-Control-Request-Method: POST"]
    sent = _head(tag, *lines, start=b"OPTIONS /v1/chat/completions HTTP/1.1", key=rng.choice([b"", KEY]))
    return Meant("preflight", sent, "24", method="OPTIONS")


def origin(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    lines = [b"Origin: http://localhost:3000", b"Content-Type: application/json"]
    return Meant("origin", _head(tag, *lines, _length(body)) + body, body=body)


def old(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    start = b"POST /v1/chat/completions HTTP/1.0"
    return Meant("http/1.0", _head(tag, _length(body), start=start) + body, body=body, ends=True)


def close(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("close", _head(tag, b"Connection: close", _length(body)) + body, body=body, ends=True)


def long_head(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    size = rng.choice([7000, 7990, 8100, 20_000, 60_000])
    return Meant("long head", _head(tag, b"X-Long: " + b"x" * size, _length(body)) + body, "24", body, ends=None)


def too_long_head(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    sent = _head(tag, b"X-Long: " + b"x" * rng.choice([66_000, 200_000, 2_000_000]), _length(body)) + body
    return Meant("too long head", sent, "4", ends=True)


def many_headers(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    lines = [b"X-%d: y" % number for number in range(rng.choice([50, 80, 95, 240, 300, 2000]))]
    return Meant("many headers", _head(tag, *lines, _length(body)) + body, "24", body, ends=None)


def odd_space(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    line = rng.choice([b"Content-Length:%d", b"Content-Length:  %d  ", b"content-length:\t%d", b"CONTENT-LENGTH: %d"])
    return Meant("odd space", _head(tag, b"X-Empty:", line % len(body)) + body, "24", body, ends=None)


def folded(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("folded", _head(tag, b"X-Fold: a\r\n b", _length(body)) + body, "24", body, ends=None)


def twice_equal(rng: random.Random, tag: bytes) -> Meant:
    body = _chat(rng)
    return Meant("length twice", _head(tag, _length(body), _length(body)) + body, "24", body, ends=None)


def bad(rng: random.Random, tag: bytes) -> Meant:
    """Must be refused, and nothing after it may be read as a request."""
    body = _chat(rng)
    told = _length(body)
    start = b"POST /v1/chat/completions HTTP/1.1"
    heads = {
        "lengths differ": _head(tag, told, b"Content-Length: 5"),
        "length and chunks": _head(tag, told, b"Transfer-Encoding: chunked"),
        "chunks and length": _head(tag, b"Transfer-Encoding: chunked", told),
        "length of no number": _head(
            tag, b"Content-Length: " + rng.choice([b"x", b"-1", b"+5", b"1 2", b"0x10", b"5,5"])
        ),
        "huge length": _head(tag, b"Content-Length: " + b"9" * rng.choice([19, 20, 40, 4000])),
        "other coding": _head(tag, b"Transfer-Encoding: " + rng.choice([b"chunked, gzip", b"xchunked", b"gzip"])),
        "space in name": _head(tag, b"Content-Length : %d" % len(body)),
        "no colon": _head(tag, b"nothing", told),
        "nul": _head(tag, b"X: a\0b", told),
        "bare lf": _head(tag, told).replace(b"\r\n", b"\n"),
        "bare cr": _head(tag, b"X: a\rb", told),
        "method": _head(tag, told, start=rng.choice([b"FROB", b"post", b"P\0ST", b""]) + start[4:]),
        "version": _head(tag, told, start=start[:-3] + rng.choice([b"7.3", b"9.9", b"x", b""])),
        "target": _head(tag, told, start=b"POST " + rng.choice([b"", b"a b", b"\x80\xff", b"x:y"]) + b" HTTP/1.1"),
    }
    if rng.random() < 0.25:
        size = rng.choice([b"xyz", b"-1", b"", b"0x5", b"5 ;", b"f" * 17, b"5\n"])
        sent = _head(tag, b"Transfer-Encoding: chunked") + size + b"\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
        return Meant(f"bad chunk {size!r}", sent, "45", ends=True)
    name = rng.choice(list(heads))
    return Meant(f"bad: {name}", heads[name] + SMUGGLED, "45", ends=True)


def multipart(rng: random.Random, tag: bytes) -> Meant:
    form = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\0\xff\r\n' + SMUGGLED + b"\r\n"
        b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--XX--\r\n'
    )
    start = b"POST /v1/audio/transcriptions HTTP/1.1"
    lines = [b"Content-Type: multipart/form-data; boundary=XX", _length(form)]
    return Meant("multipart", _head(tag, *lines, start=start) + form, body=form)


KINDS: tuple[Callable[[random.Random, bytes], Meant], ...] = (
    *(plain, path, absolute, chunked, extensions, trailers, trailing_key, no_key, expect, offer, empty_lines, get),
    *(get_props, get_with_body, unknown, head, preflight, origin, old, close, long_head, too_long_head, many_headers),
    *(odd_space, folded, twice_equal, bad, multipart),
)


def meant(rng: random.Random, number: int) -> list[Meant]:
    """One request, or up to twenty on one connection."""
    count = rng.choice([1, 1, 1, 2, 2, 3, 5, rng.randint(2, 20)])
    found = []
    for n in range(count):
        tag = b"%d.%d" % (number, n)
        kind = plain if count > 1 and rng.random() < 0.3 else rng.choice(KINDS)
        made = kind(rng, tag)
        found.append(Meant(made.kind, made.data, made.statuses, made.body, made.method, made.ends, tag))
    return found


async def ask(one: Rig, sent: list[bytes], pause: float, leaves: bool) -> bytes | None:
    """All that comes back; None if the client `leaves` without reading. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    # No transport of asyncio's: it throws away what was read when a connection is closed that it writes to.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, one.front.path)
        listening = asyncio.ensure_future(_heard(connection))
        try:
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    for n, piece in enumerate(sent):
                        await loop.sock_sendall(connection, piece)
                        if n < len(sent) - 1:
                            await asyncio.sleep(pause if n < 20 else 0)
                return None if leaves else await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _heard(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.get_running_loop().sock_recv(connection, 2**18):
            parts.append(part)
    return b"".join(parts)


def judge(case: list[Meant], told: list[Told], seen: list[tuple[bytes, bytes]]) -> str | None:
    """What is wrong, compared with what was meant."""
    expected: list[tuple[bytes, bytes]] = []
    for n, one in enumerate(case):
        if n >= len(told):
            return f"the request {n} ({one.kind}) has no answer: {told!r:.300}"
        status = told[n].status
        if str(status)[0] not in one.statuses:
            return f"the request {n} ({one.kind}) was answered with {status}: {told[n].body[:300]!r}"
        if status < 300 and one.body is not None:
            expected.append((one.tag, one.body))
            if one.method != "HEAD" and told[n].body != one.body:
                return f"the request {n} ({one.kind}) was answered with another body: {told[n].body[:300]!r}"
        if one.ends or (one.ends is None and status >= 300 and len(told) == n + 1):
            if len(told) > n + 1:
                return f"there are {len(told) - n - 1} answers after the last request ({one.kind})"
            break
    else:
        if len(told) != len(case) + 1:
            return f"{len(told)} answers to {len(case)} requests and a last one"
    if seen != expected:
        return f"the child saw {seen!r:.2000}\nand not {expected!r:.2000}"
    return None


def comparable(body: bytes) -> bytes:
    """Without what the time changes. Metrics tell the time, and what requests have cost until then."""
    return b"metrics" if body.startswith(b"# HELP llama_router_") else CREATED.sub(b"", body)


async def one_case(rigs: dict[str, Rig], rng: random.Random, number: int) -> str | None:
    case = meant(rng, number)
    whole = b"".join(one.data for one in case)
    leaves = rng.random() < 0.15
    sent = pieces(whole[: rng.randrange(len(whole))] if leaves else whole + LAST, rng)
    pause = rng.choice([0, 0.0003])
    found: dict[str, list[tuple[int, bytes]]] = {}
    for way, one in rigs.items():
        try:
            stream = await ask(one, sent, pause, leaves)
        except TimeoutError:
            return f"{way}: it hangs: {[each.kind for each in case]}"
        if stream is None:
            bodies = {each.tag: each.body for each in case}
            for tag, body in one.seen(number):
                if bodies.get(tag) != body:
                    return f"{way}: the child saw {tag!r} with {body[:500]!r}"
            continue
        try:
            told, _ = parse(stream, [each.method for each in case] + ["GET"])
        except h11.RemoteProtocolError as exc:
            return f"{way}: no strict client understands this: {exc}: {stream[-1500:]!r}"
        if wrong := judge(case, told, one.seen(number)):
            return f"{way}: {wrong}"
        found[way] = [(each.status, comparable(each.body) if each.status < 300 else b"") for each in told]
    # A refusal ends the connection or not, as it comes before the end of the body or behind it.
    for short, ordinary in zip(found.get("short", []), found.get("ordinary", []), strict=False):
        if short != ordinary:
            return f"the two ways differ: {short!r:.500}\n{ordinary!r:.500}"
    return None


async def echo(one: Rig) -> None:
    """From now on the child answers with the body that it gets."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", one.front.child.received[-1].body, "Content-Type: application/json"))

    one.front.child.act = act


async def _run(seed: int, seconds: float, cases: int, only: int | None) -> int:
    done = 0
    async with rig("short") as short, rig("ordinary") as ordinary:
        rigs = {"short": short, "ordinary": ordinary}
        for one in rigs.values():
            await echo(one)
        number = 0
        for number in numbers(seconds, cases, only):
            rng = dice(seed, number)
            wrong = await one_case(rigs, rng, number)
            done += 1
            if wrong is None and (done % BATCH == 0 or only is not None):
                for way, one in rigs.items():
                    if left := await one.is_clean():
                        wrong = f"{way}: {left} (within the last {BATCH} cases)"
            if wrong:
                raise Found("wire", seed, number, wrong, meant(dice(seed, number), number))
        for way, one in rigs.items():
            if left := await one.is_clean():
                raise Found("wire", seed, number, f"{way}: {left} (within the last {BATCH} cases)", None)
    return done


def run(seed: int, seconds: float, cases: int = 10**9, only: int | None = None) -> int:
    """Returns how many cases there were. Raises Found."""
    return asyncio.run(_run(seed, seconds, cases, only))
