"""A web server on loopback with files, redirects and a registry of Docker, for downloads by address.

with FileServer() as server:
    server.files["/m.gguf"] = Served(data)
    server.url + "/m.gguf"
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

from tests.web_server import WebHandler, WebServer

CHUNK = 1 << 16


@dataclass
class Served:
    """A file, and what is odd about it.

    `stop_at` ends a connection after so many bytes, `stops` times; `gate` has the answer wait there until it is set.
    `user` is `name:password` that it needs. `knows_head`, `knows_ranges` and `tells_length` are what the server can do.
    `redirect` is where it is instead.
    """

    data: bytes = b""
    etag: str | None = None
    stop_at: int = 0
    stops: int = 0
    gate: threading.Event | None = None
    user: str | None = None
    knows_head: bool = True
    knows_ranges: bool = True
    tells_length: bool = True
    redirect: str | None = None
    failures: list[int] = field(default_factory=list)
    content_type: str = "application/octet-stream"


class FileServer:
    """`requests` are all methods and paths, `authorizations` the headers of each path, `sent` its bytes.

    The registry gives its token to everybody, at `/token`; without it, it answers with a challenge.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str | None] = []
        self.authorizations: dict[str, list[str | None]] = {}
        self.sent: Counter[str] = Counter()
        self.tokens = 0
        self.valid: set[str] = set()
        self._server = _Server(self)
        self.url = self._server.url
        self.host = self.url.removeprefix("http://")

    def publish(self, repo: str, tag: str, *layers: tuple[str, bytes, str]) -> str:
        """A model in the registry, of layers with a media type, content and name. Returns its reference."""
        rows = []
        for media_type, data, name in layers:
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.files[f"/v2/{repo}/blobs/{digest}"] = Served(redirect=f"/cdn/{digest}")
            self.files[f"/cdn/{digest}"] = Served(data)
            notes = {"annotations": {"org.cncf.model.filepath": name}} if name else {}
            rows.append({"mediaType": media_type, "digest": digest, "size": len(data), **notes})
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": rows}
        self.files[f"/v2/{repo}/manifests/{tag}"] = Served(json.dumps(manifest).encode())
        return f"{self.host}/{repo}:{tag}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self.files.values():
            if file.gate:
                file.gate.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(WebServer):
    def __init__(self, files: FileServer) -> None:
        self.files = files
        super().__init__(_Handler)


class _Handler(WebHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files, parts = self.server.files, urlsplit(self.path)
        path, authorization = parts.path, self.headers["Authorization"]
        files.requests.append((self.command, path))
        files.authorizations.setdefault(path, []).append(authorization)
        if path == "/token":
            files.tokens += 1
            files.valid.add(f"Bearer for-everybody-{files.tokens}")
            self._answer(200, json.dumps({"token": f"for-everybody-{files.tokens}"}).encode())
        elif path.startswith("/v2/") and authorization not in files.valid:
            scope = "repository:ai/tiny:pull"
            realm = f'Bearer realm="{files.url}/token",service="registry.test",scope="{scope}"'
            self._answer(401, b"{}", {"WWW-Authenticate": realm})
        elif (file := files.files.get(path)) is None:
            self._answer(404, b"not here")
        elif file.user and authorization != f"Basic {_encoded(file.user)}":
            self._answer(401, b"who are you?")
        elif file.failures:
            self._answer(file.failures.pop(0), b"")
        elif file.redirect:
            self._answer(302, b"", {"Location": file.redirect})
        elif self.command == "HEAD" and not file.knows_head:
            self._answer(405, b"")
        else:
            self._send(path, file)

    def _send(self, path: str, file: Served) -> None:
        files, asked = self.server.files, self.headers["Range"] if file.knows_ranges else None
        if asked and self.headers["If-Range"] not in (None, file.etag):
            asked = None
        files.ranges.append(asked)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
        begin = int(found[1]) if found else 0
        end = min(int(found[2]) + 1 if found and found[2] else len(file.data), len(file.data))
        if found and begin >= len(file.data):
            self._answer(416, b"")
            return
        self.send_response(206 if found else 200)
        self.send_header("Content-Type", file.content_type)
        if found:
            total = len(file.data) if file.tells_length else "*"
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.tells_length:
            self.send_header("Content-Length", str(end - begin))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            self._stream(path, file, begin, end)

    def _stream(self, path: str, file: Served, begin: int, end: int) -> None:
        at = begin
        while at < end:
            border = file.stop_at if begin <= at < file.stop_at else end
            chunk = file.data[at : min(at + CHUNK, border, end)]
            self.wfile.write(chunk if file.tells_length else b"%x\r\n%s\r\n" % (len(chunk), chunk))
            at += len(chunk)
            self.server.files.sent[path] += len(chunk)
            if at == file.stop_at and at < end:
                if file.gate:
                    file.gate.wait()
                if file.stops:
                    file.stops -= 1
                    self.close_connection = True
                    return
        if not file.tells_length:
            self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _encoded(user: str) -> str:
    return b64encode(user.encode()).decode()
