"""Ollama's API with Ollama's own client, against routers with real engines."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import ollama
import pytest
from hypothesis import strategies
from ollama import Message, ResponseError
from starlette.applications import Starlette
from starlette.testclient import TestClient

from router.api.download import FileProgress
from router.api.ollama import endpoints
from router.api.ollama.endpoints import OllamaStore
from router.errors import QueueTimeout, UnknownModel
from router.memory.estimate import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.wire.upstream import Upstream
from tests.conftest import Starter
from tests.fakes import FakeNode
from tests.routers import ENGINES, FAKE, Router, start
from tests.waiting import until

HI = [Message(role="user", content="hi")]
FEW: dict[str, Any] = {"num_predict": 8, "seed": 1, "temperature": 0}
JSON = {"content-type": "application/json"}


# Whose answers begin with nothing: the vocabulary of the tiny models makes of "assistant:" what no grammar expects.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def router(engine_name: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Models that speak and embed, and room for one."""
    folder = tmp_path_factory.mktemp("ollama")
    (folder / "models.ini").write_text(
        f"[plain]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {PLAIN}\nunlisted = true\n"
    )
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"), "--models-max", "1")
    engine = ENGINES[engine_name]()
    made = start(folder / "router", "--engine", engine, *flags, "--embeddings", "--pooling", "mean")
    yield made
    made.stop()


@pytest.fixture
def client(router: Router) -> Iterator[ollama.Client]:
    with client_of(router) as made:
        yield made
        for model in made.ps().models:  # no wish is left behind
            made.generate(model.model or "", keep_alive=0)


def client_of(router: Router, **more: Any) -> ollama.Client:
    return ollama.Client(router.url, trust_env=False, timeout=30, **more)


def own(router: Router, path: str, **fields: Any) -> list[dict[str, Any]]:
    """The engine's own stream."""
    body = {"stream": True, "seed": 1, "temperature": 0, "max_tokens": 8, **fields}
    with router.client.stream("POST", path, json=body) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


# What models say


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


async def test_many_at_once(router: Router) -> None:  # B-S6
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


def test_a_format_is_kept(client: ollama.Client, engine_name: str) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    options = {"num_predict": 64, "seed": 1}
    answers = [client.chat("plain", HI, format=schema, options=options).message.content]
    if engine_name == "llama-server":  # the embedded build pays no heed to schemas outside chats
        answers.append(client.generate("tiny-a", "hi", raw=True, format=schema, options=options).response)
    for answer in answers:
        assert json.loads(answer or "")["yes"] in (True, False)


def test_tools_and_their_results_are_taken(client: ollama.Client) -> None:
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


def test_logprobs(client: ollama.Client) -> None:
    lines = list(client.chat("tiny-a", HI, stream=True, logprobs=True, top_logprobs=2, options=FEW))
    tokens = [entry for line in lines for entry in line.logprobs or ()]
    assert "".join(entry.token for entry in tokens) == "".join(line.message.content or "" for line in lines)
    assert {len(entry.top_logprobs or ()) for entry in tokens} == {2}
    (entry, *_) = client.generate("tiny-a", "x", raw=True, logprobs=True, options=FEW).logprobs or ()
    assert math.exp(entry.logprob) <= 1
    assert not entry.top_logprobs


def test_embeddings(router: Router, client: ollama.Client) -> None:
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


def test_texts_too_long_are_cut_unless_that_is_not_wanted(client: ollama.Client) -> None:
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


# keep_alive


def loaded(client: ollama.Client) -> dict[str, datetime.datetime]:
    """When each model that runs would go."""
    return {model.model or "": model.expires_at for model in client.ps().models if model.expires_at}


def test_keep_alive_of_a_while(client: ollama.Client) -> None:  # B-C6
    client.chat("tiny-a", HI, options=FEW, keep_alive="1h")
    client.chat("tiny-a", HI, options=FEW)  # says nothing, so nothing changes
    left = loaded(client)["tiny-a"] - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=59) < left <= datetime.timedelta(hours=1)
    client.chat("tiny-a", HI, options=FEW, keep_alive=0.05)
    until(lambda: not loaded(client))


def test_keep_alive_of_nothing_unloads_after_the_request(client: ollama.Client) -> None:  # B-C6
    assert client.chat("tiny-a", HI, options=FEW, keep_alive=0).done_reason == "length"
    until(lambda: not loaded(client))
    *_, last = client.chat("tiny-a", HI, stream=True, options=FEW, keep_alive="0s")
    assert last.done_reason == "length"
    until(lambda: not loaded(client))


def test_keep_alive_for_ever_pins(router: Router, client: ollama.Client) -> None:  # B-C6
    client.chat("tiny-a", HI, options=FEW, keep_alive=-1)
    assert loaded(client)["tiny-a"].year == 2300
    with router.leave("tiny-b"):  # waits in vain
        until(lambda: router.client.get("/metrics").text.count('waiting{model="tiny-b"} 1'))
    assert loaded(client).keys() == {"tiny-a"}
    client.chat("tiny-a", HI, options=FEW, keep_alive="5m")  # says otherwise
    assert client.chat("tiny-b", HI, options=FEW).done
    assert loaded(client).keys() == {"tiny-b"}


def test_preloading_and_unloading(router: Router, client: ollama.Client) -> None:  # B-C6
    assert client.generate("tiny-a", "").done_reason == "load"
    assert loaded(client).keys() == {"tiny-a"}
    assert client.chat("tiny-a", [], keep_alive="1m").done_reason == "load"
    for _ in range(2):  # even when it is not there
        assert client.generate("tiny-a", "", keep_alive=0).done_reason == "unload"
        until(lambda: not loaded(client))
    streamed = list(client.chat("tiny-b", [], stream=True))
    assert [line.done_reason for line in streamed] == ["load"]


# What there is


def test_tags_ps_and_show(router: Router, client: ollama.Client) -> None:
    client.generate("tiny-b", "")
    tags = {model.model: model for model in client.list().models}
    assert list(tags) == ["tiny-a", "tiny-b", "tiny-c"]
    details = tags["tiny-b"].details
    assert details
    assert (details.family, details.parameter_size, details.quantization_level) == ("llama", "274K", "F32")
    (running,) = client.ps().models
    assert (running.model, running.digest, running.context_length) == ("tiny-b", tags["tiny-b"].digest, 2048)
    assert (running.size or 0) > 0
    assert running.size_vram == 0
    shown = client.show("tiny-b")
    assert shown.details == details
    assert "completion" in (shown.capabilities or ()) or "embedding" in (shown.capabilities or ())
    assert (shown.modelinfo or {})["llama.context_length"] == 2048
    assert (shown.modelinfo or {})["tokenizer.ggml.tokens"] is None
    assert "message.role" in (shown.template or "")
    assert shown.modified_at == tags["tiny-b"].modified_at
    by_name = router.client.post("/api/show", json={"name": "prefix.tiny-b:latest"}).json()
    assert by_name["details"] == details.model_dump()


def test_it_says_that_it_runs(router: Router) -> None:
    assert router.client.get("/").text == "Ollama is running"
    assert router.client.head("/").status_code == 200
    version = router.client.get("/api/version").json()["version"]
    assert all(part.isdecimal() for part in version.split("."))


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


# Names


def test_names_of_clients_own(router: Router, client: ollama.Client) -> None:
    plain = client.chat("tiny-a", HI, options=FEW).message.content
    assert client.copy("tiny-a", "mine").status == "success"
    assert client.chat("mine:latest", HI, options=FEW).message.content == plain
    created = client.create("brief", from_="mine", system="Be brief.", parameters=FEW, stream=True)
    assert [status.status for status in created][-1] == "success"
    assert client.create("brief2", from_="brief:latest", parameters={"num_predict": 2}).status == "success"
    spoken = client.chat("brief", HI)
    said = [Message(role="system", content="Be brief."), *HI]
    assert spoken.model == "brief"
    assert spoken.message.content == client.chat("tiny-a", said, options=FEW).message.content
    assert client.generate("brief2", "hi").eval_count == 2
    assert router.client.post("/api/show", json={"model": "brief2"}).json()["system"] == "Be brief."
    shown = client.show("brief2")
    assert "num_predict                    2" in (shown.parameters or "")
    assert shown.details
    assert shown.details.parent_model == "tiny-a"
    for name in ("mine", "brief", "brief2:latest"):
        assert name.removesuffix(":latest") in {model.model for model in client.list().models}
        client.delete(name)
        with pytest.raises(ResponseError) as caught:
            client.show(name)
        assert caught.value.status_code == 404


def test_names_that_cannot_be_given(router: Router, client: ollama.Client) -> None:
    for name in ("tiny-b", "tiny-b:latest", "a\nb", "x" * 201, ":latest"):
        with pytest.raises(ResponseError) as caught:
            client.copy("tiny-a", name)
        assert caught.value.status_code == 400
    for source in ("nobody", ":latest"):
        with pytest.raises(ResponseError) as caught:
            client.copy(source, "mine")
        assert caught.value.status_code == 404
    with pytest.raises(ResponseError) as caught:
        client.create("mine", from_="tiny-a", template="{{ .Prompt }}")
    assert caught.value.status_code == 501
    assert client.list().models == client.list().models
    assert len(client.list().models) == 3


# Errors


def error_of(response: httpx.Response) -> str:
    body = response.json()
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    assert isinstance(body["error"], str)
    return body["error"]


def test_a_model_that_is_not_there(router: Router, client: ollama.Client) -> None:  # B-C1
    asks: list[tuple[str, dict[str, Any]]] = [
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/api/chat", {"messages": [], "keep_alive": 0}),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/generate", {}),
        ("/api/embed", {"input": "hi"}),
        ("/api/embeddings", {"prompt": "hi"}),
        ("/api/show", {}),
    ]
    for path, fields in asks:
        response = router.client.post(path, json={"model": "tiny-aa", **fields})
        assert response.status_code == 404
        assert "tiny-a" in error_of(response)
        assert router.client.post(path, json=fields).status_code == 400
    with pytest.raises(ResponseError) as caught:
        client.delete("tiny-aa")
    assert caught.value.status_code == 404
    assert not loaded(client)


def test_mistakes(router: Router) -> None:
    def post(path: str, **more: Any) -> int:
        response = router.client.request("POST", path, **more)
        assert error_of(response)
        return response.status_code

    hello = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}]}
    assert post("/api/chat") == 400
    assert post("/api/chat", content=b"{", headers=JSON) == 400
    assert post("/api/chat", json={**hello, "options": {"top_k": "many"}}) == 400
    assert post("/api/chat", json={**hello, "stream": "no"}) == 400
    assert post("/api/chat", json={**hello, "keep_alive": "soon"}) == 400
    assert post("/api/chat?autoload=0", json=hello) == 400
    assert post("/api/generate", json={"model": "tiny-a", "prompt": "a", "suffix": "b"}) == 501
    assert post("/api/generate", json={"model": "tiny-a", "prompt": "a", "images": ["iVBORw0KGgo="]}) == 400
    assert post("/api/blobs/sha256:00", content=b"x") == 501
    assert post("/api/pull", json={"model": "../x", "stream": False}) == 400
    assert post("/api/tags") == 405
    assert error_of(router.client.get("/api/nothing"))
    assert error_of(router.client.request("DELETE", "/api/delete", json={"model": "tiny-a"}))
    digest = router.client.get("/api/tags").json()["models"][0]["digest"]
    heads = [router.client.head(f"/api/blobs/sha256:{word}").status_code for word in (digest, "0" * 64)]
    assert heads == [200, 404]


def test_keys(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-key", "secret")
    for route in ("GET /", "GET /api/tags", "POST /api/chat", "DELETE /api/delete"):
        response = router.client.request(*route.split())
        assert (route, response.status_code) == (route, 401)
        assert "key" in error_of(response)
    with client_of(router, headers={"authorization": "Bearer secret"}) as client:
        assert len(client.list().models) == 3


@pytest.fixture
def breaking(routers: Starter, tiny_models: Path, tmp_path: Path) -> Router:
    """Its model's process ends in the middle of an answer, or before it."""
    presets = tmp_path / "presets.ini"
    presets.write_text(
        "".join(
            f"[{name}]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_{wish}\nenv.FAKE_FAIL = out of luck\n"
            for name, wish in {"middle": "CRASH_AFTER_CHUNKS = 3", "never": "EXIT_CODE = 3"}.items()
        )
        + f"[slow]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_CHUNK_SECONDS = 30\n"
    )
    return routers("--engine", FAKE, "--models-preset", str(presets), "--max-generation-time", "0.1")


def test_a_child_that_dies_ends_the_stream_with_an_error_line(breaking: Router) -> None:  # B-C4
    body = {"model": "middle", "messages": [{"role": "user", "content": "hi"}]}
    with breaking.client.stream("POST", "/api/chat", json=body) as response:
        *lines, last = [json.loads(line) for line in response.iter_lines()]
    assert response.status_code == 200
    assert [line["message"]["content"] for line in lines] == ["one ", "two ", "three "][: len(lines)]
    assert last.keys() == {"error"}
    whole = breaking.client.post("/api/chat", json={**body, "stream": False})
    assert whole.status_code == 502
    assert error_of(whole)
    with client_of(breaking) as client, pytest.raises(ResponseError):
        list(client.generate("middle", "hi", stream=True))


def test_a_real_child_that_is_killed(router: Router, client: ollama.Client) -> None:  # B-C4
    stream = iter(client.chat("tiny-a", HI, stream=True, options={"num_predict": 2000}))
    assert next(stream).message.content
    (child,) = router.children()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ResponseError):
        list(stream)
    assert client.chat("tiny-a", HI, options=FEW).done


def test_a_generation_without_a_limit_comes_to_an_end(breaking: Router) -> None:  # B-L14
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
    first, last = (json.loads(line) for line in breaking.client.post("/api/chat", json=body).iter_lines())
    assert first["message"]["content"] == "one "
    assert "--max-generation-time" in last["error"]
    whole = breaking.client.post("/api/generate", json={"model": "slow", "prompt": "hi", "stream": False})
    assert whole.status_code == 504
    assert error_of(whole)


def test_a_model_that_cannot_be_loaded(breaking: Router) -> None:
    response = breaking.client.post("/api/generate", json={"model": "never", "prompt": "hi"})
    assert response.status_code == 500
    assert "out of luck" in error_of(response)


def test_num_ctx_changes_nothing_and_is_told_once(router: Router, client: ollama.Client) -> None:
    client.generate("tiny-a", "")
    before = router.loads()
    for size in (512, 4096):
        client.chat("tiny-a", HI, options={**FEW, "num_ctx": size})
    assert router.loads() == before
    assert router.log.count("tiny-a: a request's num_ctx changes nothing") == 1


# The hub


class Shelf:
    """A hub with one model."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def pull(self, name: str) -> AsyncIterator[FileProgress]:
        if name != "a/b":
            raise UnknownModel(f"{name} is not there")
        yield FileProgress("sha256:0123456789abcdef", 10, 0)
        yield FileProgress("sha256:0123456789abcdef", 10, 10)

    async def remove(self, name: str) -> None:
        if name == "kept":
            raise QueueTimeout("it is busy")
        self.removed.append(name)


def with_store(store: OllamaStore) -> TestClient:
    models = [ModelSpec(name, "cache", ()) for name in ("old", "kept")]
    pool = Pool(Catalog(models), [FakeNode()], Limits(), lambda spec: Need(Demand()))

    return TestClient(Starlette(routes=endpoints.routes(Gateway(pool, Upstream()), store)))


def test_pulling() -> None:  # B-H4
    http = with_store(Shelf())
    lines = [json.loads(line) for line in http.post("/api/pull", json={"model": "a/b"}).iter_lines()]
    part = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789abcdef", "total": 10}
    assert lines == [
        {"status": "pulling manifest"},
        {**part, "completed": 0},
        {**part, "completed": 10},
        *({"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")),
    ]
    assert http.post("/api/pull", json={"name": "a/b", "stream": False}).json() == {"status": "success"}
    failed = [json.loads(line) for line in http.post("/api/pull", json={"model": "a/c"}).iter_lines()]
    assert failed == [{"status": "pulling manifest"}, {"error": "a/c is not there"}]
    assert http.post("/api/pull", json={"model": "a/c", "stream": False}).status_code == 404


def test_removing() -> None:
    shelf = Shelf()
    http = with_store(shelf)
    assert http.request("DELETE", "/api/delete", json={"model": "old:latest"}).status_code == 200
    assert shelf.removed == ["old"]
    assert http.request("DELETE", "/api/delete", json={"model": "kept"}).json() == {"error": "it is busy"}


# Whatever clients send

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
