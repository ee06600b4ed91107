"""Tools and the choice of tools in a chat's words."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.responses.tools import ToolName, read_tool_choice, read_tools
from router.errors import InvalidRequest

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
RAIN = {"type": "function", "name": "rain", "description": "Does it rain?", "parameters": SCHEMA, "strict": True}
NOW = {"type": "function", "name": "now", "description": None, "parameters": None, "strict": None}
PATCH = {"type": "custom", "name": "patch", "description": "Edits.", "format": {"type": "text"}}
SKY = {"type": "namespace", "name": "sky", "description": "Of the sky.", "tools": [RAIN]}


def test_functions() -> None:
    tools = read_tools([RAIN, NOW])
    assert [tool["function"] for tool in tools.functions.values()] == [
        {"name": "rain", "strict": True, "description": "Does it rain?", "parameters": SCHEMA},
        {"name": "now", "parameters": {"type": "object", "properties": {}}},
    ]
    assert tools.names == {}
    assert [tool["strict"] for tool in tools.shown] == [True, None]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    tools = read_tools([PATCH])
    function = tools.functions["patch"]["function"]
    assert (function["description"], function["parameters"]["required"]) == ("Edits.", ["input"])
    assert (tools.names, tools.shown) == ({"patch": ToolName("patch", is_custom=True)}, [PATCH])
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    described = read_tools([{**PATCH, "format": grammar}]).functions["patch"]["function"]["description"]
    assert described.startswith("Edits.")
    assert described.endswith("start: WORD")


@pytest.mark.parametrize(("namespace", "name"), [("sky", "sky__rain"), ("mcp__sky__", "mcp__sky__rain")])
def test_functions_of_a_namespace(namespace: str, name: str) -> None:
    tools = read_tools([{**SKY, "name": namespace}])
    assert list(tools.functions) == [name]
    assert tools.names == {name: ToolName("rain", namespace)}
    assert tools.shown[0]["tools"][0]["name"] == "rain"
    assert read_tool_choice({"type": "function", "name": "rain", "namespace": namespace}, tools) == "required"


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview_2025_03_11", "image_generation", "tool_search"])
def test_tools_that_codex_offers_by_itself_are_left_out(kind: str) -> None:
    tools = read_tools([{"type": kind, "external_web_access": False}, RAIN])
    assert list(tools.functions) == [tool["name"] for tool in tools.shown] == ["rain"]
    with pytest.raises(InvalidRequest):
        read_tool_choice({"type": kind}, tools)
    with pytest.raises(InvalidRequest):
        read_tool_choice("required", read_tools([{"type": kind}]))


@pytest.mark.parametrize(
    ("choice", "expected", "left"),
    [
        (None, None, ["rain", "now", "patch"]),
        ("none", "none", ["rain", "now", "patch"]),
        ("auto", "auto", ["rain", "now", "patch"]),
        ("required", "required", ["rain", "now", "patch"]),
        ({"type": "function", "name": "now"}, "required", ["now"]),
        ({"type": "custom", "name": "patch"}, "required", ["patch"]),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]},
            "auto",
            ["now"],
        ),
    ],
)
def test_choices(choice: Any, expected: str | None, left: list[str]) -> None:
    tools = read_tools([RAIN, NOW, PATCH])
    assert read_tool_choice(choice, tools) == expected
    assert list(tools.functions) == left
    assert len(tools.shown) == 3


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "mcp", "server_label": "x"}, "tools[0].type"),
        ({"type": "code_interpreter"}, "tools[0].type"),
        ({"type": "local_shell"}, "tools[0].type"),
        ({"name": "f"}, "tools[0].type"),
        ({"type": "function", "function": {"name": "f"}}, "tools[0].name"),
        ({**RAIN, "parameters": "x"}, "tools[0].parameters"),
        ({**RAIN, "strict": "yes"}, "tools[0].strict"),
        ({**RAIN, "description": 5}, "tools[0].description"),
        ({**PATCH, "format": {"type": "grammar", "syntax": "ebnf"}}, "tools[0].format.syntax"),
        ({**PATCH, "format": {"type": "grammar", "syntax": "lark"}}, "tools[0].format.definition"),
        ({**SKY, "tools": [{"type": "mcp"}]}, "tools[0].tools[0].type"),
    ],
)
def test_a_mistake_names_its_field(tool: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tools([tool])
    assert caught.value.param == param


@pytest.mark.parametrize("choice", ["any", 5, {}, {"type": "function", "name": "nobody"}, {"type": "mcp"}])
def test_choices_that_cannot_be(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tool_choice(choice, read_tools([RAIN]))
    assert (caught.value.param or "").startswith("tool_choice")
