"""Anthropic's Messages API, which llama-server speaks itself; here are its routes and its way of telling errors."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.api.openai import retry_header
from router.errors import RouterError
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway

PATHS = ("/v1/messages", "/v1/messages/count_tokens")

# https://docs.anthropic.com/en/api/errors
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Anthropic:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`, in a stream as `event: error`. The engine tells
    its own errors in OpenAI's shape."""

    rewrites_upstream_errors = True

    def error(self, exc: RouterError, request_id: str) -> Response:
        return JSONResponse(error_object(exc, request_id), _status(exc), headers=retry_header(exc))

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"event: error\ndata: " + json.dumps(error_object(exc, request_id)).encode() + b"\n\n"


def error_object(exc: RouterError, request_id: str) -> dict[str, Any]:
    error = {"type": _TYPES.get(_status(exc), "api_error"), "message": exc.message}
    return {"type": "error", "error": error, "request_id": request_id}


def _status(exc: RouterError) -> int:
    """Anthropic's word for "try again later", by which its clients go to another model, is 529."""
    return 529 if exc.status == 503 else exc.status


DIALECT = Anthropic()


def routes(gateway: Gateway) -> list[Route]:
    def alias(name: str | None) -> str | None:
        """That of a model that has the name, else what the first pattern gives."""
        patterns = () if gateway.has_model(name) else gateway.claude_map
        return next((model for one, model in patterns if fnmatchcase(name or "", one)), name)

    return ModelFromBody(gateway, DIALECT, alias).routes(PATHS)
