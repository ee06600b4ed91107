"""What a browser finds at `/`: llama.cpp's chat page, with all of its files; else the dashboard, or a few words.

Programs find Ollama's greeting at `/` (`ollama.endpoints`). The one idea: to a browser `/` is `/index.html`, a path of
its own, which anyone may read as any other file of the page; `server.fast_path` asks `wants_page` for each request to
`/`. The files are looked up in a table, by their whole names: no path of a request ever becomes a path on disk. `app`
adds the routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from router.page import names
from router.page.chat_page import ChatPage
from router.page.files import PIECE_BYTES, PageFile
from router.server.prefix import client_path

DASHBOARD = "/router"
NO_PAGE = """llama-router is running: /models lists the models, and OpenAI's API is at /v1.

There is no chat page here: it is turned off (--no-ui), or this engine comes without one. An official llama-server has
it, and so does the embedded engine (pip install 'llama-router[embedded]').
"""
FOR_EVER = "public, max-age=31536000, immutable"
FROM_ITSELF = {
    b"x-content-type-options": "nosniff",
    b"cross-origin-resource-policy": "same-origin",
    b"referrer-policy": "same-origin",
}
FRAMES = "frame-ancestors 'self'"  # a foreign page must not have people click here without seeing it


class _PageName(Convertor[str]):
    regex = names.PATTERN

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("page_file", _PageName())
FILE_ROUTE = "/{name:page_file}"


class _FileRoute(Route):
    """Any path may look like a file's. Only those who read look for files: for others there is no such path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return super().matches(scope) if reads else (Match.NONE, {})


class Home:
    """Without a `page` only the index is here: it leads to the dashboard, if there is one."""

    def __init__(self, page: ChatPage | None, *, has_dashboard: bool) -> None:
        self._page = page
        self._has_dashboard = has_dashboard

    def routes(self) -> list[Route]:
        return [
            Route(f"/{names.INDEX}", self.index, methods=["GET"]),
            _FileRoute(FILE_ROUTE, self.file, methods=["GET"]),
        ]

    def has_file(self, path: str) -> bool:
        """Whether this path may be one of the page's files, which need no key."""
        return self._page is not None and self._page.may_have(path.removeprefix("/"))

    async def index(self, request: Request) -> Response:
        file = (await self._page.newest()).get(names.INDEX) if self._page else None
        is_whole = client_path(request.scope).endswith(("/", names.INDEX))
        if file:  # below `--api-prefix`, the page's own links are relative to the folder
            return _answer(request, file) if is_whole else _redirect("/")
        if not self._has_dashboard:
            return PlainTextResponse(NO_PAGE)
        # Relative, for proxies that take away a part of the path; that needs a folder to begin with, too.
        return _redirect(DASHBOARD.lstrip("/") if is_whole else "/")

    async def file(self, request: Request) -> Response:
        file = (await self._page.files()).get(request.path_params["name"]) if self._page else None
        if file is None:
            raise HTTPException(404)
        return _answer(request, file)


def wants_page(query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a GET of `/` comes from a browser that shows the answer, or from the page itself: its service worker
    fetches the index again without saying that it wants HTML."""
    if b"__WB_REVISION__=" in query:
        return True
    named = dict(headers)
    return named.get(b"sec-fetch-site") == b"same-origin" or _takes(named.get(b"accept", b""), b"text/html")


def _redirect(path: str) -> Response:
    return RedirectResponse(path, 302, {"cache-control": "no-store"})


def _answer(request: Request, file: PageFile) -> Response:
    is_packed = _takes(request.headers.get("accept-encoding", "").encode(), b"gzip")
    tag = f'"{file.digest[:32]}{"" if is_packed else "-plain"}"'
    headers = {
        "cache-control": FOR_EVER if names.is_immutable(file.name) else "no-cache",
        "etag": tag,
        "vary": "Accept, Accept-Encoding" if file.name == names.INDEX else "Accept-Encoding",
        **{key.decode(): value for key, value in FROM_ITSELF.items()},
        **file.headers,
    }
    if file.name.endswith(".html"):
        headers["content-security-policy"] = FRAMES
    if _is_known(request.headers, tag):
        return Response(status_code=304, headers=headers)
    headers["content-type"] = file.type
    if is_packed:
        headers |= {"content-encoding": "gzip", "content-length": str(len(file.packed))}
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(_pieces(file, is_packed=is_packed), headers=headers)


async def _pieces(file: PageFile, *, is_packed: bool) -> AsyncIterator[bytes]:
    """In pieces, each when the last one has gone: a client that does not read holds one of them."""
    if is_packed:
        for start in range(0, len(file.packed), PIECE_BYTES):
            yield file.packed[start : start + PIECE_BYTES]
    else:
        for piece in file.unpacked():
            yield piece


def _is_known(headers: Mapping[str, str], tag: str) -> bool:
    """Whether the client has this very answer already."""
    given = headers.get("if-none-match", "")
    return given.strip() == "*" or tag in (word.strip().removeprefix("W/") for word in given.split(","))


def _takes(header: bytes, word: bytes) -> bool:
    """Whether a header such as Accept names the word itself, and not with a weight of 0."""
    for part in header.lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        if name == word:
            return not any(piece.startswith(b"q=") and not piece[2:].strip(b"0. ") for piece in parameters)
    return False
