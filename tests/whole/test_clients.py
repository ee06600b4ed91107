"""OpenAI's and Anthropic's own clients, over routers with real engines."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.conftest import Starter
from tests.routers import ENDLESS, ENDLESS_FLAGS, ENGINES, Router, chat, start
from tests.waiting import until

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
HI: list[MessageParam] = [{"role": "user", "content": "hello"}]
FEW: dict[str, Any] = {"max_tokens": 8, "seed": 1, "temperature": 0}
# A template without "assistant:", which the vocabulary of the tiny models splits into what no grammar expects.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOOLS = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}" + PLAIN
TOOL = {
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"hot": {"type": "boolean"}}, "required": ["hot"]},
}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    """Room for two models; `plain` has two aliases."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "models.ini").write_text(
        f"[plain]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {PLAIN}\nalias = gpt-5, claude-alias\n\n"
        f"[tools]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {TOOLS}\nunlisted = on\n"
    )
    made = start(
        folder / "router",
        *("--engine", ENGINES[request.param](), "--models-dir", str(tiny_models), "--models-max", "2"),
        *("--models-preset", str(folder / "models.ini"), "--api-key", "one,two", "--slots", *ENDLESS_FLAGS),
        *("--embeddings", "--pooling", "mean", "--claude-map", "claude-*-haiku*=tiny-b,claude-*=plain"),
    )
    made.client.headers["authorization"] = "Bearer one"
    yield made
    made.stop()


@pytest.fixture
def client(router: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="two", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(router: Router) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=router.url, api_key="two", max_retries=0) as made:
        yield made


def slots_are_idle(router: Router, model: str) -> bool:
    slots = router.client.get("/slots", params={"model": model}).json()
    return not any(slot["is_processing"] for slot in slots)


# OpenAI


def test_openai_switches_models_in_the_middle_of_a_conversation(client: openai.OpenAI) -> None:  # B-S1
    messages = list(HELLO)
    for model in ("tiny-a", "tiny-b", "tiny-c", "tiny-a"):
        answer = client.chat.completions.create(model=model, messages=messages, **FEW)
        assert answer.model == model
        assert answer.usage
        assert answer.usage.completion_tokens == 8
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        messages.append({"role": "user", "content": "go on"})


def test_openai_streams_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny-c", messages=HELLO, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 16
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_openai_lists_models_and_finds_one(client: openai.OpenAI) -> None:  # B-C2
    assert [model.id for model in client.models.list()] == ["plain", "tiny-a", "tiny-b", "tiny-c"]
    assert client.models.retrieve("tiny-b").id == "tiny-b"


def test_openai_embeds(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny-a", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]


def test_openai_completes_and_counts_probabilities(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="tiny-a", prompt="the", logprobs=2, **FEW)
    assert plain.choices[0].text
    answer = client.chat.completions.create(model="tiny-a", messages=HELLO, logprobs=True, top_logprobs=3, **FEW)
    assert answer.choices[0].logprobs
    assert [len(token.top_logprobs) for token in answer.choices[0].logprobs.content or []] == [3] * 8


def test_openai_passes_tools_to_the_model(client: openai.OpenAI) -> None:
    """A tiny model calls no tool, but the prompt has more tokens with tools than without."""
    tools: Any = [{"type": "function", "function": TOOL}]
    alone = client.chat.completions.create(model="tools", messages=HELLO, **FEW)
    with_tools = client.chat.completions.create(model="tools", messages=HELLO, tools=tools, **FEW)
    assert alone.usage
    assert with_tools.usage
    assert with_tools.usage.prompt_tokens > alone.usage.prompt_tokens


class Weather(BaseModel):
    hot: bool


def test_openai_has_structured_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="plain", messages=HELLO, response_format=Weather, max_tokens=100, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_openai_gets_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="plain", input="hello", instructions="Be brief.", max_output_tokens=8)
    assert (answer.status, answer.model) == ("incomplete", "plain")
    stream = client.responses.create(model="plain", input="hello", max_output_tokens=8, temperature=0, stream=True)
    events = {event.type: event for event in stream}
    assert list(events)[0 :: len(events) - 1] == ["response.created", "response.incomplete"]
    assert "response.output_text.delta" in events
    last = events["response.incomplete"]
    assert last.type == "response.incomplete"
    assert last.response.usage
    assert last.response.usage.output_tokens == 8


def test_openai_understands_the_errors(client: openai.OpenAI) -> None:  # B-C1
    with pytest.raises(openai.NotFoundError, match="tiny-a") as unknown:
        client.chat.completions.create(model="tiny-aa", messages=HELLO)
    assert (unknown.value.param, unknown.value.type) == ("model", "not_found_error")
    assert unknown.value.request_id
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="three").models.list()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny-a", messages=HELLO, extra_body={"max_tokens": "many"})


def test_openai_gets_its_own_request_id(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny-a", messages=HELLO, extra_headers={"x-request-id": "mine"}, **FEW
    )
    assert answer._request_id == "mine"


def test_an_alias_is_answered_with_the_models_own_name(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """As llama-server's router answers: the child knows only its own name (`--alias`). Answers with embeddings repeat
    the name of the request."""
    assert client.chat.completions.create(model="gpt-5", messages=HELLO, **FEW).model == "plain"
    stream = client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True, **FEW)
    assert {chunk.model for chunk in stream} == {"plain"}
    assert client.responses.create(model="gpt-5", input="hello", max_output_tokens=4).model == "plain"
    assert client.embeddings.create(model="gpt-5", input="a").model == "gpt-5"
    assert claude.messages.create(model="claude-alias", messages=HI, max_tokens=4).model == "plain"


def test_openai_that_leaves_frees_its_model(router: Router, client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="tiny-b", messages=HELLO, max_tokens=ENDLESS, stream=True) as stream:
        next(stream)
        assert not slots_are_idle(router, "tiny-b")
    until(lambda: slots_are_idle(router, "tiny-b"))


def test_many_clients_get_the_models_that_they_named(router: Router) -> None:  # B-S6
    """Two kinds of clients, three models, room for two."""

    async def ask() -> list[Any]:
        async with (
            openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="two", max_retries=0) as one,
            anthropic.AsyncAnthropic(base_url=router.url, api_key="two", max_retries=0) as two,
        ):
            models = ["tiny-a", "tiny-b", "tiny-c"] * 3
            chats = [one.chat.completions.create(model=model, messages=HELLO, **FEW) for model in models]
            messages = [two.messages.create(model=model, messages=HI, max_tokens=4) for model in models]
            return await asyncio.gather(*chats, *messages)

    answers = asyncio.run(ask())
    assert [answer.model for answer in answers] == ["tiny-a", "tiny-b", "tiny-c"] * 6


def test_a_stream_waits_for_its_load(router: Router) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="two", max_retries=0) as one:
            parts = []
            for model in ("tiny-a", "tiny-b", "tiny-c"):
                stream = await one.chat.completions.create(model=model, messages=HELLO, stream=True, **FEW)
                parts += [c.choices[0].delta.content or "" async for c in stream if c.choices]
            return "".join(parts)

    assert asyncio.run(ask())


# The same as without a router


def direct(router: Router, model: str) -> httpx.Client:
    """A client of the model's own process, as the router itself is one."""
    pid = router.client.get(f"/models/{model}/settings").json()["process"]["pid"]
    process = psutil.Process(pid)
    words = process.cmdline()
    path = words[words.index("--host") + 1]
    transport = httpx.HTTPTransport(uds=path)
    key = process.environ()["LLAMA_API_KEY"]
    return httpx.Client(base_url="http://child", transport=transport, headers={"authorization": f"Bearer {key}"})


def comparable_events(stream: bytes) -> list[Any]:
    """The events, without fields that differ from one request to the next."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    return [without_changing_fields(event) for event in events]


def without_changing_fields(value: Any) -> Any:
    changing = {"id", "created", "created_at", "completed_at", "timings", "item_id", "encrypted_content"}
    if isinstance(value, dict):
        return {key: without_changing_fields(inner) for key, inner in value.items() if key not in changing}
    return [without_changing_fields(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"prompt": "the"}),
        ("/completion", {"prompt": "the", "n_probs": 2}),
    ],
)
def test_a_stream_is_the_engines_own_token_for_token(router: Router, path: str, fields: dict[str, Any]) -> None:
    body = {"max_tokens": 40, "seed": 1, "temperature": 0, "cache_prompt": False, "stream": True, **fields}
    content = json.dumps({"model": "tiny-a", **body}).encode()
    through = router.client.post(path, content=content)
    with direct(router, "tiny-a") as child:
        itself = child.post(path, content=content)
    assert through.status_code == itself.status_code == 200
    assert len(comparable_events(itself.content)) > 3
    assert comparable_events(through.content) == comparable_events(itself.content)
    assert through.content.count(b"\n\n") == itself.content.count(b"\n\n")


def silence() -> str:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(b"\0\0" * 160)
        return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "input_audio", "input_audio": {"data": silence(), "format": "wav"}},
    ],
    ids=["image", "audio"],
)
def test_media_that_a_model_cannot_take_are_refused_for_good(router: Router, part: dict[str, Any]) -> None:  # B-C11
    body = {**chat("tiny-a"), "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]}
    through = router.client.post("/v1/chat/completions", json=body)
    assert through.status_code == 400, through.text
    error = through.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert part["type"].split("_")[0].replace("input", "audio") in error["message"]
    assert router.chat("tiny-a").status_code == 200  # nothing was loaded for the refusal
    with direct(router, "tiny-a") as child:  # its own 500 would have clients try again
        assert child.post("/v1/chat/completions", json=body).status_code == 500


# Anthropic


def test_anthropic_talks(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="tiny-a", messages=HI, system="Be brief.", max_tokens=8)
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "max_tokens")
    assert answer.usage.output_tokens == 8
    assert answer._request_id
    with claude.messages.stream(model="tiny-a", messages=HI, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens == 8
    assert text


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    count = claude.messages.count_tokens(model="tiny-a", messages=HI).input_tokens
    assert claude.messages.count_tokens(model="tiny-a", messages=HI, system="Be brief.").input_tokens > count > 0


def test_anthropic_passes_tools_to_the_model(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": TOOL["name"], "description": "It.", "input_schema": TOOL["parameters"]}]
    alone = claude.messages.count_tokens(model="tools", messages=HI)
    assert claude.messages.count_tokens(model="tools", messages=HI, tools=tools).input_tokens > alone.input_tokens
    assert claude.messages.create(model="tools", messages=HI, tools=tools, max_tokens=4).usage.output_tokens == 4


def test_anthropic_names_are_mapped_to_models(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:  # B-C3
    for name, model in (("claude-9-haiku-latest", "tiny-b"), ("claude-sonnet-9", "plain"), ("tiny-c", "tiny-c")):
        assert claude.messages.create(model=name, messages=HI, max_tokens=2).model == model
        assert claude.messages.count_tokens(model=name, messages=HI).input_tokens
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="claude-sonnet-9", messages=HELLO)


def test_anthropic_names_are_unknown_by_themselves(routers: Starter, tiny_models: Path) -> None:  # B-C3
    router = routers("--engine", "embedded", "--models-dir", str(tiny_models))
    claude = anthropic.Anthropic(base_url=router.url, api_key="-", max_retries=0)
    with claude, pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="claude-sonnet-9", messages=HI, max_tokens=2)


def test_anthropic_understands_the_errors(claude: anthropic.Anthropic) -> None:  # B-C1
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="tiny-aa", messages=HI, max_tokens=2)
    assert unknown.value.type == "not_found_error"
    assert isinstance(unknown.value.body, dict)
    assert unknown.value.request_id == unknown.value.body["request_id"]
    with pytest.raises(anthropic.AuthenticationError) as wrong:
        claude.with_options(api_key="three").messages.create(model="tiny-a", messages=HI, max_tokens=2)
    assert wrong.value.type == "authentication_error"
    wrongs: Any = [{"role": "user", "content": 5}]
    with pytest.raises(anthropic.BadRequestError) as bad:  # the engine's sentence in Anthropic's shape
        claude.messages.create(model="tiny-a", messages=wrongs, max_tokens=2)
    assert isinstance(bad.value.body, dict)
    assert (bad.value.body["type"], bad.value.type) == ("error", "invalid_request_error")
    assert bad.value.body["request_id"] == bad.value.request_id


# Failures, and whether clients retry


@pytest.fixture
def failing(
    routers: Starter, fake: str, tiny_models: Path, tmp_path: Path
) -> Callable[..., tuple[Router, Callable[[], int]]]:
    """Starts a router over the fake engine; returns it, and a function that counts the requests to its children."""
    journal = tmp_path / "journal"

    def make(*flags: str, **environ: str) -> tuple[Router, Callable[[], int]]:
        router = routers(
            "--engine", fake, "--models-dir", str(tiny_models), *flags, FAKE_JOURNAL=str(journal), **environ
        )
        return router, lambda: journal.read_text().count(" request /v1")

    return make


def test_a_generation_that_took_too_long_is_not_retried(failing: Any) -> None:  # B-L14
    router, requests = failing("--max-generation-time", "0.1", FAKE_FIRST_SECONDS="600")
    client = openai.OpenAI(base_url=f"{router.url}/v1", api_key="-", max_retries=2)
    with client, pytest.raises(openai.InternalServerError, match="--max-generation-time"):
        client.chat.completions.create(model="tiny-a", messages=HELLO)
    assert requests() == 1


def test_a_refused_client_retries_and_is_served(failing: Any) -> None:  # B-S9
    router, _ = failing("--models-max", "1", "--models-queue-max", "0", FAKE_CHUNK_SECONDS="0.05")
    claude = anthropic.Anthropic(base_url=router.url, api_key="-", max_retries=0)
    with claude, router.stream("tiny-a", 20) as events:
        next(events)
        with pytest.raises(anthropic.APIStatusError) as busy:
            claude.messages.create(model="tiny-b", messages=HI, max_tokens=2)
        assert (busy.value.status_code, busy.value.type) == (529, "overloaded_error")
        assert claude.with_options(max_retries=5).messages.create(model="tiny-b", messages=HI, max_tokens=2)


def test_a_stream_that_breaks_is_an_error_in_each_dialect(
    router: Router, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:  # B-C4
    def kill() -> None:
        pid = router.client.get("/models/tiny-c/settings").json()["process"]["pid"]
        psutil.Process(pid).kill()

    more: Any = {"model": "tiny-c", "max_tokens": ENDLESS, "stream": True}
    for make in (
        lambda: client.chat.completions.create(messages=HELLO, **more),
        lambda: claude.messages.create(messages=HI, **more),
        lambda: client.responses.create(model="tiny-c", input="hello", max_output_tokens=ENDLESS, stream=True),
    ):
        router.client.post("/models/load", json={"model": "tiny-c", "wait": True})
        stream = make()
        next(iter(stream))
        kill()
        with pytest.raises((openai.APIError, anthropic.APIStatusError), match="ended in the middle"):
            list(stream)
