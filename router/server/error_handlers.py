"""Errors outside any endpoint: an unknown path, a wrong method, a client that left, a defect of the router.

Each is rendered in the dialect of the path that the client called. `fast_path` and Starlette (see `api.app`) call this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from router.errors import RouterError
from router.proxy.error_response import error_response
from router.proxy.head import Head, request_id_of
from router.proxy.protocols import Dialect
from router.server.prefix import client_path

log = logging.getLogger("router.app")

NOT_FOUND = "There is no {} here; GET /models lists the models."


class ErrorHandlers:
    """`dialect_of` gives the dialect for a path."""

    def __init__(self, dialect_of: Callable[[str], Dialect]) -> None:
        self._dialect_of = dialect_of

    def response(self, scope: Scope, error: RouterError) -> Response:
        """`error` as the client of this request expects errors."""
        path = scope["path"] or client_path(scope)  # outside the prefix the client's path alone tells its dialect
        return error_response(self._dialect_of(path), error, request_id_of(Head.from_scope(scope)))

    def not_found(self, scope: Scope, path: str) -> Response:
        """404. `path` is what the message says is not here."""
        return self.response(scope, _http_error(404, NOT_FOUND.format(path)))

    def outside(self, scope: Scope, prefix: str) -> Response:
        """404 for a path that does not begin with `--api-prefix`."""
        path = client_path(scope)[:200]
        return self.response(scope, _http_error(404, f"There is no {path} here: every path begins with {prefix}."))

    async def on_http_exception(self, request: Request, exc: Exception) -> Response:
        """Starlette raises HTTPException for an unknown path and for a wrong method."""
        assert isinstance(exc, HTTPException)
        path = client_path(request.scope)[:200]
        if exc.status_code == 404:
            message = NOT_FOUND.format(path)
        elif exc.status_code == 405:
            message = f"{request.method} is not allowed for {path}."
        else:
            message = exc.detail
        response = self.response(request.scope, _http_error(exc.status_code, message))
        response.headers.update(exc.headers or {})
        return response

    async def on_defect(self, request: Request, exc: Exception) -> Response:
        """Logs the unexpected exception, and answers 500."""
        log.critical("a defect in the router: %s %s", request.method, client_path(request.scope), exc_info=exc)
        message = "The router has a defect; its log tells more. Please report it."
        return self.response(request.scope, _http_error(500, message))


async def on_disconnect(request: Request, exc: Exception) -> Response:
    """The client left before its request was read. No client reads this answer; 499 is what nginx logs."""
    return Response(status_code=499)


def _http_error(status: int, message: str) -> RouterError:
    error = RouterError(message)
    error.status = status
    error.code = {404: "not_found_error", 405: "invalid_request_error"}.get(status, "server_error")
    return error
