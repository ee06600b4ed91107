"""`GET /models/{name}/log`: the last lines that the model's processes wrote, and with `follow=1` all that follow.

It is text for a terminal: without colours and control characters, and without the child's key. The log goes on over
restarts of the process, and is there after its end. What processes write may repeat prompts, so it takes an admin key.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from router.api.dialects import OPENAI
from router.api.endless import EndlessResponse
from router.errors import InvalidRequest
from router.pool.logs import MAX_LINES, EngineLogs, LogReader
from router.proxy.endpoints import with_dialect_errors
from router.proxy.gateway import Gateway

TEXT = "text/plain"


class LogStream(EndlessResponse):
    """One reader of a log, until its client or its model leaves, or the router ends."""

    def __init__(self, logs: EngineLogs, reader: LogReader) -> None:
        super().__init__(TEXT)
        self._logs, self._reader = logs, reader

    async def until_end(self) -> None:
        await self._logs.until_end()

    async def pieces(self) -> AsyncGenerator[bytes]:
        while True:
            while data := self._reader.read():
                yield data
            if not await self._reader.has_more():
                return


def routes(gateway: Gateway) -> list[Route]:
    async def log(request: Request) -> Response:
        logs, query = gateway.pool.logs, request.query_params
        spec = gateway.find(request.path_params["name"])
        reader = LogReader(logs.of(spec.name), _count(query.get("lines", str(MAX_LINES))))
        if query.get("follow", "0").lower() not in ("", "0", "false", "off", "no"):
            return LogStream(logs, reader)
        return PlainTextResponse(reader.read_all(), headers={"x-content-type-options": "nosniff"})

    return [Route("/models/{name:path}/log", with_dialect_errors(OPENAI, log), methods=["GET"])]


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise InvalidRequest(f"lines takes a whole number, 0 or more, not {word[:80]!r}.")
    return min(int(word[:9]), MAX_LINES)
