"""Agents' libraries in conversations: thoughts, tool calls, sessions, images, schemas, and prompts that are too long.

No tiny model calls tools or thinks, so a fake engine answers what the test says (tests/scripted.py). The router reads
the templates of real model files, and the test sees what reaches the engine.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.programs import Kind, Program, in_front, python, started
from tests.routers import Router
from tests.scripted import TEMPLATES, TOO_LONG, Script, red, text_of

CLIENTS = {
    "openai": Kind(python("openai"), ("BadRequestError", 400)),
    "openai-responses": Kind(python("responses"), ("BadRequestError", 400)),
    "anthropic": Kind(python("anthropic"), ("BadRequestError", 400)),
    "ollama": Kind(python("ollama"), ("ResponseError", 400)),
    "agents-chat": Kind(python("agents"), ("BadRequestError", 400), "chat"),
    "agents-responses": Kind(python("agents"), ("BadRequestError", 400), "responses"),
    "pydantic-chat": Kind(python("pydantic_ai"), ("ModelHTTPError", 400), "chat"),
    "pydantic-responses": Kind(python("pydantic_ai"), ("ModelHTTPError", 400), "responses"),
    "pydantic-ollama": Kind(python("pydantic_ai"), ("ModelHTTPError", 400), "ollama"),
    "vercel-chat": Kind(("node", "tests/clients/vercel.mjs"), ("APICallError", 400), "chat"),
    "vercel-responses": Kind(("node", "tests/clients/vercel.mjs"), ("APICallError", 400), "responses"),
    "vercel-anthropic": Kind(("node", "tests/clients/vercel.mjs"), ("APICallError", 400), "anthropic"),
    "vercel-ollama": Kind(("node", "tests/clients/vercel.mjs"), ("APICallError", 400), "ollama"),
    "litellm-chat": Kind(python("litellm"), ("BadRequestError", 400), "openai"),
    "litellm-responses": Kind(python("litellm"), ("BadRequestError", 400), "responses"),
    "litellm-anthropic": Kind(python("litellm"), ("BadRequestError", 400), "anthropic"),
    "litellm-ollama": Kind(python("litellm"), ("BadRequestError", 400), "ollama"),
}
# The same work for each client; more clients than templates, so that all of them meet in few tests.
PAIRS = [(client, template) for client in CLIENTS for template in TEMPLATES]
TODAY = {"title": "today", "type": "object", "properties": {"today": {"type": "boolean"}}, "required": ["today"]}
PNG = base64.b64encode(red()).decode()


@pytest.fixture(scope="module")
def programs(scripted: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Program]]:
    with started(tmp_path_factory.mktemp("programs"), scripted.url) as program:
        yield program


class Client:
    """A kind of client, and the router that it asks."""

    def __init__(self, kind: Kind, program: Program, router: Router) -> None:
        self.kind, self._program, self._router = kind, program, router

    def ask(self, do: str, model: str, **more: Any) -> dict[str, Any]:
        api = {"api": self.kind.api} if self.kind.api else {}
        return self._program.ask({"do": do, **api, "url": self._router.url, "model": model, **more})

    def done(self, do: str, model: str, **more: Any) -> Any:
        answer = self.ask(do, model, **more)
        assert "done" in answer, answer
        return answer["done"]


@pytest.fixture
def client(request: pytest.FixtureRequest, programs: Callable[[Kind], Program], scripted: Router) -> Client:
    kind = CLIENTS[request.param]
    return Client(kind, programs(kind), scripted)


@pytest.mark.parametrize(("client", "template"), PAIRS, indirect=["client"])
def test_it_hears_thoughts_and_text(client: Client, script: Script, template: str) -> None:  # B-C8 B-C10
    script.play({"contains": "how are you", "reasoning": "They ask how I am.", "text": "I am well."})
    answer = client.done("turn", template, text="how are you?")
    assert answer["text"] == "I am well."
    if "reasoning" in answer and client.kind not in DEAF:
        assert answer["reasoning"].strip() == "They ask how I am."
    (chat,) = script.sent()
    assert [message["role"] for message in chat["messages"]] in (["system", "user"], ["developer", "user"])
    assert text_of(chat["messages"][0]) == "Be brief."


# What these libraries do not show of a chat completion's thoughts.
DEAF = {CLIENTS[name] for name in ("openai", "vercel-chat", "agents-chat")}


@pytest.mark.parametrize(("client", "template"), PAIRS, indirect=["client"])
def test_it_calls_a_tool(client: Client, script: Script, template: str) -> None:
    rain = {"name": "rain", "arguments": {"today": True}}
    script.play(
        {"after": "tool", "contains": "yes", "text": "It rains."},
        {"after": "user", "tool": "rain", "reasoning": "Ask.", "calls": [rain]},
    )
    answer = client.done("tools", template, text="does it rain?", schema=TODAY)
    assert [(name, json.loads(given)) for name, given in answer["calls"]] == [("rain", {"today": True})]
    assert answer["text"] == "It rains."
    first, second = script.sent()
    assert first["tools"][0]["function"]["parameters"]["required"] == ["today"]
    *_, asked, called, result = second["messages"]
    assert text_of(asked) == "does it rain?"
    (call,) = called["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("rain", {"today": True})
    assert (result["role"], text_of(result)) == ("tool", "yes")
    assert result.get("tool_call_id", call.get("id")) == call.get("id")


@pytest.mark.parametrize(("client", "template"), PAIRS, indirect=["client"])
def test_it_goes_on_with_a_conversation(client: Client, script: Script, template: str) -> None:  # B-C10
    script.play({"contains": "one", "reasoning": "First.", "text": "First."}, {"contains": "two", "text": "Second."})
    assert client.done("resume", template, texts=["one", "two"]) == ["First.", "Second."]
    _, second = script.sent()
    one, answer, two = [message for message in second["messages"] if message["role"] != "system"]
    assert [each["role"] for each in (one, answer, two)] == ["user", "assistant", "user"]
    assert (text_of(one), text_of(two)) == ("one", "two")
    assert text_of(answer).endswith("First.")  # pydantic-ai may put the thoughts before it


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_an_image_goes_where_it_is_seen(client: Client, script: Script) -> None:
    script.play({"text": "It is red."})
    assert client.done("image", "seeing", png=PNG)["text"] == "It is red."
    (chat,) = script.sent()
    (picture,) = [part for part in chat["messages"][-1]["content"] if part["type"] == "image_url"]
    assert picture["image_url"]["url"] == f"data:image/png;base64,{PNG}"


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_an_image_for_a_model_without_eyes_is_refused_once(client: Client, scripted: Router, script: Script) -> None:
    """By clients that repeat what may help: they ask once.  # B-C11"""
    script.play({"text": "It is red."})
    with in_front(scripted) as front:
        answer = client.ask("image", "opt-in", png=PNG, url=front.url)
    assert (answer["error"], answer["status"]) == client.kind.error, answer
    assert "see images" in answer["message"]
    assert front.count == 1
    assert script.sent() == []


@pytest.mark.parametrize("client", CLIENTS, indirect=True)
def test_too_long_a_prompt_says_the_numbers(client: Client, scripted: Router, script: Script) -> None:  # B-C11
    script.play({"error": TOO_LONG})
    answer = client.ask("turn", "opt-in", text="how are you?")
    assert answer["status"] in (400, None), answer
    assert {"4097", "2048"} <= set(re.findall(r"\d+", answer["message"])), answer
    assert len(script.sent()) == 1


SHAPING = [name for name in CLIENTS if not name.startswith("litellm")]


@pytest.mark.parametrize("client", SHAPING, indirect=True)
def test_a_schema_reaches_the_engine(client: Client, script: Script) -> None:  # B-C9
    script.play({"text": '{"today": true}'})
    assert client.done("shape", "opt-in", schema=TODAY) == {"today": True}
    (chat,) = script.sent()
    assert chat["response_format"]["json_schema"]["schema"]["properties"]["today"]["type"] == "boolean"
