"""Embeddings in Ollama's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.api.ollama.embedding import Embedding
from router.errors import RouterError
from tests.api.ollama.child import answer_of, steady


def embedding(*inputs: str, truncate: bool = True, dimensions: int = 0) -> Embedding:
    return Embedding(list(inputs), lambda vectors, n: {"v": vectors, "n": n}, truncate, dimensions)


def embeds(vector: list[float | None]) -> bytes:
    data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": vector}]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 9}}).encode()


async def test_vectors_come_in_the_order_of_their_texts(tmp_path: Path) -> None:
    assert await answer_of(tmp_path, embedding("a", "b"), steady(embeds([0.5, None]))) == [
        {"v": [[0.5, 0.0], [1.0]], "n": 9}
    ]


async def test_fewer_dimensions_are_normalized_again(tmp_path: Path) -> None:
    (answer,) = await answer_of(tmp_path, embedding("a", dimensions=2), steady(embeds([0.3, 0.4, 0.5])))
    assert answer["v"][0] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    "complaint",
    [
        "input (12 tokens) is too large to process. increase the physical batch size (current batch size: 5)",
        "request (12 tokens) exceeds the available context size (5 tokens), try increasing it",
    ],
)
async def test_texts_that_are_too_long_are_cut(tmp_path: Path, complaint: str) -> None:
    requests: list[Any] = []

    def answers(target: bytes, fields: Any) -> tuple[int, bytes]:
        requests.append(fields)
        if target == b"/tokenize":
            return 200, json.dumps({"tokens": list(range(len(fields["content"])))}).encode()
        if isinstance(fields["input"][0], str):
            return 500, json.dumps({"error": {"message": complaint}}).encode()
        return 200, embeds([1.0])

    await answer_of(tmp_path, embedding("a" * 12, "bb"), answers)
    assert requests[-1]["input"] == [[0, 1, 2, 3], [0, 1]]
    with pytest.raises(RouterError, match="12 tokens"):
        await answer_of(tmp_path, embedding("a" * 12, truncate=False), answers)
