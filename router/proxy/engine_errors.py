"""PURE: errors of the engine that come again with the same request.

The engine calls them server errors (500), so clients try again, some of them ten times. Here they become what they are:
errors of the request, with a message that says what to change. `error_response` calls this.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class RequestError(NamedTuple):
    """An error of the request, with status 400. `code` is the `type` of llama-server's error object."""

    code: str
    message: str


# The sentences are those of b11434 (tools/server: server-context.cpp, server-common.cpp). Another build may word them
# differently: then its own error is passed on.
_TOO_LONG = re.compile(r"input \((\d{1,9}) tokens\) is too large to process\D+(\d{1,9})")
_NO_TEXT = re.compile(r"context does not support logits computation")
_NO_MEDIA = re.compile(r"^(?:image|audio|video) input is not supported")


def request_error(message: str) -> RequestError | None:
    """What an error with status 500 and this message really is; None if it may not come again."""
    if found := _TOO_LONG.search(message):
        return RequestError(
            "exceed_context_size_error",
            f"The input is too long ({found[1]} tokens): this model takes at most {found[2]} tokens at once. "
            "Send it in shorter pieces.",
        )
    if _NO_TEXT.search(message):
        return RequestError(
            "invalid_request_error",
            "This model embeds or ranks texts, and writes none. Ask /v1/embeddings or /v1/rerank, or another model.",
        )
    if _NO_MEDIA.search(message):
        return RequestError("invalid_request_error", message)
    return None
