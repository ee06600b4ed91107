"""OpenAI's API and llama.cpp's twins of it: passed through by the `model` of the body."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.errors import RouterError, UpstreamFailed
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway

# tools/server/server.cpp of llama.cpp registers each under these paths.
PATHS = (
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/chat/completions/input_tokens",
    "/chat/completions/input_tokens",
    "/v1/completions",
    "/completions",
    "/v1/responses",
    "/responses",
    "/v1/responses/input_tokens",
    "/responses/input_tokens",
    "/v1/embeddings",
    "/embeddings",
    "/v1/audio/transcriptions",
    "/audio/transcriptions",
    "/v1/rerank",
    "/rerank",
    "/v1/reranking",
    "/reranking",
)


class OpenAI:
    """`{"error": {"code", "message", "type", "param"}}`: llama-server's object, and OpenAI's `param`."""

    rewrites_upstream_errors = False

    def error(self, exc: RouterError, request_id: str) -> Response:
        return JSONResponse({"error": error_object(exc)}, exc.status, headers=retry_header(exc))

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"data: " + json.dumps({"error": error_object(exc)}).encode() + b"\n\n"


def error_object(exc: RouterError) -> dict[str, Any]:
    return {"code": exc.status, "message": exc.message, "type": exc.code, "param": exc.param}


def retry_header(exc: RouterError) -> dict[str, str]:
    """Whole seconds, as RFC 9110 section 10.2.3 wants them. OpenAI's and Anthropic's clients try again what has failed
    with 500 or more, unless they are told that it would come to the same (`_should_retry` in their `_base_client.py`).
    A model whose process ended is started again, so that is worth trying."""
    if exc.retry_after is not None:
        return {"retry-after": str(max(1, math.ceil(exc.retry_after)))}
    is_vain = exc.status >= 500 and not isinstance(exc, UpstreamFailed)
    return {"x-should-retry": "false"} if is_vain else {}


DIALECT = OpenAI()


def routes(gateway: Gateway) -> list[Route]:
    return ModelFromBody(gateway, DIALECT).routes(PATHS)
