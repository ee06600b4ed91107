"""Embeddings and ranks of real engines in OpenAI's words: long inputs, fewer dimensions, what is refused."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from router.api.embeddings import numbers_of
from tests.embedders import POOLING, write_bert
from tests.routers import ENGINES, Router, start

CONTEXT = 1024
WIDTH = 32


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Models that are found in a folder, with nothing said about them. `short` has a batch that the operator set."""
    place = tmp_path_factory.mktemp("embeddings")
    (place / "models").mkdir()
    for pooling in POOLING:
        write_bert(place / "models" / f"{pooling}.gguf", pooling=pooling, context=CONTEXT, width=WIDTH)
    (place / "presets.ini").write_text(f"[short]\nmodel = {place}/models/mean.gguf\nubatch-size = 512\n")
    router = start(
        place / "router",
        *("--engine", ENGINES[request.param](), "--models-dir", str(place / "models"), "--threads", "1"),
        *("--models-preset", str(place / "presets.ini")),
    )
    yield router
    router.stop()


def embed(router: Router, text: Any, model: str = "mean", **more: Any) -> httpx.Response:
    return router.client.post("/v1/embeddings", json={"model": model, "input": text, **more})


def vectors(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


def error(response: httpx.Response) -> Any:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_an_input_is_as_long_as_the_context(router: Router) -> None:  # B-C12
    """Two tokens are the model's own."""
    for words in (1, 600, CONTEXT - 2):
        answer = embed(router, "the " * words)
        assert answer.json()["usage"]["prompt_tokens"] == words + 2
    assert len(vectors(embed(router, ["the " * 900, "a " * 900, "it"]))) == 3
    documents = ["the " * 900, "a"]
    ranked = router.client.post("/v1/rerank", json={"model": "rank", "query": "of", "documents": documents})
    assert len(ranked.json()["results"]) == 2


def test_too_long_an_input_is_an_error_with_the_numbers(router: Router) -> None:  # B-C12
    for model, most in (("mean", CONTEXT), ("cls", CONTEXT), ("short", 512)):
        for more in ({}, {"dimensions": 4}):
            told = error(embed(router, ["a", "the " * 2000], model, **more))
            assert told["type"] == "exceed_context_size_error"
            assert "(2002 tokens)" in told["message"]
            assert f"at most {most} tokens" in told["message"]
    ranked = router.client.post("/v1/rerank", json={"model": "rank", "query": "of", "documents": ["the " * 2000]})
    assert f"at most {CONTEXT} tokens" in error(ranked)["message"]


def test_ollama_cuts_unless_it_is_told_not_to(router: Router) -> None:  # B-C12
    asked = {"model": "mean", "input": "the " * 2000}
    answer = router.client.post("/api/embed", json=asked)
    assert answer.json()["prompt_eval_count"] == CONTEXT - 1
    refused = router.client.post("/api/embed", json={**asked, "truncate": False})
    assert refused.status_code == 400
    assert "2002 tokens" in refused.json()["error"]


@pytest.mark.parametrize("dimensions", [1, 7, WIDTH - 1, WIDTH])
def test_fewer_dimensions_have_a_length_of_one(router: Router, dimensions: int) -> None:  # B-C9
    (whole,) = vectors(embed(router, "the a"))
    (short,) = vectors(embed(router, "the a", dimensions=dimensions))
    assert len(short) == dimensions
    assert math.hypot(*short) == pytest.approx(1.0)
    norm = math.hypot(*whole[:dimensions])
    assert short == pytest.approx([number / norm for number in whole[:dimensions]])
    (packed,) = vectors(embed(router, "the a", dimensions=dimensions, encoding_format="base64"))
    assert isinstance(packed, str)
    assert struct.unpack(f"<{dimensions}f", base64.b64decode(packed)) == pytest.approx(short)


def test_the_rest_of_an_answer_stays(router: Router) -> None:
    """The last request has no dimensions that are to be cut, so it passes through."""
    asked: list[dict[str, Any]] = [{}, {"dimensions": WIDTH}, {"dimensions": None}]
    whole, cut, passed = (embed(router, ["a", "the"], **more).json() for more in asked)
    assert cut.keys() == whole.keys()
    assert whole == passed
    assert [item.keys() for item in cut["data"]] == [item.keys() for item in whole["data"]]
    assert cut["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": WIDTH + 1}, "dimensions"),
        ({"dimensions": 10**30}, "dimensions"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"dimensions": "4"}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": [4]}, "dimensions"),
        ({"dimensions": 4, "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_cannot_be_done_names_its_field(router: Router, more: dict[str, Any], field: str) -> None:  # B-C9
    told = error(embed(router, "a", **more))
    assert told["param"] == field
    assert field in told["message"]
    assert len(told["message"]) < 200


def test_dimensions_belong_to_one_path(router: Router) -> None:
    for path in ("/embeddings", "/embedding"):
        answer = router.client.post(path, json={"model": "mean", "content": "a", "dimensions": 4})
        assert "/v1/embeddings" in error(answer)["message"]


def test_a_model_that_ranks_does_not_embed(router: Router) -> None:
    """The engine would answer with what lies in its memory."""
    for path in ("/v1/embeddings", "/embeddings", "/embedding"):
        answer = router.client.post(path, json={"model": "rank", "input": "a", "content": "a"})
        assert "/v1/rerank" in error(answer)["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_model_that_embeds_writes_no_text(router: Router, path: str) -> None:  # B-C11
    body: dict[str, Any] = {"model": "mean", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    if path == "/v1/responses":
        body = {"model": "mean", "input": "a"}
    elif path == "/v1/completions":
        body["prompt"] = "a"
    answer = router.client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert "embeds or ranks" in error(answer)["message"]


@pytest.mark.parametrize(
    ("vector", "numbers"),
    [
        ([0.5, None, float("inf"), 1], [0.5, 0.0, 0.0, 1]),
        (base64.b64encode(struct.pack("<3f", 0.5, float("nan"), -2)).decode(), [0.5, 0.0, -2.0]),
        ("", []),
        ([], []),
    ],
)
def test_vectors_come_as_numbers_or_packed(vector: Any, numbers: list[float]) -> None:
    assert numbers_of(vector) == numbers


@pytest.mark.parametrize("vector", ["AAA", "A===", "?", [[1.0]], ["1"], 5])
def test_what_is_no_vector_is_an_error(vector: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        numbers_of(vector)
