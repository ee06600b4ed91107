"""Tools, and the choice among them."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.messages.tools import chat_tools
from router.errors import InvalidRequest
from tests.api.messages.test_conversation import result, user

SCHEMA = {"type": "object", "properties": {"hot": {"type": "boolean"}}}
LOOK = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
WAIT = {"type": "custom", "name": "wait", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}


def names(translated: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in translated.get("tools", [])]


def test_tools_of_the_client() -> None:
    translated = chat_tools({"tools": [LOOK, WAIT]})
    function = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
    assert translated["tools"][0] == {"type": "function", "function": function}
    assert names(translated) == ["look", "wait"]
    assert chat_tools({"tools": []}) == chat_tools({}) == {}


def test_examples_are_shown_in_the_description() -> None:
    (tool,) = chat_tools({"tools": [{**LOOK, "input_examples": [{"hot": True}]}]})["tools"]
    assert tool["function"]["description"] == 'Looks.\n\nExamples of input:\n{"hot": true}'


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "tool", "name": "wait"}, {"tool_choice": {"type": "function", "function": {"name": "wait"}}}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_the_choice(choice: Any, chat: Any) -> None:
    translated = chat_tools({"tools": [LOOK, WAIT], "tool_choice": choice})
    assert names(translated) == ["look", "wait"]
    assert {name: translated[name] for name in translated if name != "tools"} == chat


def test_a_deferred_tool_is_offered_once_a_search_has_found_it() -> None:
    tools = [LOOK, {**WAIT, "defer_loading": True}]
    assert names(chat_tools({"tools": tools, "messages": [user("a")]})) == ["look"]
    found = user([result("1", [{"type": "tool_reference", "tool_name": "wait"}])])
    assert names(chat_tools({"tools": tools, "messages": [user("a"), found]})) == ["look", "wait"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": {}}, "tools: must be a list"),
        ({"tools": [5]}, "tools.0: must be an object"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: must be an object"),
        ({"tools": [{**LOOK, "name": ""}]}, "tools.0.name: must not be empty"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 'tools.0: tools of type "web_search_2025'),
        ({"tools": [{**LOOK, "allowed_callers": ["code_execution_20250825"]}]}, "tools.0.allowed_callers"),
        ({"tool_choice": {"type": "any"}}, 'tool_choice: "any" needs tools'),
        ({"tools": [LOOK], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "tool_choice.name: must be a string"),
        ({"tools": [LOOK], "tool_choice": "auto"}, "tool_choice: must be an object"),
    ],
)
def test_mistakes_are_named(fields: Any, said: str) -> None:  # B-C9
    with pytest.raises(InvalidRequest) as caught:
        chat_tools(fields)
    assert said in caught.value.message
