"""PURE: what an error of a child means for its client.

llama-server answers 500 to many requests that it will never take: a picture for a model without a projector, arguments
of a tool call that are cut off, a schema and a grammar at once. Clients try again after a 500, up to ten times. So
these errors are known by their text (llama.cpp b11434: tools/server and common/chat.cpp) and become a 400. Any other
error keeps its status and type.

Called by `error_response`, for every answer of a child that is an error.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from router.errors import ContextExceeded, InvalidRequest, RouterError, Unsupported, UpstreamFailed
from router.wire.child_json import error_message, error_type, object_or_empty, parse_json

# Texts of errors that come again with the same request, each with the field that is to blame; empty if it is unknown.
PERMANENT = (
    (re.compile(r"^(?:image|audio|video) input is not supported"), "messages"),
    (re.compile(r"^Failed to parse messages: "), "messages"),
    (re.compile(r"^Failed to parse tool call arguments as JSON"), "messages"),
    (re.compile(r"^Failed to load (?:image|audio|video)|' scheme is not supported\.$"), "messages"),
    (re.compile(r"^uri must be base64|^Invalid (?:uri|base64)|^file does not exist or cannot be opened"), "messages"),
    (re.compile(r"^Failed to parse tools: |^tools param requires --jinja"), "tools"),
    (re.compile(r"^Invalid tool_choice|^tool_choice param requires --jinja"), "tool_choice"),
    (re.compile(r"^Cannot use both json_schema and grammar"), "grammar"),
    (re.compile(r"JSON schema (?:error|conversion failed)"), "response_format"),
    (re.compile(r"^Unknown reasoning format"), "reasoning_format"),
    (re.compile(r"^Field '(?P<field>[\w.]{1,80})': "), ""),
    (re.compile(r"^Unsupported param: (?P<field>\w+)"), ""),
    (re.compile(r"\[json\.exception\."), ""),
)
# llama-server's two sentences for a prompt that is too long: in all, and for a batch that cannot be divided.
TOO_LONG = (
    re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)"),
    re.compile(r"input \((\d+) tokens\) is too large to process\..*current batch size: (\d+)\)"),
)
# The sentence of a model that has no words to put out, and a clearer one.
NO_WORDS = "context does not support logits computation"
CLEARER = "This model embeds or ranks texts, and writes none. Ask /v1/embeddings or /v1/rerank, or another model."
MAX_TOKENS = 10**12  # a larger number of tokens is none


def error_of(status: int, data: bytes) -> RouterError:
    """The error that a child's answer means. `data` is its body."""
    return clearer_error(status, data) or _failure(status, data)


def clearer_error(status: int, data: bytes) -> RouterError | None:
    """The error in words that clients understand better than the child's; None if the child's are as good."""
    message = error_message(data)
    if status in (400, 500):
        if too_long := _context_exceeded(data, message):
            return too_long
        if NO_WORDS in message:
            error = InvalidRequest(CLEARER)
            error.param = "model"
            return error
        for text, field in PERMANENT:
            if found := text.search(message):
                error = InvalidRequest(message)
                error.param = found.groupdict().get("field") or field or None
                return error
    return Unsupported(message) if status == 501 else None


def _context_exceeded(data: bytes, message: str) -> ContextExceeded | None:
    fields: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        fields = object_or_empty(object_or_empty(parse_json(data)).get("error"))
    numbers = [fields.get("n_prompt_tokens"), fields.get("n_ctx")]
    for text in TOO_LONG:
        if found := text.search(message):
            numbers = [int(digits) if len(digits) < 13 else None for digits in found.groups()]
    prompt, limit = (each if isinstance(each, int) and 0 <= each < MAX_TOKENS else None for each in numbers)
    if prompt is None or limit is None:
        return None
    if "batch size" in message:  # which is nothing that a client can change
        message = f"The input is too long ({prompt} tokens): this model takes at most {limit} tokens at once."
    return ContextExceeded(message, prompt, limit)


def _failure(status: int, data: bytes) -> UpstreamFailed:
    error = UpstreamFailed(error_message(data))
    if status >= 400:
        error.status, error.code = status, error_type(data) or error.code
    return error
