"""Presets that change requests, and wishes to think, on the real engines: what the model is asked in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.embedders import write_bert
from tests.routers import ENGINES, Router, start

USER = {"role": "user", "content": "hi"}
SILENT = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %}<think>yes yes yes{% endif %}"
)
FILTERED = """
set-params = {{"top_k": 7, "n_predict": 3}}
default-params = {{"temperature": 0.25, "min_p": 0.5}}
strip-params = seed
system-prefix = {prefix}
"""


class Site:
    """A router and its preset file."""

    def __init__(self, folder: Path, models: Path, engine: str) -> None:
        self._models, self._presets = models, folder / "presets.ini"
        self.write("Be brief.")
        flags = ("--engine", engine, "--models-preset", str(self._presets), "--no-models-preset-watch")
        self.router: Router = start(folder / "router", *flags, "--ctx-size", "512")

    def write(self, prefix: str) -> None:
        path = f"model = {self._models}/tiny-a.gguf\nchat-template = {SILENT}\n"
        self._presets.write_text(
            f"[plain]\n{path}\n[filtered]\n{path}{FILTERED.format(prefix=prefix)}\n"
            f'[decided]\n{path}reasoning = off\n[learned]\n{path}default-params = {{"reasoning_effort": "low"}}\n'
        )

    def post(self, path: str, model: str, **fields: Any) -> dict[str, Any]:
        response = self.router.client.post(path, json={"model": model, **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def prompt(self, model: str, **fields: Any) -> str:
        return str(self.post("/apply-template", model, **{"messages": [USER], **fields})["prompt"])

    def tokens(self, path: str, model: str, **fields: Any) -> int:
        return int(self.post(path, model, **fields)["input_tokens"])


@pytest.fixture(scope="module", params=sorted(ENGINES))
def site(request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("filters"), tiny_models, ENGINES[request.param]())
    yield made
    made.router.stop()


def test_what_the_model_is_asked(site: Site) -> None:
    for said, temperature in (({}, 0.25), ({"temperature": None}, 0.25), ({"temperature": 0.75}, 0.75)):
        more = {"top_k": 99, "max_tokens": 50, "seed": 5, "ignore_eos": True, **said}
        answer = site.post("/completion", "filtered", prompt="a", **more)
        asked = answer["generation_settings"]
        assert (asked["top_k"], asked["min_p"], asked["temperature"]) == (7, 0.5, temperature)
        assert asked["seed"] != 5
        assert answer["tokens_predicted"] == 3
    for path, fields in (
        ("/v1/chat/completions", {"messages": [USER]}),
        ("/v1/messages", {"messages": [USER], "max_tokens": 50}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 50}),
    ):
        usage = site.post(path, "filtered", ignore_eos=True, **fields)["usage"]
        assert usage.get("completion_tokens", usage.get("output_tokens")) == 3


def test_the_prefix_in_each_dialect(site: Site) -> None:
    assert site.prompt("filtered") == "system:Be brief.;user:hi;"
    assert site.prompt("plain") == "user:hi;"
    system = {"role": "system", "content": "Go."}
    assert site.prompt("filtered", messages=[system, USER]) == "system:Be brief.\n\nGo.;user:hi;"
    whole = {"role": "system", "content": "Be brief.\n\nGo."}
    expected = site.tokens("/v1/chat/completions/input_tokens", "plain", messages=[whole, USER])
    told: dict[str, dict[str, Any]] = {
        "/v1/chat/completions/input_tokens": {"messages": [system, USER]},
        "/v1/responses/input_tokens": {"input": "hi", "instructions": "Go."},
        "/v1/messages/count_tokens": {"messages": [USER], "system": [{"type": "text", "text": "Go."}]},
    }
    for path, fields in told.items():
        assert site.tokens(path, "filtered", **fields) == expected


def test_a_change_of_filters_is_there_with_the_next_request(site: Site) -> None:  # B-L13
    site.post("/completion", "filtered", prompt="a")
    process = site.router.client.get("/models/filtered/settings").json()["process"]
    try:
        site.write("Be verbose.\\nVery.")
        told = site.post("/models/reload", "")
        assert (told["changed"], "filtered" in told["kept"]) == ([], True)
        assert site.prompt("filtered") == "system:Be verbose.\nVery.;user:hi;"
        assert site.router.client.get("/models/filtered/settings").json()["process"] == process
    finally:
        site.write("Be brief.")
        site.post("/models/reload", "")


def test_a_wish_to_think_is_heard(site: Site) -> None:
    """By a template whose author presumes silence; what an operator or a request decides in so many words stays."""
    assert "<think>" not in site.prompt("plain")
    assert "<think>" in site.prompt("plain", reasoning_effort="low")
    assert "<think>" not in site.prompt("plain", reasoning_effort="none")
    assert "<think>" not in site.prompt(
        "plain", reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}
    )
    assert "<think>" not in site.prompt("decided", reasoning_effort="low")
    assert "<think>" in site.prompt("learned")
    assert "<think>" not in site.prompt("learned", reasoning_effort="none")
    for path, fields, wish in (
        ("/v1/messages/count_tokens", {"messages": [USER]}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("/v1/responses/input_tokens", {"input": "hi"}, {"reasoning": {"effort": "high"}}),
    ):
        assert site.tokens(path, "plain", **fields, **wish) > site.tokens(path, "plain", **fields)
        assert site.tokens(path, "decided", **fields, **wish) == site.tokens(path, "decided", **fields)


@pytest.fixture(scope="module", params=sorted(ENGINES))
def vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    place = tmp_path_factory.mktemp("vectors")
    mean, rank = (write_bert(place / f"{pooling}.gguf", pooling=pooling, width=32) for pooling in ("mean", "rank"))
    (place / "presets.ini").write_text(
        f'[short]\nmodel = {mean}\nset-params = {{"dimensions": 8}}\n'
        f"[whole]\nmodel = {mean}\nstrip-params = dimensions, encoding_format\n"
        f'[default]\nmodel = {mean}\ndefault-params = {{"dimensions": 8, "add_special": true}}\n'
        f'[rank]\nmodel = {rank}\nset-params = {{"top_n": 1}}\n'
    )
    router = start(
        place / "router", "--engine", ENGINES[request.param](), "--models-preset", str(place / "presets.ini")
    )
    yield router
    router.stop()


@pytest.mark.parametrize(
    ("model", "said", "length"),
    [
        ("short", {}, 8),
        ("short", {"dimensions": 16}, 8),
        ("whole", {"dimensions": 16}, 32),
        ("default", {}, 8),
        ("default", {"dimensions": 16}, 16),
        ("default", {"dimensions": None}, 8),
    ],
)
def test_filters_reach_embeddings_in_each_dialect(
    vectors: Router, model: str, said: dict[str, Any], length: int
) -> None:
    """B-C9"""
    asked = {"model": model, "input": "the a", **said}
    found = vectors.client.post("/v1/embeddings", json=asked).json()
    assert len(found["data"][0]["embedding"]) == length
    found = vectors.client.post("/api/embed", json=asked).json()
    assert len(found["embeddings"][0]) == length
    if not said:
        assert (
            len(vectors.client.post("/api/embeddings", json={"model": model, "prompt": "a"}).json()["embedding"]) == 8
        )
        native = vectors.client.post("/embedding", json={"model": model, "content": "a"})
        assert len(native.json()[0]["embedding"][0]) == 32


def test_filters_reach_ranks_and_tokens(vectors: Router) -> None:  # B-C9
    asked = {"model": "rank", "query": "a", "documents": ["the", "a", "of"], "top_n": 3}
    for path in ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"):
        assert len(vectors.client.post(path, json=asked).json()["results"]) == 1
    base64 = vectors.client.post("/v1/embeddings", json={"model": "whole", "input": "a", "encoding_format": "base64"})
    assert isinstance(base64.json()["data"][0]["embedding"], list)
    plain, special = (
        vectors.client.post("/tokenize", json={"model": model, "content": "a"}).json()["tokens"]
        for model in ("short", "default")
    )
    assert len(special) > len(plain)
