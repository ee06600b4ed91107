"""The response object: what the request said, and what has become of it so far. Made of JSON that is encoded once."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from router.api.chat_stream import Usage
from router.errors import ContextExceeded, RouterError
from router.proxy.rewrite import encode_json

# Codes of OpenAI's `ResponseError` for statuses; all others are "server_error".
_ERROR_CODES = {400: "invalid_prompt", 413: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponseObject:
    """`shown` is what it repeats of the request. `id` cannot be guessed: without keys, whoever knows it may read what
    is stored. Raises InvalidRequest for values that JSON cannot express."""

    def __init__(self, shown: dict[str, Any]) -> None:
        self.token = secrets.token_hex(24)
        self.id = f"resp_{self.token}"
        head = {"id": self.id, "object": "response", "created_at": int(time.time())}
        self._head = encode_json({**head, **shown})[:-1]

    def __repr__(self) -> str:
        return f"<ResponseObject {self.id} {len(self._head)} bytes>"

    def render(
        self,
        status: str,
        output: Sequence[bytes] = (),
        usage: dict[str, Any] | None = None,
        error: RouterError | None = None,
    ) -> bytes:
        """The object as JSON. `output` are items as JSON. `status` is one of in_progress, completed, incomplete and
        failed."""
        rest = {
            "status": status,
            "completed_at": int(time.time()) if status in ("completed", "incomplete") else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None if error is None else {"code": error_code(error), "message": error.message},
            "usage": usage,
        }
        tail = json.dumps(rest, separators=(",", ":")).encode()[1:]
        return b"".join((self._head, b',"output":[', b",".join(output), b"],", tail))


def error_code(error: RouterError) -> str:
    """Codex shortens its conversation when it reads "context_length_exceeded"."""
    if isinstance(error, ContextExceeded):
        return "context_length_exceeded"
    return _ERROR_CODES.get(error.status, "server_error")


def usage_fields(usage: Usage | None, reasoning_tokens: int) -> dict[str, Any] | None:
    """`reasoning_tokens` are counted by the router: the engine sends a piece of text for each token."""
    if usage is None:
        return None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": min(reasoning_tokens, usage.completion_tokens)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
