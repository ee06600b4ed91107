"""What a child's errors mean: those that come again are the client's, with the field to blame."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import ContextExceeded, InvalidRequest, Unsupported, UpstreamFailed
from router.proxy.child_errors import clearer_error, error_of


def told(message: Any, code: int = 500, **more: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "type": "server_error", **more}}).encode()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", "messages"),
        ("audio input is not supported - hint: ...", "messages"),
        ("video input is not supported - hint: ...", "messages"),
        ("Failed to parse messages: Missing 'role' in message: {}", "messages"),
        ("Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] ...", "messages"),
        ("Failed to parse tools: Expected 'tools' to be an array, got \"x\"", "tools"),
        ("Cannot use both json_schema and grammar", "grammar"),
        ("Unknown reasoning format: x", "reasoning_format"),
        ("Unsupported param: suffix", "suffix"),
        ("Field 'top_k': [json.exception.type_error.302] type must be number, but is string", "top_k"),
        ("[json.exception.type_error.302] type must be string, but is null", None),
    ],
)
def test_an_error_that_would_come_again_is_the_clients(message: str, field: str | None) -> None:  # B-C11
    error = error_of(500, told(message))
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.param, error.message) == (400, field, message)


def test_a_model_without_words_is_named_so() -> None:  # B-C11
    error = error_of(500, told("the current context does not support logits computation. skipping"))
    assert isinstance(error, InvalidRequest)
    assert "/v1/embeddings" in error.message


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (told("request (27 tokens) exceeds the available context size (20 tokens), try increasing it"), (27, 20)),
        (told("too long", n_prompt_tokens=27, n_ctx=20), (27, 20)),
        (
            told(
                "input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
            ),
            (600, 512),
        ),
    ],
)
def test_too_long_a_prompt_has_its_numbers(data: bytes, numbers: tuple[int, int]) -> None:  # B-C11
    for status in (400, 500):
        error = error_of(status, data)
        assert isinstance(error, ContextExceeded)
        assert (error.status, error.prompt, error.limit) == (400, *numbers)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (500, told("Compute error.")),
        (500, told("Context size has been exceeded.")),
        (500, b"image"),
        (500, b""),
        (500, told(None)),
        (500, told("x", n_prompt_tokens="many", n_ctx=[])),
        (500, told(f"request ({'9' * 20} tokens) exceeds the available context size (20 tokens)")),
        (503, told("image input is not supported")),
        (400, told("'messages' is required")),
        (404, told("no")),
    ],
)
def test_any_other_error_keeps_its_status(status: int, data: bytes) -> None:
    assert clearer_error(status, data) is None
    error = error_of(status, data)
    assert isinstance(error, UpstreamFailed)
    assert error.status == status


def test_what_the_engine_was_not_started_for_is_not_tried_again() -> None:
    assert isinstance(error_of(501, told("This server does not support embeddings.")), Unsupported)
