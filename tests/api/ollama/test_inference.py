"""Ollama's own client over real engines: what models say is the engine's, token for token."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from typing import Any

import httpx
import ollama
import pytest
from ollama import Message, ResponseError

from tests.api.ollama.asking import FEW, HI
from tests.routers import Router


def own(router: Router, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The engine's own stream."""
    body = {"stream": True, "seed": 1, "temperature": 0, "max_tokens": 8, **fields}
    with router.client.stream("POST", path, json=body) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_chat_is_the_engines_own_token_for_token(router: Router, client: ollama.Client) -> None:
    chunks = own(router, "/v1/chat/completions", model="tiny-a", messages=[{"role": "user", "content": "hi"}])
    tokens = [text for chunk in chunks if (text := chunk["choices"][0]["delta"].get("content"))]
    lines = list(client.chat("tiny-a", HI, stream=True, options=FEW))
    assert [line.message.content for line in lines] == [*tokens, ""]
    assert [line.done for line in lines] == [False] * 8 + [True]
    last = lines[-1]
    assert (last.done_reason, last.eval_count, last.model) == ("length", 8, "tiny-a")
    usage = chunks[-1]["timings"]
    assert last.prompt_eval_count == usage["cache_n"] + usage["prompt_n"]
    assert (last.total_duration or 0) > (last.eval_duration or 0) > 0
    whole = client.chat("tiny-a", HI, options=FEW)
    assert (whole.message.content, whole.done_reason) == ("".join(tokens), "length")


def test_a_generation_is_the_engines_own_token_for_token(router: Router, client: ollama.Client) -> None:
    raw = [chunk["content"] for chunk in own(router, "/completion", model="tiny-b", prompt="once", n_predict=8)]
    assert [line.response for line in client.generate("tiny-b", "once", raw=True, stream=True, options=FEW)] == raw
    messages = [{"role": "system", "content": "no"}, {"role": "user", "content": "once"}]
    chunks = own(router, "/v1/chat/completions", model="tiny-b", messages=messages)
    spoken = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert client.generate("tiny-b", "once", system="no", options=FEW).response == spoken


async def test_many_clients_of_two_models_are_served_with_room_for_one(router: Router) -> None:  # B-S6
    """Room for one model, two that are wanted, streams and whole answers."""

    async def streamed(model: str) -> str:
        lines = await many.chat(model, HI, stream=True, options=FEW)
        return "".join([line.message.content or "" async for line in lines])

    async def whole(model: str) -> str:
        return (await many.chat(model, HI, options=FEW)).message.content or ""

    models = ("tiny-a", "tiny-b") * 2
    async with ollama.AsyncClient(router.url, trust_env=False, timeout=30) as many:
        answers = await asyncio.gather(*(ask(model) for ask in (streamed, whole) for model in models))
    assert len({*zip(models * 2, answers, strict=True)}) == 2, "each model gave one answer"


def test_an_answer_has_the_format_that_was_requested(client: ollama.Client, engine_name: str) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    options = {"num_predict": 64, "seed": 1}
    answers = [client.chat("plain", HI, format=schema, options=options).message.content]
    if engine_name == "llama-server":  # the embedded build pays no heed to schemas outside chats
        answers.append(client.generate("tiny-a", "hi", raw=True, format=schema, options=options).response)
    for answer in answers:
        assert json.loads(answer or "")["yes"] in (True, False)


def test_tools_and_their_results_are_accepted(client: ollama.Client) -> None:
    def rain(city: str) -> str:
        """Tell whether it rains.

        Args:
          city: where
        """
        return city

    call = Message.ToolCall(function=Message.ToolCall.Function(name="rain", arguments={"city": "Bonn"}))
    messages = [
        *HI,
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", tool_name="rain", content="yes"),
    ]
    answer = client.chat("tiny-a", messages, tools=[rain], think=False, options=FEW)
    assert answer.done
    assert answer.eval_count


def test_logprobs_have_as_many_alternatives_as_requested(client: ollama.Client) -> None:
    lines = list(client.chat("tiny-a", HI, stream=True, logprobs=True, top_logprobs=2, options=FEW))
    tokens = [entry for line in lines for entry in line.logprobs or ()]
    assert "".join(entry.token for entry in tokens) == "".join(line.message.content or "" for line in lines)
    assert {len(entry.top_logprobs or ()) for entry in tokens} == {2}
    (entry, *_) = client.generate("tiny-a", "x", raw=True, logprobs=True, options=FEW).logprobs or ()
    assert math.exp(entry.logprob) <= 1
    assert not entry.top_logprobs


def test_embeddings_are_the_engines_own(router: Router, client: ollama.Client) -> None:
    answer = client.embed("tiny-a", ["one", "two", "three"])
    theirs = router.client.post("/v1/embeddings", json={"model": "tiny-a", "input": ["one", "two", "three"]}).json()
    for vector, item in zip(answer.embeddings, theirs["data"], strict=True):
        assert vector == pytest.approx(item["embedding"], abs=1e-4)
    assert answer.prompt_eval_count == theirs["usage"]["prompt_tokens"]
    (short,) = client.embed("tiny-a", "one", dimensions=8).embeddings
    assert len(short) == 8
    assert math.hypot(*short) == pytest.approx(1)
    assert client.embeddings("tiny-a", "one").embedding == pytest.approx(answer.embeddings[0], abs=1e-4)
    assert client.embed("tiny-a", []).embeddings == []


def test_long_texts_are_cut_unless_truncate_is_off(client: ollama.Client) -> None:
    long = "of the " * 4000
    assert client.embed("tiny-a", long).embeddings
    with pytest.raises(ResponseError, match=r"too large|exceeds"):
        client.embed("tiny-a", long, truncate=False)


def test_a_client_that_leaves_frees_its_model(router: Router, client: ollama.Client) -> None:  # B-S2
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}]}
    with router.client.stream("POST", "/api/chat", json=body) as response:
        assert next(response.iter_lines())
    assert client.generate("tiny-b", "hi", options=FEW).done, "which needs the room of the other"
    with pytest.raises(httpx.ReadTimeout):
        router.client.post("/api/chat", json={**body, "stream": False}, timeout=0.05)
    assert client.generate("tiny-b", "hi", options=FEW).done


def test_lines_are_json_and_nothing_else(router: Router) -> None:  # B-C5
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}], "options": FEW}
    with router.client.stream("POST", "/api/chat", json=body) as response:
        data = response.read()
    assert response.headers["content-type"] == "application/x-ndjson"
    assert data.endswith(b"\n")
    lines = data[:-1].split(b"\n")
    assert all(json.loads(line)["created_at"].endswith("Z") for line in lines)
    whole = router.client.post("/api/chat", json={**body, "stream": False})
    assert whole.headers["content-type"] == "application/json"


def test_a_killed_child_ends_the_stream_and_is_started_again(router: Router, client: ollama.Client) -> None:  # B-C4
    stream = iter(client.chat("tiny-a", HI, stream=True, options={"num_predict": 2000}))
    assert next(stream).message.content
    (child,) = router.children()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ResponseError):
        list(stream)
    assert client.chat("tiny-a", HI, options=FEW).done


def test_num_ctx_changes_nothing_and_is_logged_once(router: Router, client: ollama.Client) -> None:
    client.generate("tiny-a", "")
    before = router.loads()
    for size in (512, 4096):
        client.chat("tiny-a", HI, options={**FEW, "num_ctx": size})
    assert router.loads() == before
    assert router.log.count("tiny-a: a request's num_ctx changes nothing") == 1
