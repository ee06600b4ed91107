"""Requests without a token limit: they get a time limit, and are ended when it is over."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.error_shapes import JSON, error_of
from tests.routers import Router, chat
from tests.waiting import until

STREAMED = '{"stream":true,"timings_per_token":true,"stream_options":{"include_usage":true},'


def sent(router: Router, path: str, body: str) -> str:
    """The body that the child got, without the wish for a stream, from which the router makes one answer."""
    answer = router.client.post(path, content=body.encode(), headers=JSON)
    assert answer.status_code == 200
    return str(answer.json()["body"]).replace(STREAMED, "{")


@pytest.mark.parametrize("path", ["/completion", "/infill"])
def test_an_unlimited_request_gets_a_time_limit(router: Router, path: str) -> None:  # B-L14
    rest = ' "model" :"tiny-a", "x":1.0e2,"é":"\\u00e9",\n"x":2 } '
    assert sent(router, path, "\n{" + rest) == '\n{"t_max_predict_ms":600000,' + rest
    own = '{"t_max_predict_ms":  1, "model":"tiny-a"}'
    assert sent(router, path, own) == own


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *((path, "max_tokens") for path in ("/completion", "/infill")),
        *((path, "n_predict") for path in ("/completion", "/infill")),
        *((path, "x") for path in ("/tokenize", "/apply-template", "/rerank", "/props")),
    ],
)
def test_a_limited_request_is_passed_byte_for_byte(router: Router, path: str, field: str) -> None:  # B-L14
    body = f' {{ "model" :"tiny-a", "{field}": 7, "x":1.0e2,"é":"\\u00e9",\n"x":2 }} '
    assert sent(router, path, body) == body


def test_no_time_limit_when_it_is_off(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L14
    router = launch("--models-dir", str(tiny_models), "--max-generation-time", "0")
    assert sent(router, "/completion", '{"model":"tiny-a"}') == '{"model":"tiny-a"}'


def test_an_answer_that_does_not_come_is_ended(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L14 B-S2
    flags = ("--models-dir", str(tiny_models), "--max-generation-time", "0.1")
    tireless = launch(*flags, FAKE_FIRST_SECONDS="60")
    for path in ("/v1/chat/completions", "/v1/messages"):
        response = tireless.client.post(path, json=chat("tiny-a", max_tokens=None))
        assert (response.status_code, error_of(response)["type"]) == (504, "timeout_error")
        assert "max_tokens" in error_of(response)["message"]
    assert tireless.client.post("/models/unload", json={"model": "tiny-a"}).status_code == 200
    until(lambda: tireless.status("tiny-a") == "unloaded")  # which waits for those that are served


def test_an_endless_stream_is_ended(launch: Callable[..., Router], tiny_models: Path, tmp_path: Path) -> None:  # B-L14
    """Its child is cut off at once. A request with a token limit may take as long as it needs."""
    flags = ("--models-dir", str(tiny_models), "--max-generation-time", "1")
    journal = tmp_path / "journal"
    router = launch(*flags, FAKE_TOKENS="100000", FAKE_CHUNK_SECONDS="0.05", FAKE_JOURNAL=str(journal))
    with router.stream("tiny-a", 0, max_tokens=None) as events:
        *parts, last = events.json()
    assert parts
    assert all(part["object"] == "chat.completion.chunk" for part in parts)
    assert last["choices"] == [{"index": 0, "finish_reason": "length", "delta": {}}]
    assert (last["id"], last["object"]) == (parts[0]["id"], parts[0]["object"])
    until(lambda: " tiny-a gone " in journal.read_text())
    assert "a request without a token limit is ended" in router.log
    with router.stream("tiny-a", 50) as events:
        assert events.json()[-1]["choices"][0]["finish_reason"] == "length"


def test_num_ctx_changes_nothing_and_is_logged_once_a_model(router: Router) -> None:
    """It changes nothing, which is said once for each model."""
    for model in ("tiny-b", "tiny-c"):
        for body in ({"num_ctx": 4096}, {"options": {"num_ctx": 8192}}):
            assert router.client.post("/tokenize", json={"model": model, **body}).status_code == 200
        assert len(re.findall(f"{model}: a request's num_ctx changes nothing.*ctx-size", router.log)) == 1
