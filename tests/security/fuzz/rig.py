"""Routers in front of an echoing child: one with the fast path, one that takes the ordinary way for every request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import h11

from router.server.connection import ClientConnection
from router.server.framing import FramedConnection
from tests.front import CHAT, OK, Child, Front, body_of, post
from tests.sockets import Server

PATIENCE = 10.0  # seconds, for one case
KEY = b"Authorization: Bearer k\r\n"
WAYS: dict[str, type[FramedConnection]] = {"short": ClientConnection, "ordinary": FramedConnection}
_TAG = re.compile(rb"\r\nx-tag: ([^\r]*)", re.IGNORECASE)
_NUMBERED = re.compile(rb"\d+\.\d+")


class Defects(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text == "ASGI callable returned without completing response.":  # uvicorn says so when it cuts one off
            return
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.texts.append(text)


@dataclass
class Rig:
    front: Front
    defects: Defects
    opened: int = 0
    answers: list[bytes] = field(default_factory=list)  # what the child sends next; then it echoes

    def seen(self, number: int) -> list[tuple[bytes, bytes]]:
        """What the child got since the last call: tag and body. Requests of earlier cases are left out: a client that
        left may have sent one that comes late."""
        received, self.front.child.received = self.front.child.received, []
        found = [(b",".join(_TAG.findall(each.head)), each.body) for each in received]
        return [each for each in found if not (_NUMBERED.fullmatch(each[0]) and int(each[0].split(b".")[0]) < number)]

    async def open(self) -> tuple[StreamReader, StreamWriter]:
        return await asyncio.open_unix_connection(self.front.path, limit=2**22)

    async def is_clean(self) -> str | None:
        """What was left behind, None if nothing was."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await self.open()
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if not (await reader.read()).startswith(b"HTTP/1.1 200"):
                return "the router is not healthy any more"
            writer.close()
        for _ in range(500):
            held = self.front.admission.buffered_bytes
            connections = len(self.front.server.server_state.connections)
            if not (self.front.leases or held or connections > 1):
                break
            await asyncio.sleep(0.01)
        else:
            return f"left behind: {self.front.leases} leases, {held} bytes, {connections} connections"
        return self.defects.texts[0] if self.defects.texts else None


@contextlib.asynccontextmanager
async def rig(way: str, read_timeout: float = 60.0) -> AsyncIterator[Rig]:
    child, defects = Child(), Defects()
    with tempfile.TemporaryDirectory(prefix="fz-") as folder:
        server = Server(Path(folder, "child"))
        async with server.running(child):
            front = Front(Path(folder, "front"), child, server)
            made = Rig(front, defects)
            logging.getLogger().addHandler(defects)
            try:
                front.start(keys=("k",), read_timeout=read_timeout, connection=WAYS[way])
                client = await front.client()
                reply = await client.ask(post(CHAT, body_of(), KEY.decode().strip()))
                assert reply.status == 200
                assert OK.endswith(reply.body)
                child.received.clear()
                yield made
            finally:
                await front.stop()
                logging.getLogger().removeHandler(defects)


@dataclass(frozen=True)
class Told:
    status: int
    body: bytes
    framing: str


def parse(stream: bytes, methods: list[str], *, is_cut: bool = False) -> tuple[list[Told], bool]:
    """The responses in a stream, to requests with these methods, and whether the last one ends the connection.

    Raises h11's error for what a strict client refuses. `is_cut`: the stream may end anywhere.
    """
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    client.receive_data(stream)
    client.receive_data(b"")
    found: list[Told] = []
    for method in methods:
        if not client.trailing_data[0]:
            return found, False
        client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        client.send(h11.EndOfMessage())
        try:
            head, body = _answer(client)
        except h11.RemoteProtocolError:
            if is_cut:
                return found, True
            raise
        lengths = [value for name, value in head.headers if name == b"content-length"]
        chunks = [value for name, value in head.headers if name == b"transfer-encoding"]
        if len(lengths) + len(chunks) > 1:
            raise h11.RemoteProtocolError("its framing is told twice")
        found.append(Told(head.status_code, body, "length" if lengths else "chunks" if chunks else "close"))
        if client.their_state is not h11.DONE:
            rest = client.trailing_data[0]
            if rest:
                raise h11.RemoteProtocolError(f"{len(rest)} bytes follow the last answer: {rest[:200]!r}")
            return found, True
        client.start_next_cycle()
    if client.trailing_data[0]:
        raise h11.RemoteProtocolError("there are more answers than requests")
    return found, False


def _answer(client: h11.Connection) -> tuple[h11.Response, bytes]:
    head: h11.Response | None = None
    parts: list[bytes] = []
    while True:
        event = client.next_event()
        match event:
            case h11.Response():
                head = event
            case h11.Data():
                parts.append(bytes(event.data))
            case h11.EndOfMessage():
                assert head is not None
                return head, b"".join(parts)
            case h11.ConnectionClosed() | h11.NEED_DATA | h11.PAUSED:
                raise h11.RemoteProtocolError("the answer ends too soon")
