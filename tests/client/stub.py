"""A server that answers as a test says, in the place of a router; it keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """`pieces` are sent one after the other, without a length, until the connection is closed."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Callable[[], Iterator[bytes]] | None = None


Answers = Callable[[Asked], Reply]


class Stub(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers: Answers, place: Any = ("127.0.0.1", 0)) -> None:
        self.answers = answers
        self.asked: list[Asked] = []
        if isinstance(place, str):
            self.address_family = socket.AF_UNIX
        super().__init__(place, Visit)
        self.url = "" if isinstance(place, str) else f"http://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "stub", 0

    def get_request(self) -> tuple[Any, Any]:
        connection, address = self.socket.accept()
        return connection, address or ("local", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class Visit(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        self.server.asked.append(asked)
        reply = self.server.answers(asked)
        self.send_response(reply.status)
        if reply.pieces is None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            for name, value in {"content-length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            return
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in reply.pieces():
            self.wfile.write(piece)
            self.wfile.flush()

    do_POST = do_DELETE = do_CONNECT = do_GET

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def stub(answers: Answers, place: Any = ("127.0.0.1", 0), certificate: tuple[str, str] | None = None) -> Iterator[Stub]:
    with Stub(answers, place) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.url = server.url.replace("http:", "https:")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def chunk(text: str = "", *, thought: str = "", finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat."""
    delta = {"content": text} if text else {}
    delta |= {"reasoning_content": thought} if thought else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error(message: str, status: int, **headers: str) -> Reply:
    return Reply(
        {"error": {"message": message, "code": status}}, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )
