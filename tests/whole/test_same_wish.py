"""One wish in the words of each API has one outcome: the same request to the engine, or the same error.

The engine is scripted (tests/scripted.py), so what reaches it is seen.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.routers import Router
from tests.scripted import TEMPLATES, TOO_LONG, Script, red, text_of

Body = dict[str, Any]

TODAY = {
    "type": "object",
    "properties": {"today": {"type": "boolean"}},
    "required": ["today"],
    "additionalProperties": False,
}
PNG = base64.b64encode(red()).decode()


@dataclass(frozen=True, slots=True)
class Api:
    """How a client of an API says what it wants. `thinking` are fields for each wish."""

    path: str
    base: Callable[[list[Body]], Body]  # a request with these messages; the first is a system one
    thinking: dict[str, Body]
    schema: Body
    image: Body  # a message with one
    complaint: Callable[[Any], str]  # the message of an error
    ending: Callable[[Any], Any]  # why an answer ended
    cut: str


def openai_message(error: Any) -> str:
    return str(error["error"]["message"])


def chat_base(messages: list[Body]) -> Body:
    return {"messages": messages}


def responses_base(messages: list[Body]) -> Body:
    return {"instructions": messages[0]["content"], "input": messages[1:], "store": False}


def messages_base(messages: list[Body]) -> Body:
    return {"system": messages[0]["content"], "messages": messages[1:], "max_tokens": 4000}


PICTURE = f"data:image/png;base64,{PNG}"
SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
BUDGET = {"type": "enabled", "budget_tokens": 2000}
APIS = {
    "chat": Api(
        "/v1/chat/completions",
        chat_base,
        {"off": {"reasoning_effort": "none"}, "high": {"reasoning_effort": "high"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": TODAY}}},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
        openai_message,
        lambda answer: answer["choices"][0]["finish_reason"],
        "length",
    ),
    "responses": Api(
        "/v1/responses",
        responses_base,
        {"off": {"reasoning": {"effort": "none"}}, "high": {"reasoning": {"effort": "high"}}},
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": TODAY}}},
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]},
        openai_message,
        lambda answer: answer["status"],
        "incomplete",
    ),
    "messages": Api(
        "/v1/messages",
        messages_base,
        {
            "off": {"thinking": {"type": "disabled"}},
            "high": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        },
        {"output_config": {"format": {"type": "json_schema", "schema": TODAY}}},
        {"role": "user", "content": [{"type": "image", "source": SOURCE}]},
        openai_message,
        lambda answer: answer["stop_reason"],
        "max_tokens",
    ),
    "ollama": Api(
        "/api/chat",
        chat_base,
        {"off": {"think": False}, "high": {"think": "high"}},
        {"format": TODAY},
        {"role": "user", "content": "", "images": [PNG]},
        lambda error: str(error["error"]),
        lambda answer: answer["done_reason"],
        "length",
    ),
}
SYSTEM, HI = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}


def ask(router: Router, name: str, model: str, *messages: Body, stream: bool = False, **fields: Any) -> httpx.Response:
    api = APIS[name]
    body = {"model": model, **api.base([SYSTEM, *messages]), "stream": stream, **fields}
    return router.client.post(api.path, json=body)


def sent_by_each(
    router: Router, script: Script, model: str, fields: Callable[[Api], Body], *messages: Body
) -> list[Body]:
    """What the engine gets, by API, whole and streamed."""
    chats = []
    for name, api in APIS.items():
        for stream in (False, True):
            script.play({"text": '{"today": true}'})
            answer = ask(router, name, model, *messages, stream=stream, **fields(api))
            assert answer.status_code == 200, (name, answer.text)
            (chat,) = script.sent()
            chats.append(chat)
    return chats


@pytest.mark.parametrize("wish", ["off", "high"])
@pytest.mark.parametrize("model", [*TEMPLATES, "levels"])
def test_thinking_is_the_same_wish(scripted: Router, script: Script, model: str, wish: str) -> None:  # B-C7
    chats = sent_by_each(scripted, script, model, lambda api: api.thinking[wish], HI)
    controls = [{**(chat.get("chat_template_kwargs") or {}), "effort": chat.get("reasoning_effort")} for chat in chats]
    assert all(control == controls[0] for control in controls), controls
    switch: Body = {"enable_thinking": wish == "high"}
    level = "low" if wish == "off" else "high"
    expected = {"strict": {"effort": None, **switch}, "opt-in": {"effort": None, **switch}}
    expected |= {"levels": {"effort": level}, "always": {"effort": None}}
    assert expected[model] == controls[0]


def test_a_schema_is_the_same_wish(scripted: Router, script: Script) -> None:  # B-C9
    for chat in sent_by_each(scripted, script, "opt-in", lambda api: api.schema, HI):
        assert chat["response_format"]["type"] == "json_schema"
        assert chat["response_format"]["json_schema"]["schema"] == TODAY


@pytest.mark.parametrize("model", TEMPLATES)
def test_a_late_system_message_is_the_same(scripted: Router, script: Script, model: str) -> None:  # B-C8
    late = [HI, {"role": "assistant", "content": "Hello."}, {"role": "system", "content": "Speak French."}, HI]
    chats = sent_by_each(scripted, script, model, lambda api: {}, *late)
    turns = [[(message["role"], text_of(message)) for message in chat["messages"]] for chat in chats]
    assert all(each == turns[0] for each in turns), turns
    roles = [role for role, _ in turns[0]]
    folded = ["system", "user", "assistant", "user"]
    assert roles == (folded if model == "strict" else ["system", "user", "assistant", "system", "user"])
    assert "Be brief." in turns[0][0][1]
    assert any("Speak French." in text for _, text in turns[0])


@pytest.mark.parametrize("model", ["strict", "opt-in"])
def test_an_image_without_eyes_is_the_same_error(scripted: Router, script: Script, model: str) -> None:  # B-C11
    script.play({"text": "Never said."})
    complaints = set()
    for name, api in APIS.items():
        for stream in (False, True):
            answer = ask(scripted, name, model, api.image, stream=stream)
            assert answer.status_code == 400
            # The first words are those by which Claude Code knows that it must go on without the image.
            complaints.add(api.complaint(answer.json()).removeprefix("Could not process image: "))
    assert len(complaints) == 1
    assert "see images" in complaints.pop()
    assert script.sent() == []


def test_an_image_with_eyes_is_the_same_picture(scripted: Router, script: Script) -> None:
    for name, api in APIS.items():
        script.play({"text": "Red."})
        assert ask(scripted, name, "seeing", api.image).status_code == 200
        (chat,) = script.sent()
        assert [part["image_url"]["url"] for part in chat["messages"][-1]["content"]] == [PICTURE]


def test_too_long_a_prompt_is_the_same_error(scripted: Router, script: Script) -> None:  # B-C11
    for name, api in APIS.items():
        for stream in (False, True):
            script.play({"error": TOO_LONG})
            answer = ask(scripted, name, "opt-in", HI, stream=stream)
            if name == "responses" and stream:  # Codex reads it in events alone
                events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
                assert events[-1]["code"] == "context_length_exceeded"
                complaint = events[-1]["message"]
            else:
                assert answer.status_code == 400, (name, answer.text)
                complaint = api.complaint(answer.json())
            assert "4097" in complaint, complaint
            assert "2048" in complaint, complaint
            assert "prompt is too long: 4097 tokens > 2048 maximum" in complaint or name != "messages"


def test_an_answer_that_was_cut_says_so(scripted: Router, script: Script) -> None:
    for name, api in APIS.items():
        script.play({"text": "And so", "finish": "length"})
        assert api.ending(ask(scripted, name, "opt-in", HI).json()) == api.cut
