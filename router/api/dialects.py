"""How each API's errors look: OpenAI's (llama.cpp's are the same), Anthropic's and Ollama's.

A RouterError has a status, a code and a message; a dialect gives it the shape that the API's clients parse. Routes pass
their dialect to the gateway. `dialect_of` is for errors outside any route: unknown paths, wrong methods, missing keys.
"""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse, Response

from router.errors import ContextExceeded, MediaRefused, RouterError, UpstreamFailed
from router.proxy.protocols import Dialect

# Anthropic's error types by status: https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
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

_ANTHROPIC_MEDIA = {"image_url": "image", "file": "PDF"}  # by the type of a part in a chat


class OpenAIDialect:
    """`{"error": {"code", "message", "type", "param"}}`: llama-server's object, with OpenAI's `param` added."""

    name = "openai"

    def error(self, exc: RouterError, request_id: str) -> Response:
        return JSONResponse({"error": _openai_error(exc)}, exc.status, headers=retry_headers(exc))

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"data: " + json.dumps({"error": _openai_error(exc)}).encode() + b"\n\n"


class AnthropicDialect:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`; in a stream it is an `event: error`.

    The engine's own errors have OpenAI's shape; the translation raises them as RouterErrors, which come here."""

    name = "anthropic"

    def error(self, exc: RouterError, request_id: str) -> Response:
        return JSONResponse(_anthropic_error(exc, request_id), _anthropic_status(exc), headers=retry_headers(exc))

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return b"event: error\ndata: " + json.dumps(_anthropic_error(exc, request_id)).encode() + b"\n\n"


class OllamaDialect:
    """`{"error": MESSAGE}`; in a stream it is the last line."""

    name = "ollama"

    def error(self, exc: RouterError, request_id: str) -> Response:
        # Plain ASCII: the message may repeat what a client sent, which need not be valid Unicode.
        return Response(json.dumps({"error": exc.message}), exc.status, retry_headers(exc), "application/json")

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        return json.dumps({"error": exc.message}, separators=(",", ":")).encode() + b"\n"


OPENAI, ANTHROPIC, OLLAMA = OpenAIDialect(), AnthropicDialect(), OllamaDialect()


def dialect_of(path: str) -> Dialect:
    """The dialect of the clients that use this path."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OLLAMA if path == "/" or path.startswith("/api/") else OPENAI


def retry_headers(exc: RouterError) -> dict[str, str]:
    """`Retry-After` in whole seconds (RFC 9110, section 10.2.3), or `x-should-retry: false` where a retry is pointless.

    OpenAI's and Anthropic's clients retry after any status of 500 or more, unless `x-should-retry` forbids it
    (`_should_retry` in their `_base_client.py`). A model whose process ended is started again, so a retry of
    UpstreamFailed is worthwhile."""
    if exc.retry_after is not None:
        return {"retry-after": str(max(1, math.ceil(exc.retry_after)))}
    is_pointless = exc.status >= 500 and not isinstance(exc, UpstreamFailed)
    return {"x-should-retry": "false"} if is_pointless else {}


def _openai_error(exc: RouterError) -> dict[str, Any]:
    error = {"code": exc.status, "message": exc.message, "type": exc.code, "param": exc.param}
    if isinstance(exc, ContextExceeded):  # OpenAI's code and words, and llama.cpp's type and numbers
        message = f"This model's maximum context length is {exc.limit} tokens, but the prompt has {exc.prompt}. "
        error |= {"code": "context_length_exceeded", "message": message + exc.message}
        error |= {"n_prompt_tokens": exc.prompt, "n_ctx": exc.limit}
    return error


def _anthropic_error(exc: RouterError, request_id: str) -> dict[str, Any]:
    message = exc.message
    if isinstance(exc, ContextExceeded):  # the sentence by which Claude Code knows that it must compact
        message = f"prompt is too long: {exc.prompt} tokens > {exc.limit} maximum"
    elif isinstance(exc, MediaRefused):  # the words by which it knows that it must go on without the images
        message = f"Could not process {_ANTHROPIC_MEDIA.get(exc.kind, 'media')}: {exc.message}"
    error = {"type": _ANTHROPIC_TYPES.get(_anthropic_status(exc), "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def _anthropic_status(exc: RouterError) -> int:
    """529 is Anthropic's "overloaded": its clients then retry or fall back to another model."""
    return 529 if exc.status == 503 else exc.status
