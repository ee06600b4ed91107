"""Whatever clients send, the answer is one of Ollama's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import ollama
import pytest
from hypothesis import strategies

from tests.api.ollama.asking import JSON, error_of
from tests.routers import Router

ENDPOINTS = ("chat", "generate", "embed", "embeddings", "show", "copy", "create", "pull")


NAMES = [
    *("model", "name", "messages", "prompt", "suffix", "system", "template", "raw", "stream", "format", "think"),
    *("tools", "images", "keep_alive", "logprobs", "top_logprobs", "input", "truncate", "dimensions", "verbose"),
    *("source", "destination", "from", "parameters", "context", "options"),
]


text = strategies.text(strategies.characters(exclude_categories=()), max_size=8)  # lone surrogates too


odd: strategies.SearchStrategy[Any] = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | text,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


message = strategies.fixed_dictionaries(
    {"role": strategies.sampled_from(["system", "user", "assistant", "tool"]), "content": text},
    optional=dict.fromkeys(("images", "tool_calls", "tool_name", "thinking"), odd),
)


good: dict[str, strategies.SearchStrategy[Any]] = {
    "model": strategies.sampled_from(["tiny-a", "tiny-a:latest", "mine"]),
    "messages": strategies.lists(message, max_size=3),
    "prompt": text,
    "input": strategies.lists(text, max_size=3),
    "stream": strategies.booleans(),
    "raw": strategies.booleans(),
    "from": strategies.just("tiny-a"),
    "source": strategies.just("tiny-a"),
    "destination": strategies.sampled_from(["mine", "yours"]),
    "format": strategies.sampled_from(["json", {"type": "object"}, {"type": 5}, {"$ref": "#/x"}]),
    "keep_alive": strategies.sampled_from([60, "1m"]),
    "options": strategies.dictionaries(
        strategies.sampled_from(["top_k", "seed", "stop", "temperature"]), odd, max_size=2
    ),
}


# One field in many is odd, so that all the others are looked at too.
usual = {name: good.get(name, strategies.none()) for name in NAMES}


fields = strategies.builds(
    lambda sent, strange: {**sent, **strange},
    strategies.fixed_dictionaries({"model": usual.pop("model")}, optional=usual),
    strategies.dictionaries(strategies.sampled_from(NAMES), odd, max_size=2),
)


@pytest.fixture(autouse=True)
def no_alias_stays(client: ollama.Client) -> Iterator[None]:
    """Other tests use the same router."""
    yield
    for model in client.list().models:
        if model.details and model.details.parent_model:
            client.delete(model.model or "")


@hypothesis.settings(max_examples=150)
@hypothesis.given(endpoint=strategies.sampled_from(ENDPOINTS), sent=fields)
def test_whatever_is_sent_is_answered_in_the_dialect(router: Router, endpoint: str, sent: dict[str, Any]) -> None:
    if isinstance(options := sent.get("options", {}), dict):
        sent = {**sent, "options": {**options, "num_predict": 2}}
    if sent.get("keep_alive") in (-1, 0):
        del sent["keep_alive"]
    response = router.client.post(f"/api/{endpoint}", content=json.dumps(sent).encode(), headers=JSON)
    assert response.status_code in (200, 400, 404, 501)
    if endpoint == "copy" and response.status_code == 200:
        assert response.content == b""
        return
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines
    assert all(isinstance(line, dict) for line in lines)
    if response.status_code != 200:
        assert error_of(response)
