"""A request without a token limit on the real engines: the context ends it, or the clock: theirs, else the router's."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import ENDLESS_FLAGS, Router
from tests.waiting import until

NEWLINE = 13  # its token in a tiny model


@pytest.fixture
def launch(engine: str, routers: Starter, tiny_models: Path) -> Callable[..., Router]:
    def make(time: str, *more: str) -> Router:
        flags = ("--models-dir", str(tiny_models), "--max-generation-time", time, "--slots")
        router = routers("--engine", engine, *flags, *(more or ENDLESS_FLAGS))
        assert router.chat("tiny-a").status_code == 200
        return router

    return make


def endless(newline: float | bool, **more: Any) -> dict[str, Any]:
    """A request whose answer has no end; `newline` tells how likely the end of a line is."""
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "tiny-a", "messages": messages, "logit_bias": [[NEWLINE, newline]], "temperature": 0, **more}


def test_the_context_ends_it(launch: Callable[..., Router]) -> None:  # B-L14
    """512 tokens, the question's among them, for each of three slots."""
    router = launch("0", "--ctx-size", str(3 * 512), "--parallel", "3")
    answer = router.client.post("/v1/chat/completions", json=endless(False)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 512


def test_the_engine_ends_it(launch: Callable[..., Router]) -> None:  # B-L14
    """As if a token limit had been reached."""
    router = launch("1")

    def ask(path: str) -> Any:
        body = endless(1000.0, prompt="hi")
        if path == "/v1/responses":  # which refuses the fields of other APIs
            body = {"input": "hi", **{name: body[name] for name in body.keys() - {"messages", "prompt"}}}
        answer = router.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor() as pool:
        chat, plain, responses = pool.map(ask, ("/v1/chat/completions", "/completion", "/v1/responses"))
    assert (chat["choices"][0]["finish_reason"], plain["stop_type"]) == ("length", "limit")
    assert (responses["status"], responses["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    for tokens in (chat["usage"]["completion_tokens"], plain["tokens_predicted"], responses["usage"]["output_tokens"]):
        assert tokens > 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_the_router_ends_it(launch: Callable[..., Router], path: str) -> None:  # B-L14 B-C4
    """Where no line ends, or the engine was not told; it hears of the end, and has nothing more to do."""
    router = launch("0.2")
    unlimited = {"max_tokens": -1} if path == "/v1/messages" else {}  # for which the engine has a limit of its own
    body = endless(False, stream=True, **unlimited)
    with router.client.stream("POST", path, json=body) as response:
        *events, last = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert response.status_code == 200
    assert events
    if path == "/v1/messages":
        assert json.loads(events[-1])["delta"]["stop_reason"] == "max_tokens"
        assert json.loads(last)["type"] == "message_stop"
    else:
        assert (json.loads(events[-1])["choices"][0]["finish_reason"], last) == ("length", "[DONE]")
    until(lambda: not any(slot["is_processing"] for slot in router.client.get("/slots?model=tiny-a").json()))
    assert router.chat("tiny-a").status_code == 200
    assert router.loads() == 1


HI = [{"role": "user", "content": "hi"}]
UNENDING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/chat/completions": {"messages": HI, "stream": False},
    "/v1/completions": {"prompt": "hi"},
    "/completions": {"prompt": "hi", "stream": None},
    "/completion": {"prompt": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": -1},
    "/v1/responses": {"input": "hi"},
    "/api/chat": {"messages": HI, "stream": False},
    "/api/generate": {"prompt": "hi", "stream": False},
}


def told(path: str, answer: dict[str, Any]) -> tuple[str, str, int]:
    """The text of an answer, why it ended, and the number of its tokens."""
    match path:
        case "/v1/chat/completions" | "/chat/completions":
            (choice,) = answer["choices"]
            return choice["message"]["content"], choice["finish_reason"], answer["usage"]["completion_tokens"]
        case "/v1/completions":
            (choice,) = answer["choices"]
            return choice["text"], choice["finish_reason"], answer["usage"]["completion_tokens"]
        case "/completion" | "/completions":
            return answer["content"], answer["stop_type"], answer["tokens_predicted"]
        case "/v1/messages":
            return answer["content"][0]["text"], answer["stop_reason"], answer["usage"]["output_tokens"]
        case "/v1/responses":
            text = answer["output"][0]["content"][0]["text"]
            return text, answer["incomplete_details"]["reason"], (answer["usage"] or {}).get("output_tokens", 1)
        case "/api/chat":
            return answer["message"]["content"], answer["done_reason"], 1
    return answer["response"], answer["done_reason"], 1


def test_the_router_ends_an_answer_without_a_stream(launch: Callable[..., Router]) -> None:  # B-L14
    """In each dialect it has what was generated, and says that it was cut."""
    router = launch("1")

    def ask(path: str) -> httpx.Response:
        body = {"model": "tiny-a", "logit_bias": [[NEWLINE, False]], "temperature": 0, **UNENDING[path]}
        if path.startswith("/api"):
            body |= {"options": {"temperature": 0}}
        return router.client.post(path, json=body)

    with ThreadPoolExecutor(4) as pool:  # a slot each
        answers = list(pool.map(ask, UNENDING))
    for path, answer in zip(UNENDING, answers, strict=True):
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["content-type"].startswith("application/json"), path
        text, reason, tokens = told(path, answer.json())
        assert len(text) > 10, path
        assert reason in ("length", "limit", "max_tokens", "max_output_tokens"), path
        assert tokens > 0, path
    until(lambda: not any(slot["is_processing"] for slot in router.client.get("/slots?model=tiny-a").json()))
    assert router.loads() == 1


CHATS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"logprobs": True, "top_logprobs": 2},
    {"verbose": True},
    {"return_progress": True},
    {"logit_bias": {"2": 100}},
    {"stop": ["as as"]},
    {"stream": False, "stream_options": None},
    {"timings_per_token": False, "response_fields": ["content"]},
    {"messages": "text"},
    {"n": 9},
    {"messages": [{"role": "user", "content": "hi " * 700}]},
]
PROMPTS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"prompt": ["a", "b"]},
    {"n_probs": 2},
    {"logprobs": 1},
    {"return_tokens": True},
    {"stop": ["as as"]},
    {"response_fields": ["content", "stop_type", "generation_settings/top_k", "nothing/here"]},
    {"response_fields": 1},
    {"post_sampling_probs": True, "n_probs": 1},
    {"prompt": {}},
    {"echo": True},
]
SHAPES = [
    *(("/v1/chat/completions", {"messages": HI, **more}) for more in CHATS),
    *(
        (path, {"prompt": "a", **more})
        for path in ("/v1/completions", "/completion", "/completions")
        for more in PROMPTS
    ),
    ("/infill", {"input_prefix": "a"}),
]
CHANGING = {
    *("id", "created", "timings", "t_max_predict_ms", "id_slot", "logprob", "prob", "prompt_tokens_details"),
    "timings_per_token",
}


def stable(value: Any) -> Any:
    """Without what differs from one answer to the next."""
    if isinstance(value, list):
        return [stable(each) for each in value]
    if isinstance(value, dict):
        return {name: stable(each) for name, each in value.items() if name not in CHANGING}
    return value


def test_an_answer_that_the_clock_may_cut_is_the_engines_own(
    engine: str, routers: Starter, tiny_models: Path
) -> None:  # B-L14
    """With a clock the engine is asked for a stream, without it is not; the client sees no difference."""
    flags = ("--models-dir", str(tiny_models), "--ctx-size", "256", "--parallel", "2", "--engine", engine)
    timed, plain = (routers(*flags, "--max-generation-time", time) for time in ("600", "0"))
    for path, fields in SHAPES:
        body = {"model": "tiny-a", "temperature": 0, "cache_prompt": False, **fields}
        ours, theirs = (router.client.post(path, json=body) for router in (timed, plain))
        assert ours.status_code == theirs.status_code, (path, fields, ours.text[:500], theirs.text[:500])
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert stable(ours.json()) == stable(theirs.json()), (path, fields)
