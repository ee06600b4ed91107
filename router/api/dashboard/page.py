"""The dashboard's page at `/router`: the files of `router/ui`, the same for everybody.

They are static and hold nothing of this router, so they are open without a key; what they show comes from the data API,
which wants one. The policy lets the page load its own files and talk to its own router, and nothing else: whatever text
a model, a file or a client brings onto the page, it cannot run. There is no build step: the files are as they are read.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

INDEX = "index.html"
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "txt": "text/plain"}
NAMES = (INDEX, "app.js", "data.js", "panel.js", "style.css", "vendor.js", "vendor.txt")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "cache-control": "no-cache",  # asked for again each time, and then answered with 304
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "Accept-Encoding",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class UiFile:
    """`tag` is an ETag."""

    name: str
    content: bytes
    packed: bytes
    tag: str

    @classmethod
    def read(cls, name: str) -> UiFile:
        content = (resources.files("router") / "ui" / name).read_bytes()
        return cls(name, content, gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest()[:32])

    def answer(self, headers: Mapping[str, str], *, head: bool = False) -> Response:
        """The answer to a request with these headers."""
        is_packed = "gzip" in headers.get("accept-encoding", "")
        tag = f'"{self.tag}{"" if is_packed else "-plain"}"'
        own = {**HEADERS, "etag": tag}
        if tag in (each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=own)
        if is_packed:
            own["content-encoding"] = "gzip"
        body = self.packed if is_packed else self.content
        own["content-length"] = str(len(body))
        media_type = TYPES[self.name.rpartition(".")[2]]
        return Response(b"" if head else body, headers=own, media_type=media_type)


class DashboardPage:
    """The files are read when the first of them is asked for."""

    def __init__(self) -> None:
        self._files: dict[str, UiFile] = {}

    def routes(self) -> list[Route]:
        files = [Route(f"/router/{name}", self.file, name=name, methods=["GET"]) for name in NAMES if name != INDEX]
        return [Route("/router", self.index, methods=["GET"]), Route("/router/", self.index, methods=["GET"]), *files]

    async def index(self, request: Request) -> Response:
        if request.url.path.endswith("/"):  # the page's own links are relative
            return RedirectResponse("../router", 308, {"cache-control": "no-store"})
        return self._answer(request, INDEX)

    async def file(self, request: Request) -> Response:
        return self._answer(request, request.url.path.rpartition("/")[2])

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            self._files[name] = UiFile.read(name)
        return self._files[name].answer(request.headers, head=request.method == "HEAD")
