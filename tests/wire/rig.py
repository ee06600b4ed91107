"""Children that answer as a test says, and requests to them."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

from router.wire.request_head import RequestHead
from router.wire.response import Response
from router.wire.upstream import Upstream
from tests.sockets import Handler, Server, take

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(*answers: bytes, rest: bytes = OK) -> Handler:
    """Answers the n-th request of each connection with the n-th of `answers`, later ones with `rest`. b"" closes it."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        for answer in answers:
            await take(reader)
            if not answer:
                return
            writer.write(answer)
        while True:
            await take(reader)
            writer.write(rest)

    return handler


def closing(answer: bytes) -> Handler:
    """Answers the first request, and closes."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(answer)

    return handler


def ok_then_closing(second: bytes) -> Handler:
    """Answers the first request with OK, the second with these bytes, and closes."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        writer.write(second)

    return handler


async def ask(
    upstream: Upstream, server: Server, method: str = "POST", body: bytes = b"{}", target: bytes = b"/x"
) -> Response:
    return await upstream.open(server.address, "secret", RequestHead(method, target, [(b"x-a", b"b")]), body)


async def whole(response: Response) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    assert response.is_at_end
    return b"".join(parts)


def send(upstream: Upstream, server: Server, target: bytes = b"/x") -> Response | None:
    return upstream.send(server.address, "secret", RequestHead("POST", target, [(b"x-a", b"b")]), b"{}", [])


async def sent_on_kept(upstream: Upstream, server: Server, target: bytes = b"/x") -> Response:
    """A request sent on the connection that an earlier one has left."""
    assert await whole(await ask(upstream, server)) == b"ok"
    response = send(upstream, server, target)
    assert response is not None
    return response


class Completions:
    """Counts the calls of `on_complete`. `first` is set at the first one."""

    def __init__(self, response: Response) -> None:
        self.count = 0
        self.first = asyncio.Event()
        response.on_complete = self

    def __call__(self) -> None:
        self.count += 1
        self.first.set()


async def ended(upstream: Upstream) -> None:
    upstream.close()
    for _ in range(3):  # the loop closes the sockets in its next turns
        await asyncio.sleep(0)
