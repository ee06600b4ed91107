"""A child over a real connection, and what a translation makes of its answers."""

from __future__ import annotations

import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.proxy.protocols import PostToChild, Translation
from router.wire.request_head import RequestHead
from router.wire.response import Response
from router.wire.upstream import Upstream
from tests.sockets import Server, take

TIMINGS = {"cache_n": 2, "prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 4, "predicted_ms": 0.25}


Answers = Callable[[bytes, Any], tuple[int, bytes]]  # of a target and fields: status, body


def events(*chunks: object) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b": ping\n\ndata: [DONE]\n\n"


def delta(reason: str | None = None, /, **delta: Any) -> dict[str, Any]:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    return {"choices": [choice], **({"timings": TIMINGS} if reason else {})}


async def answer_of(
    tmp_path: Path, translation: Translation, answers: Answers, *, step: int = 7
) -> list[dict[str, Any]]:
    """What the client gets of a child that sends `step` bytes at a time."""

    async def child(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            head, body = await take(reader)
            status, answer = answers(head.split()[1], json.loads(body))
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)))
            for start in range(0, len(answer), step):
                writer.write(answer[start : start + step])
                await writer.drain()

    upstream = Upstream()
    async with Server(tmp_path / "child.sock").running(child) as server:
        ask = posts_to(upstream, server)
        data = b"".join([data async for data in translation(ask)])
        upstream.close()
    return [json.loads(line) for line in data.splitlines()]


def posts_to(upstream: Upstream, server: Server) -> PostToChild:
    async def post(target: bytes, body: bytes) -> Response:
        return await upstream.open(server.address, "key", RequestHead("POST", target, []), body)

    return post


def steady(body: bytes, status: int = 200) -> Answers:
    return lambda target, fields: (status, body)
