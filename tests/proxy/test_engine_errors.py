"""Which server errors of the engine are errors of the request."""

from __future__ import annotations

import pytest

from router.proxy.engine_errors import request_error

TOO_LONG = "input (602 tokens) is too large to process. increase the physical batch size (current batch size: 512)"


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        (TOO_LONG, "exceed_context_size_error", "(602 tokens): this model takes at most 512 tokens"),
        (
            "the current context does not support logits computation. skipping",
            "invalid_request_error",
            "/v1/embeddings",
        ),
        ("image input is not supported - hint: mmproj", "invalid_request_error", "image input is not supported"),
    ],
)
def test_an_error_that_would_come_again(message: str, code: str, told: str) -> None:  # B-C11
    found = request_error(message)
    assert found is not None
    assert found.code == code
    assert told in found.message


@pytest.mark.parametrize("message", ["", "failed to decode", "input (x tokens) is too large", "Loading model"])
def test_another_error_stays(message: str) -> None:
    assert request_error(message) is None
