"""A request without a token limit on the real engines: the context ends it, or the clock: theirs, else the router's."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Starter
from tests.routers import Router
from tests.waiting import until

NEWLINE = 13  # its token in a tiny model
CONTEXT = 262144  # more than is generated in these times


@pytest.fixture
def launch(engine: str, routers: Starter, tiny_models: Path) -> Callable[..., Router]:
    def make(time: str, context: int = CONTEXT) -> Router:
        flags = ("--models-dir", str(tiny_models), "--ctx-size", str(context), "--max-generation-time", time)
        router = routers("--engine", engine, *flags, "--slots", "--parallel", "3")
        assert router.chat("tiny-a").status_code == 200
        return router

    return make


def endless(newline: float | bool, **more: Any) -> dict[str, Any]:
    """A request whose answer has no end; `newline` tells how likely the end of a line is."""
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "tiny-a", "messages": messages, "logit_bias": [[NEWLINE, newline]], "temperature": 0, **more}


def test_the_context_ends_it(launch: Callable[..., Router]) -> None:  # B-L14
    """512 tokens, the question's among them, for each of three slots."""
    answer = launch("0", 3 * 512).client.post("/v1/chat/completions", json=endless(False)).json()
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
        assert 1 < tokens < CONTEXT / 2


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
