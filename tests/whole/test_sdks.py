"""Other clients that people use, over routers with room for one model. Each is a process (tests/programs.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Kind, Program, python, started
from tests.routers import FAKE, Router, start
from tests.waiting import until

HI = {"role": "user", "content": "hi"}
TODAY = {"title": "today", "type": "object", "properties": {"today": {"type": "boolean"}}, "required": ["today"]}
RAIN = {"name": "rain", "description": "Does it rain?", "parameters": TODAY, "strict": True}
TOOLS = [{"type": "function", "function": RAIN}]
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"  # as in tests/api/ollama/conftest.py


NOT_FOUND = ("NotFoundError", 404)
CLIENTS = {
    "openai.js": Kind(("node", "tests/clients/openai.mjs"), NOT_FOUND),
    "ollama.js": Kind(("node", "tests/clients/ollama.mjs"), ("ResponseError", 404)),
    "openai": Kind(python("openai"), NOT_FOUND),
    "anthropic": Kind(python("anthropic"), NOT_FOUND),
    "langchain-openai": Kind(python("langchain"), ("OpenAIModelNotFoundError", 404), "openai"),
    "langchain-responses": Kind(python("langchain"), ("OpenAIModelNotFoundError", 404), "responses"),
    "langchain-ollama": Kind(python("langchain"), ("ResponseError", 404), "ollama"),
    "litellm-openai": Kind(python("litellm"), NOT_FOUND, "openai"),
    "litellm-ollama": Kind(python("litellm"), NOT_FOUND, "ollama"),
}
EMBEDDING = sorted(CLIENTS.keys() - {"anthropic", "langchain-responses"})
CALLING = EMBEDDING  # the fake engine calls tools in this dialect only
SHAPING = EMBEDDING


@dataclass(frozen=True, slots=True)
class Client:
    program: Program
    kind: Kind

    def ask(self, do: str, router: Router, model: str, **more: Any) -> dict[str, Any]:
        """The result, or the error."""
        api = {"api": self.kind.api} if self.kind.api else {}
        words = {} if do == "embed" else {"messages": [HI]}
        return self.program.ask({"do": do, **api, "url": router.url, "model": model, **words, **more})

    def done(self, do: str, router: Router, model: str, **more: Any) -> Any:
        answer = self.ask(do, router, model, **more)
        assert "done" in answer, answer
        return answer["done"]


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A real engine, models that speak and embed, and room for one."""
    folder = tmp_path_factory.mktemp("sdks")
    model = f"model = {tiny_models}/tiny-a.gguf\n"
    presets = f"[plain]\n{model}chat-template = {PLAIN}\n[endless]\n{model}context-shift = true\n"
    (folder / "models.ini").write_text(presets)
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"), "--models-max", "1")
    made = start(folder / "router", "--engine", "embedded", *flags, "--embeddings", "--pooling", "mean")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def caller(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A fake engine that calls tools, as no tiny model does."""
    folder = tmp_path_factory.mktemp("caller")
    flags = ("--models-dir", str(tiny_models), "--models-max", "1")
    made = start(folder / "router", "--engine", FAKE, *flags, FAKE_TOOL_ARGUMENTS='{"today": true}')
    yield made
    made.stop()


@pytest.fixture(scope="module")
def programs(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Program]]:
    with started(tmp_path_factory.mktemp("programs"), router.url) as program:
        yield program


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, programs: Callable[[Kind], Program]) -> Client:
    kind = CLIENTS[request.param]
    return Client(programs(kind), kind)


def test_it_switches_models_in_the_middle_of_a_conversation(client: Client, router: Router) -> None:  # B-S1 B-S3
    messages = [HI]
    for model in ("tiny-a", "tiny-b", "tiny-a"):
        answer = client.done("chat", router, model, messages=messages, tokens=8)
        assert answer["model"] == model
        assert len(answer["text"].split()) == 8
        assert running(router) == {model}
        messages = [*messages, {"role": "assistant", "content": answer["text"]}, {"role": "user", "content": "go on"}]


def test_it_streams_from_one_model_after_the_other(client: Client, router: Router) -> None:  # B-S1
    for model in ("tiny-b", "tiny-a", "tiny-b"):
        pieces = client.done("stream", router, model, tokens=8)
        assert len(pieces) > 1
        assert len("".join(pieces).split()) == 8
        assert running(router) == {model}


def test_leaving_a_stream_frees_its_model(client: Client, router: Router) -> None:  # B-S2
    client.done("leave", router, "endless", tokens=1_000_000)  # minutes of work
    until(lambda: not any(slot["is_processing"] for slot in slots(router, "endless")))
    assert running(router) == {"endless"}
    assert client.done("chat", router, "tiny-b", tokens=4)["model"] == "tiny-b", "which needs the room of the other"


def test_an_unknown_model_is_its_not_found_error(client: Client, router: Router) -> None:  # B-C1
    for do in ("chat", "stream"):
        answer = client.ask(do, router, "tiny-aa", tokens=4)
        assert (answer["error"], answer["status"]) == client.kind.error
        assert "tiny-a" in answer["message"].replace("tiny-aa", ""), "the nearest name"


def test_it_can_offer_tools(client: Client, router: Router) -> None:
    assert client.done("chat", router, "tiny-a", tokens=4, tools=TOOLS)["text"]


@pytest.mark.parametrize("client", CALLING, indirect=True)
def test_it_gets_tool_calls_whole_and_streamed(client: Client, caller: Router) -> None:
    call = {"name": "rain", "arguments": {"today": True}}
    answer = client.done("call", caller, "tiny-a", tools=TOOLS)
    assert (answer["whole"], answer["streamed"]) == ([call], [call])
    assert answer["text"].startswith("one two")


@pytest.mark.parametrize("client", SHAPING, indirect=True)
def test_its_answer_matches_a_schema(client: Client, router: Router) -> None:
    assert client.done("shape", router, "plain", schema=TODAY)["today"] in (True, False)


@pytest.mark.parametrize("client", EMBEDDING, indirect=True)
def test_it_embeds_with_one_model_after_the_other(client: Client, router: Router) -> None:  # B-S1
    one, two, again = (
        client.done("embed", router, model, texts=["one", "two"]) for model in ("tiny-a", "tiny-b", "tiny-a")
    )
    assert [len(vector) for vector in one + two] == [64, 64, 96, 96]
    assert [pytest.approx(vector, abs=1e-4) for vector in one] == again
    assert one != two


def running(router: Router) -> set[str]:
    return {name for name, model in router.listing().items() if model["status"]["value"] != "unloaded"}


def slots(router: Router, model: str) -> list[dict[str, Any]]:
    return list(router.client.get("/slots", params={"model": model}).json())
