"""Records of requests to real engines: their tokens are those that the client is told, in every API; stops end work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from router import demo
from tests.embedders import write_bert
from tests.routers import ENDLESS, ENGINES, Router, chat, start
from tests.waiting import until

MESSAGES = [{"role": "user", "content": "hi there"}]
LONG = {"role": "user", "content": "word " * 30}
GENERATE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 5, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hi there", "max_tokens": 5, "stream_options": {"include_usage": True}},
    "/completion": {"prompt": "hi there", "n_predict": 5},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/responses": {"input": "hi there", "max_output_tokens": 5},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 5}},
    "/api/generate": {"prompt": "hi there", "options": {"num_predict": 5}},
}
EMBED: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "mean", "input": ["the word of it"] * 20},
    "/v1/embeddings?": {"model": "mean", "input": "the word of it", "dimensions": 4},
    "/api/embed": {"model": "mean", "input": "the word of it"},
    "/v1/rerank": {"model": "rank", "query": "of", "documents": ["the", "a"]},
}
PROMPT = ("prompt_tokens", "tokens_evaluated", "prompt_eval_count")
GENERATED = ("completion_tokens", "tokens_predicted", "eval_count", "output_tokens")
numbers = count()


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    place = tmp_path_factory.mktemp("records")
    demo.make_models(place / "models")
    for pooling in ("mean", "rank"):
        write_bert(place / "models" / f"{pooling}.gguf", pooling=pooling)
    tiny = place / "models" / "tiny-a.gguf"
    (place / "presets.ini").write_text(f"[endless]\nmodel = {tiny}\ncontext-shift = true\n")
    made = start(
        place / "router",
        *("--engine", ENGINES[request.param](), "--models-dir", str(place / "models"), "--threads", "1"),
        *("--models-preset", str(place / "presets.ini"), "--ctx-size", "512"),
    )
    yield made
    made.stop()


def objects_of(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            yield json.loads(line)


def told(text: str) -> tuple[int, int | None]:
    """The tokens of prompt and answer, as the answer tells them last."""
    prompt: int | None = None
    generated: int | None = None
    for each in objects_of(text):
        for holder in (each, each.get("message"), each.get("response")):  # the last two are where events have it
            fields = {**holder, **(holder.get("usage") or {})} if isinstance(holder, dict) else {}
            prompt = next((fields[name] for name in PROMPT if name in fields), prompt)
            generated = next((fields[name] for name in GENERATED if name in fields), generated)
            if "input_tokens" in fields:
                prompt = fields["input_tokens"] + fields.get("cache_read_input_tokens", 0)
    assert prompt is not None, text
    return prompt, generated


def record_of(router: Router, id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        listed = router.client.get("/router/requests").json()["requests"]
        same = [each for each in listed if each["id"] == id and each["phase"] in ("done", "failed", "left")]
        assert len(same) <= 1
        return same[0] if same else None

    return until(found)


def asked(router: Router, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    id = f"asked-{next(numbers)}"
    answer = router.client.post(path, json=body, headers={"x-request-id": id})
    assert answer.status_code == 200, answer.text
    record = record_of(router, id)
    assert (record["status"], record["phase"], record["error"]) == (200, "done", None)
    assert record["model"] == body["model"]
    return answer.text, record


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GENERATE)
def test_tokens_are_those_of_the_answer(router: Router, path: str, stream: bool) -> None:  # B-O3
    """The second time the prompt is cached, and the first request may have loaded the model."""
    for _ in range(2):
        text, record = asked(router, path, {"model": "tiny-a", "stream": stream, **GENERATE[path]})
        assert (record["prompt"], record["generated"]) == told(text)
        assert record["generated"] == 5
        assert 0 <= record["load"] <= record["waited"] <= record["ttft"] <= record["seconds"]
        assert record["tokens_per_second"] > 0
    assert record["cached"] > 0


@pytest.mark.parametrize("path", EMBED)
def test_embeddings_have_the_tokens_of_their_inputs(router: Router, path: str) -> None:
    for _ in range(2):
        text, record = asked(router, path.removesuffix("?"), EMBED[path])
        assert (record["prompt"], record["generated"]) == (told(text)[0], None)


def test_an_answer_that_is_collected_has_its_tokens(router: Router) -> None:
    body = {"model": "tiny-a", "messages": [LONG]}
    text, record = asked(router, "/v1/chat/completions", body)
    assert (record["prompt"], record["generated"]) == told(text)


def test_several_choices_are_counted_as_the_answer_counts_them(router: Router) -> None:
    path = "/v1/chat/completions"
    text, record = asked(router, path, {"model": "tiny-a", "n": 2, **GENERATE[path]})
    assert (record["prompt"], record["generated"]) == told(text)


def test_the_first_request_tells_how_long_its_model_took_to_load(router: Router) -> None:
    router.client.post("/models/unload", json={"model": "tiny-b"})
    _, record = asked(router, "/v1/chat/completions", chat("tiny-b"))
    assert 0 < record["load"] <= record["waited"] <= record["seconds"]
    _, record = asked(router, "/v1/chat/completions", chat("tiny-b"))
    assert record["load"] == record["waited"] == 0


@pytest.mark.parametrize("headers", [{}, {"x-conversation-id": "c"}])
def test_a_stopped_stream_leaves_the_engine_idle(router: Router, headers: dict[str, str]) -> None:  # B-O3
    """Also one that would go on without its client."""
    body = chat("endless", ENDLESS, stream=True, ignore_eos=True)
    with router.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        [running] = router.client.get("/router/requests?limit=1").json()["requests"]
        assert (running["phase"], running["model"], running["status"]) == ("answering", "endless", 200)
        assert router.client.delete(f"/router/requests/{running['id']}").json()["stopped"] is True
        assert "An operator of the router has stopped" in "".join(lines)
    until(lambda: not any(slot["is_processing"] for slot in router.client.get("/slots?model=endless").json()))
    assert record_of(router, running["id"])["error"] == "stopped"
