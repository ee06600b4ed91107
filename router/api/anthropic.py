"""Anthropic's Messages API, which llama-server speaks itself; here are its routes and its way of telling errors."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.gateway import Gateway
from router.api.openai import retry_header
from router.errors import RouterError

PATHS = ("/v1/messages", "/v1/messages/count_tokens")

# https://docs.anthropic.com/en/api/errors
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Anthropic:
    """`{"type": "error", "error": {"type", "message"}}`, in a stream as `event: error`."""

    def error(self, exc: RouterError) -> Response:
        return JSONResponse(error_object(exc), exc.status, headers=retry_header(exc))

    def stream_error(self, exc: RouterError) -> bytes:
        return b"event: error\ndata: " + json.dumps(error_object(exc)).encode() + b"\n\n"


def error_object(exc: RouterError) -> dict[str, Any]:
    return {"type": "error", "error": {"type": _TYPES.get(exc.status, "api_error"), "message": exc.message}}


DIALECT = Anthropic()


def routes(gateway: Gateway) -> list[Route]:
    endpoint = gateway.by_body(DIALECT)
    return [Route(path, endpoint, methods=["POST"]) for path in PATHS]
