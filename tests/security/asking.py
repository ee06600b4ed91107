"""Requests with full control: any headers, any number of times, and a body that may be announced and not sent."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.routers import chat

JSON = ("Content-Type", "application/json")
Pairs = Sequence[tuple[str, str]]


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.getheaders()]
        self.body = response.read()

    def __getitem__(self, name: str) -> str | None:
        values = [value for one, value in self.headers if one == name]
        assert len(values) < 2 or name == "vary", values
        return ", ".join(values) if values else None

    @property
    def cors(self) -> dict[str, str]:
        return {name.removeprefix("access-control-"): value for name, value in self.headers if "access-control" in name}

    @property
    def message(self) -> str:
        """The message of an error, in any dialect."""
        error = json.loads(self.body)["error"]
        return str(error if isinstance(error, str) else error["message"])


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("unix", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask(
    where: str | Path,
    method: str,
    target: str,
    headers: Pairs = (),
    body: bytes | None = None,
    *,
    host: str | None = "localhost",
    is_sent: bool = True,
    version: str = "HTTP/1.1",
) -> Answer:
    """Sends a request in one piece, so that it can take the fast path. `is_sent=False` announces the length of the body
    and does not send the body."""
    url = httpx.URL(where) if isinstance(where, str) else None
    connection = http.client.HTTPConnection(url.host, url.port, timeout=30) if url else _Unix(Path(where))
    connection._http_vsn_str = version  # type: ignore[attr-defined]
    with contextlib.closing(connection):
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", host),) if host is not None else ():
            connection.putheader(name, value)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body if is_sent else None)
        return Answer(connection.getresponse())


def question(model: str = "tiny-a", **more: Any) -> bytes:
    return json.dumps(chat(model, **more)).encode()
