"""Errors have the shape of the path's dialect, and say whether a retry is worthwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.api.dialects import ANTHROPIC, OLLAMA, OPENAI
from router.errors import ContextExceeded, Unsupported
from tests.api.error_shapes import JSON, error_of
from tests.routers import Router, chat


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/embeddings"])
def test_errors_have_the_shape_of_the_paths_dialect(router: Router, path: str) -> None:  # B-C1
    def post(**more: Any) -> tuple[int, str]:
        response = router.client.post(path, **more)
        return response.status_code, error_of(response)["type"]

    assert post(json=chat("nowhere")) == (404, "not_found_error")
    assert post(json=chat(None)) == (400, "invalid_request_error")
    assert post(json=[]) == (400, "invalid_request_error")
    assert post(content=b"{", headers=JSON) == (400, "invalid_request_error")
    assert post(json=chat("tiny-a"), headers={"authorization": "Bearer no"}) == (401, "authentication_error")
    assert post(content=b" " * 2**20 + b"{}")[0] == 413
    wrong = router.client.put(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert error_of(wrong)


def test_a_failed_load_is_an_error_and_then_unavailable(router: Router) -> None:  # B-P3 B-S14
    """It is tried twice, with the child's own error. Then clients should try again later."""
    types = {
        "/v1/chat/completions": ("server_error", "unavailable_error"),
        "/v1/messages": ("api_error", "overloaded_error"),
    }
    for path, (failed, _) in types.items():
        response = router.client.post(path, json=chat("sick"))
        assert response.headers["x-should-retry"] == "false"
        assert (response.status_code, error_of(response)["type"]) == (500, failed)
        assert "out of luck" in error_of(response)["message"]
    status = router.listing()["sick"]["status"]
    assert (status["value"], status["failed"], status["exit_code"]) == ("unloaded", True, 1)
    assert "out of luck" in status["error"]
    for path, (_, unavailable) in types.items():
        response = router.client.post(path, json=chat("sick"))
        assert error_of(response)["type"] == unavailable
        assert response.status_code == (529 if unavailable == "overloaded_error" else 503)
        assert int(response.headers["retry-after"]) >= 1
        assert "out of luck" in error_of(response)["message"]


def test_a_full_queue_is_unavailable_in_each_dialect(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-S9
    flags = ("--models-dir", str(tiny_models), "--models-max", "1", "--models-queue-max", "0")
    router = launch(*flags, FAKE_CHUNK_SECONDS="0.02")
    with router.stream("tiny-a", 10_000) as events:
        next(events)
        for path, *expected in (
            ("/v1/chat/completions", 503, "unavailable_error"),
            ("/v1/messages", 529, "overloaded_error"),
        ):
            response = router.client.post(path, json=chat("tiny-b"))
            assert [response.status_code, error_of(response)["type"]] == expected
            assert int(response.headers["retry-after"]) >= 1


def test_a_body_over_the_limit_is_refused(router: Router) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**15

    for content in (b" " * (2**20 + 1), pieces()):  # with a length, and in chunks
        response = router.client.post("/v1/chat/completions", content=content)
        assert response.status_code == 413
        assert "1 MiB" in error_of(response)["message"]
    assert router.client.post("/tokenize", json={"model": "tiny-a", "content": "x" * 2**19}).status_code == 200


def test_too_long_a_prompt_in_the_words_of_each_dialect() -> None:  # B-C11
    exc = ContextExceeded("request (27 tokens) exceeds the available context size (20 tokens)", 27, 20)
    openai, anthropic, ollama = (
        json.loads(bytes(dialect.error(exc, "id").body)) for dialect in (OPENAI, ANTHROPIC, OLLAMA)
    )
    assert openai["error"]["code"] == "context_length_exceeded"
    assert (openai["error"]["type"], openai["error"]["n_prompt_tokens"], openai["error"]["n_ctx"]) == (
        "exceed_context_size_error",
        27,
        20,
    )
    assert openai["error"]["message"].startswith("This model's maximum context length is 20 tokens")
    assert anthropic["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 27 tokens > 20 maximum",
    }
    assert ollama == {"error": exc.message}


def test_what_will_not_work_is_not_tried_again() -> None:  # B-C11
    for dialect in (OPENAI, ANTHROPIC, OLLAMA):
        assert dialect.error(Unsupported("no"), "id").headers["x-should-retry"] == "false"
