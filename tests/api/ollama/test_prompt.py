"""Ollama's chats and prompts in llama-server's words."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest

from router.api.ollama import prompt
from router.api.ollama.options import AliasDefaults
from router.api.ollama.prompt import CHAT, INFILL, RAW
from router.errors import InvalidRequest
from router.models.template import Control, Reasoning

HI = [{"role": "user", "content": "hi"}]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


def chat(defaults: AliasDefaults | None = None, **fields: Any) -> dict[str, Any]:
    return prompt.chat({"messages": HI, **fields}, defaults or AliasDefaults()).fields


VALUES: list[Any] = ["5", 5.5, True, [], math.nan, math.inf, 10**400]

IMAGES: list[Any] = [1, "x", [1], ["%"], ["aGVsbG8="]]

CALLS: list[Any] = [1, [1], [{"function": {"name": 1}}]]

WRONG: dict[str, list[Any]] = {
    "options": [1, "x", [1], {"stop": [1]}],
    "format": ["yaml", 1, [1], True],
    "think": ["hard", 1, []],
    "tools": [1, [1], [{"function": {}}], [{"function": {"name": "f", "parameters": 1}}]],
    "messages": [[1], [{}], [{"role": "king"}], [{"role": []}], [{"role": "user", "content": 1}]],
    "top_logprobs": [21, -1, "1", True],
    "logprobs": [1],
}
WRONG["options"] += [{"top_k": value} for value in VALUES]
WRONG["messages"] += [[{"role": "user", "images": value}] for value in IMAGES]
WRONG["messages"] += [[{"role": "assistant", "tool_calls": value}] for value in CALLS]


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_invalid_requests(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InvalidRequest):
            chat(**{"logprobs": True, name: value})


def test_tools_get_what_they_lack() -> None:
    tools = chat(tools=[{"function": {"name": "f"}}])["tools"]
    schema = {"type": "object", "properties": {}}
    assert tools == [{"type": "function", "function": {"name": "f", "description": "", "parameters": schema}}]


def test_think_is_passed_on_as_a_wish() -> None:
    assert "think" not in chat()
    assert [chat(think=value).get("think") for value in (True, False, "low", "")] == [True, False, "low", None]
    assert "think" not in prompt.generate({"prompt": "x", "raw": True, "think": True}, AliasDefaults()).fields


@pytest.mark.parametrize(
    ("control", "default", "think", "expected"),
    [
        ("enable_thinking", False, None, True),
        ("thinking", False, None, True),
        ("enable_thinking", False, False, False),
        ("enable_thinking", True, None, None),
        ("enable_thinking", None, None, None),
        ("reasoning_effort", "medium", None, None),
        ("reasoning_effort", "medium", "high", "high"),
        ("always", True, None, None),
    ],
)
def test_models_that_can_think_do_so_unless_told(control: Control, default: Any, think: Any, expected: Any) -> None:
    reasoning = Reasoning(control, default)
    for fields in (
        prompt.generate({"prompt": "x", "think": think}, AliasDefaults(), reasoning).fields,
        prompt.chat({"messages": HI, "think": think}, AliasDefaults(), reasoning).fields,
    ):
        assert fields.get("think") == expected


def test_a_format_becomes_a_json_schema() -> None:
    schema = {"type": "array"}
    assert [chat(format=value).get("response_format") for value in ("", None)] == [None, None]
    shapes = [chat(format=value)["response_format"]["json_schema"]["schema"] for value in ("json", schema)]
    assert shapes == [{"type": "object"}, schema]
    assert (
        prompt.generate({"prompt": "x", "raw": True, "format": schema}, AliasDefaults()).fields["json_schema"] == schema
    )


def test_a_prompt_goes_to_chat_completion_or_infill() -> None:
    ways: list[dict[str, Any]] = [{}, {"raw": True}, {"suffix": "end"}, {"suffix": "end", "raw": True}]
    requests = [prompt.generate({"prompt": "begin", **way}, AliasDefaults()) for way in ways]
    assert [request.target for request in requests] == [CHAT, RAW, INFILL, INFILL]
    assert requests[0].fields["messages"] == [{"role": "user", "content": "begin"}]
    assert requests[1].fields["prompt"] == "begin"
    assert [requests[2].fields[name] for name in ("input_prefix", "input_suffix")] == ["begin", "end"]
    mistakes: list[dict[str, Any]] = [{"template": "{{ .Prompt }}"}, {"raw": True, "images": [PNG]}, {"raw": 1}]
    for wrong in mistakes:
        with pytest.raises(InvalidRequest):
            prompt.generate({"prompt": "begin", **wrong}, AliasDefaults())
