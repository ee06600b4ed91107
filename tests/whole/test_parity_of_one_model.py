"""A llama-server of one model and a router of one model, side by side: same command line, same requests.

A client of a single llama-server reads the same here. The cases are what the test-suite of llama-server asks of such a
server; each difference that stays is a case with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.embedders import write_bert
from tests.routers import ENGINES, start
from tests.waiting import until
from tests.whole.test_parity import Case, Pair, ask_both, compare, folder, media_type, running, say  # noqa: F401 - a fixture

FLAGS = ("--ctx-size", "1024", "--parallel", "2", "--alias", "one,two", "--tags", "a,b")

PROMPT = {"prompt": "a b", "max_tokens": 2, "temperature": 0, "seed": 1}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT = "POST /v1/chat/completions"

METHOD = "RFC 9110: the path is known, the method is not"
OLLAMA = "this router has Ollama's API too"
ROUTER = "this is a router's endpoint, and it has more models to come"


def hi(**more: Any) -> dict[str, Any]:
    body = say("one", temperature=0, **more)
    del body["model"]
    return body


CASES = [
    # about the server
    *(Case(f"GET {path}", exact=True) for path in ("/health", "/v1/health")),
    *(Case(f"HEAD {path}") for path in ("/health", "/models", "/v1/models", "/props", "/slots")),
    Case("GET /models", exact="object models.0.capabilities models.0.type"),
    Case("GET /v1/models", exact="object"),
    Case("GET /props", exact="default_generation_settings total_slots chat_template model_path build_info modalities"),
    Case("GET /slots", exact=True),
    Case("GET /lora-adapters", exact=True),
    Case("POST /lora-adapters", [], exact=True),
    Case("POST /lora-adapters", {"id": 0}, exact="error.code error.type"),
    Case("POST /props", {}, exact=True),
    *(Case(f"{method} /tools", ours=200, why="B-W1: a refusal is an error to the page") for method in ("GET", "POST")),
    *(Case(ask, exact=True) for ask in ("GET /cors-proxy", "POST /cors-proxy")),
    Case("GET /build.json", ours=200, why="B-W1: their build comes without the page"),
    Case("GET /index.html", ours=200, why="B-W1: their build comes without the page"),
    Case("GET /nowhere", exact="error.code error.type"),
    Case("POST /nowhere", {}, exact="error.code error.type"),
    Case("POST /predict", {"instances": []}, exact="error.code error.type"),
    Case("GET /v1/models/one", ours=200, why="OpenAI's clients ask for one model"),
    Case("GET /metrics", ours=200, why="the router has metrics of its own"),
    Case("GET /", ours=200, why=OLLAMA),
    Case("HEAD /", ours=200, why=OLLAMA),
    Case("GET /api/tags", ours=200, why=OLLAMA),
    Case("POST /api/show", {}, ours=200, why=OLLAMA),
    Case("POST /v1/models", {}, ours=405, why=METHOD),
    Case("GET /v1/chat/completions", ours=405, why=METHOD),
    Case("HEAD /v1/chat/completions", ours=405, why=METHOD),
    Case("PUT /health", ours=405, why=METHOD),
    Case("POST /models", {}, ours=400, why=ROUTER),
    Case("POST /models/load", {}, ours=400, why=ROUTER),
    # slots
    Case("POST /slots/0?action=erase", {}, exact=True),
    Case("POST /slots/0?action=save", {"filename": "x"}, ours=400, why="B-T2: nothing is saved that nobody allowed"),
    # answers
    *(
        Case(f"POST {path}", hi(), exact="choices object usage.completion_tokens usage.prompt_tokens")
        for path in ("/v1/chat/completions", "/chat/completions")
    ),
    Case("POST /completion", {**PROMPT, "n_predict": 2}, exact="content tokens_predicted tokens_evaluated stop"),
    Case("POST /completions", {**PROMPT, "n_predict": 2}, exact="content"),
    Case("POST /v1/completions", PROMPT, exact="choices object"),
    Case("POST /tokenize", {"content": "the a", "with_pieces": True}, exact=True),
    Case("POST /detokenize", {"tokens": [70, 71]}, exact=True),
    Case("POST /apply-template", hi(), exact=True),
    Case("POST /infill", {"input_prefix": "a"}, exact=True),
    Case("POST /v1/chat/completions/input_tokens", hi(), exact=True),
    Case("POST /v1/messages/count_tokens", hi(), exact=True),
    *(
        Case("POST /completion", {**PROMPT, "n_predict": 4, **more}, exact=exact)
        for more, exact in (
            ({"return_tokens": True}, "tokens content"),
            ({"prompt": [70, 71]}, "content"),
            ({"prompt": [[70], [71, 70]]}, "0.content 1.content"),
            ({"prompt": [70, "the a", 71]}, "content"),
            ({"response_fields": ["content", "generation_settings/n_predict", "prompt"]}, True),
            ({"n_probs": 3}, "content"),
            ({"n_probs": 3, "post_sampling_probs": True}, "content"),
            ({"stop": ["a"]}, "content stopping_word stop_type"),
            ({"ignore_eos": True, "logit_bias": [[2, 100]]}, "content stop_type"),
            ({"logit_bias": {"2": 100}}, "content stop_type"),
            ({"logit_bias": [["the", False]]}, "content"),
            ({"n_predict": 0}, "content"),
            ({"n_indent": 4}, "content"),
            ({"grammar": 'root ::= "the" " a"'}, "content stop_type"),
            ({"samplers": ["top_k"]}, "content generation_settings.samplers"),
            ({"samplers": "k"}, "generation_settings.samplers"),
            ({"id_slot": 1}, "id_slot"),
            ({"cache_prompt": False}, "content"),
        )
    ),
    Case("POST /completion", {**PROMPT, "stream": True}),
    Case("POST /v1/completions", {**PROMPT, "stream": True}),
    Case(CHAT, hi(stream=True, stream_options={"include_usage": True})),
    *(Case(CHAT, hi(**more), exact="choices") for more in ({"max_completion_tokens": 2}, {"seed": 5}, {"top_k": 1})),
    *(Case(CHAT, hi(**more), exact="choices") for more in ({"timings_per_token": True}, {"reasoning_format": "none"})),
    Case(
        CHAT, hi(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "the"}]), exact="choices"
    ),
    Case(CHAT, hi(messages=[{"role": "assistant", "content": "a"}] * 2), exact="error.code error.type"),
    Case(CHAT, hi(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}]), exact="choices"),
    Case(CHAT, hi(messages=[{"role": "user", "content": [{"type": "sound"}]}]), exact="error.code error.type"),
    Case(CHAT, hi(chat_template_kwargs={"x": 1}), exact="choices"),
    *(
        Case("POST /tokenize", {"content": "the a", **more}, exact=True)
        for more in ({"add_special": True}, {"add_special": False}, {"parse_special": False}, {"content": ""})
    ),
    Case("POST /tokenize", {}, exact=True),
    Case("POST /tokenize", {"content": "\U0001f600", "with_pieces": True}, exact=True),
    Case("POST /detokenize", {}, exact=True),
    Case("POST /apply-template", hi(chat_template_kwargs={"x": 1}), exact=True),
    Case("POST /slots/7?action=erase", {}, exact="error.code error.type"),
    Case("POST /slots/0?action=dance", {}, ours=400, why="B-T2: nothing is saved that nobody allowed"),
    # one, two and too many answers
    *(Case(CHAT, hi(n=n), exact="choices object") for n in (None, 1, 2)),
    *(Case(CHAT, hi(n=n), exact=True) for n in (0, -1, 3)),
    Case(CHAT, hi(n="x"), exact="error.code error.type"),
    Case(CHAT, hi(n=2, stream=True)),
    *(Case("POST /v1/completions", {**PROMPT, "n": n}, exact="choices") for n in (1, 2)),
    Case("POST /v1/completions", {**PROMPT, "prompt": ["a", "b"]}, exact="choices"),
    Case("POST /v1/completions", {**PROMPT, "best_of": 1}, exact="choices"),
    Case("POST /v1/completions", {**PROMPT, "n": 2, "best_of": 2}, exact="choices"),
    Case("POST /v1/completions", {**PROMPT, "best_of": 2}, ours=400, why="B-C9: theirs ignores it"),
    # what a chat may say; this model has no words for JSON
    Case(CHAT, hi(logprobs=True, top_logprobs=2), exact="choices"),
    Case(CHAT, hi(top_logprobs=2), exact=True),
    Case(CHAT, hi(stop="a"), exact="choices"),
    Case(CHAT, hi(logit_bias={"70": -100}), exact="choices"),
    Case(CHAT, hi(response_format={"type": "json_object"}), exact=True),
    Case(CHAT, hi(grammar='root ::= "a"{2,2}'), exact="choices"),
    Case(CHAT, hi(json_schema={"const": "42"}), exact=True),
    Case(CHAT, hi(response_format={"type": "sound"}), exact="error.code error.type"),
    Case(CHAT, hi(tools=[TOOL]), exact="choices"),
    Case(CHAT, hi(tools=[TOOL], tool_choice="none"), exact="choices"),
    Case(CHAT, hi(tools=[TOOL], tool_choice="nonsense"), exact="error.code error.type"),
    Case(CHAT, hi(tool_choice="required"), ours=400, why="B-C9: theirs ignores it"),
    Case(CHAT, hi(tools=[TOOL], tool_choice={"type": "function"}), ours=400, why="B-C9: theirs ignores it"),
    Case(CHAT, {"messages": [123]}, exact="error.code"),
    Case(CHAT, {"messages": [{}]}, exact="error.code"),
    Case(CHAT, {"messages": [{"role": 1}]}, exact="error.code"),
    Case(CHAT, {"messages": "text"}, exact="error.code"),
    Case(CHAT, {**hi(), "model": "gpt-4"}, ours=404, why="B-C1"),
    # what this model cannot do
    Case("POST /v1/embeddings", {"input": "a"}, exact="error.code error.message error.type"),
    Case("POST /v1/rerank", {"query": "a", "documents": ["b"]}, exact="error.code error.message error.type"),
]

EMBEDDINGS = [
    *(Case("POST /v1/embeddings", {"input": text}, exact="data usage object") for text in ("", "a", ["a", "the"])),
    *(Case("POST /v1/embeddings", {"input": text}, exact="data usage") for text in ([5, 6], [[5, 6], [7]], ["a", [5]])),
    Case("POST /v1/embeddings", {"input": "a", "encoding_format": "base64"}, exact="data usage"),
    Case("POST /v1/embeddings", {"input": "a", "encoding_format": "int8"}, exact=True),
    Case("POST /v1/embeddings", {"input": []}, exact=True),
    Case("POST /v1/embeddings", {"content": "a"}, exact=True),
    Case("POST /v1/embeddings", {}, exact=True),
    Case("POST /embedding", {"content": "a"}, exact=True),
    Case("POST /embeddings", {"content": ["a", "the"]}, exact=True),
    Case("POST /v1/embeddings", {"input": "the " * 600}, ours=200, why="B-C12"),
    Case("POST /v1/embeddings", {"input": "the " * 2000}, ours=400, why="B-C11: it would come again"),
    Case("POST /v1/embeddings", {"input": "a", "dimensions": 0}, ours=400, why="B-C9: theirs ignores it"),
    Case(CHAT, hi(), ours=400, why="B-C11: it would come again"),
]


def healthy(pair: Pair) -> None:
    """Both load their model from the start, and say so."""
    for router in pair:
        until(lambda router=router: router.client.get("/health").status_code == 200)  # type: ignore[misc]


@pytest.fixture(scope="module")
def one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:  # noqa: F811
    with running(folder, tmp_path_factory.mktemp("one") / "pair", *FLAGS, model=folder / "models/tiny-a.gguf") as pair:
        healthy(pair)
        yield pair


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:  # noqa: F811
    place = tmp_path_factory.mktemp("embedder")
    with running(folder, place / "pair", "--embedding", model=write_bert(place / "bert.gguf")) as pair:
        yield pair


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_server_of_one_model_answers_as_theirs(one: Pair, case: Case) -> None:
    ask_both(one, case)


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embeddings_are_answered_as_theirs(embedder: Pair, case: Case) -> None:
    ask_both(embedder, case)


@pytest.mark.parametrize("flags", [(), ("--api-key", "secret")])
def test_it_is_loaded_from_the_start(folder: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:  # noqa: F811
    """Before any request, each says the same about its model; while it loads, neither is healthy."""
    headers = {"authorization": "Bearer secret"}
    with running(folder, tmp_path / "pair", *flags, "--metrics", model=folder / "models/tiny-a.gguf") as pair:
        healthy(pair)
        for case in (
            Case("GET /slots", exact=True),
            Case("GET /props", exact="total_slots model_path default_generation_settings"),
            Case("GET /lora-adapters", exact=True),
        ):
            theirs, ours = pair.ask(*case.ask.split(" "), headers=headers)
            assert ours.status_code == theirs.status_code == 200
            compare(theirs.json(), ours.json(), case.exact)
        for path, needs_key in (("/health", False), ("/models", True), ("/props", True)):
            theirs, ours = pair.ask("GET", path)
            assert ours.status_code == theirs.status_code == (401 if flags and needs_key else 200), path
        for key in ({"x-api-key": "secret"}, {"authorization": "Bearer wrong"}, {}):
            theirs, ours = pair.ask("POST", "/completion", json={**PROMPT, "n_predict": 2}, headers=key)
            assert ours.status_code == theirs.status_code, key


def test_a_lone_model_is_not_loaded_if_nothing_is_to_be(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """`--no-models-autoload`, which a lone llama-server does not have."""
    path = folder / "models/tiny-a.gguf"
    router = start(
        tmp_path / "cold", "--model", str(path), "--no-models-autoload", LLAMA_SERVER_PATH=ENGINES["llama-server"]()
    )
    try:
        assert router.client.get("/health").status_code == 200
        assert router.status("tiny-a") == "unloaded"
        assert router.client.get("/slots").status_code == 400
    finally:
        router.stop()


def test_too_long_a_prompt_has_its_numbers(one: Pair) -> None:
    """And the code that OpenAI's clients look for (B-C11), where theirs is the status again."""
    theirs, ours = one.ask("POST", "/completion", json={**PROMPT, "prompt": "the " * 2000})
    assert ours.status_code == theirs.status_code == 400
    for name in ("n_prompt_tokens", "n_ctx"):
        assert ours.json()["error"][name] == theirs.json()["error"][name]
    assert ours.json()["error"]["code"] == "context_length_exceeded"


def test_its_names_and_tags_are_listed(one: Pair) -> None:
    """Theirs is known by the first of its names; here it keeps the name of its file, and has the others too."""
    theirs, ours = (response.json()["data"][0] for response in one.ask("GET", "/models"))
    assert {*ours["aliases"], ours["id"]} >= {*theirs["aliases"], theirs["id"]} == {"one", "two"}
    assert set(ours["tags"]) == set(theirs["tags"]) == {"a", "b"}
    for name in ("one", "two", "tiny-a"):
        assert one.ours.chat(name).status_code == 200


@pytest.mark.parametrize("flags", [("--metrics",), ("--props",), ("--no-slots",), ("--metrics", "--props", "--slots")])
def test_switches_of_endpoints_hold(folder: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:  # noqa: F811
    """`/metrics` without a model has the router's own lines as well."""
    with running(folder, tmp_path / "pair", *flags, model=folder / "models/tiny-a.gguf") as pair:
        healthy(pair)
        for method, path in (("GET", "/metrics?model=tiny-a"), ("POST", "/props"), ("GET", "/slots")):
            theirs, ours = pair.ask(method, path, **({"json": {}} if method == "POST" else {}))
            assert (ours.status_code, media_type(ours)) == (theirs.status_code, media_type(theirs)), path
        theirs, ours = pair.ask("GET", "/metrics")
        lines = {line.split()[0] for line in theirs.text.splitlines() if line.startswith("llamacpp:")}
        assert lines == {line.split()[0] for line in ours.text.splitlines() if line.startswith("llamacpp:")}
        assert bool(lines) is ("--metrics" in flags)
        assert 'llama_router_model_state{model="tiny-a",state="loaded"} 1\n' in ours.text


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_body_is_read_here_alone(one: Pair, coding: str) -> None:
    """llama-server's own build may lack zlib; then it answers 415 to all of them."""
    theirs, ours = one.ask("POST", "/tokenize", content=b"{}", headers={"content-encoding": coding})
    assert theirs.status_code == 415
    assert ours.status_code == (400 if coding in ("gzip", "deflate") else 415)
    assert ours.json()["error"]["type"] == "invalid_request_error"
