"""Which tools a model may call, in words that the engine takes."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import InvalidField
from router.proxy.tools import needs_change, with_choice


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


TOOLS = [tool("rain"), tool("snow"), tool("wind")]


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_words_that_the_engine_takes_stay(choice: Any) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice}
    assert not needs_change(choice)
    assert with_choice(fields) is fields


@pytest.mark.parametrize(
    ("choice", "names", "word"),
    [
        ("required", ["rain", "snow", "wind"], "required"),
        ("any", ["rain", "snow", "wind"], "required"),
        ({"type": "function", "function": {"name": "snow"}}, ["snow"], "required"),
        ({"type": "function", "name": "snow"}, ["snow"], "required"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("wind"), tool("rain")]}},
            ["wind", "rain"],
            "auto",
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"name": "wind"}]}, ["wind"], "required"),
    ],
)
def test_a_choice_becomes_a_word(choice: Any, names: list[str], word: str) -> None:
    told = with_choice({"tools": TOOLS, "tool_choice": choice, "x": 1})
    assert told == {"tools": [tool(name) for name in names], "tool_choice": word, "x": 1}


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("sometimes", TOOLS),
        ("required", []),
        ("required", None),
        (5, TOOLS),
        ([], TOOLS),
        ({"type": "function"}, TOOLS),
        ({"type": "function", "function": {"name": "hail"}}, TOOLS),
        ({"type": "function", "function": {"name": "rain"}}, "rain"),
        ({"type": "function", "function": {"name": "rain"}}, None),
        ({"type": "allowed_tools"}, TOOLS),
        ({"type": "allowed_tools", "mode": "often", "tools": []}, TOOLS),
        ({"type": "allowed_tools", "tools": [5]}, TOOLS),
    ],
)
def test_a_choice_that_cannot_be_made_is_an_error(choice: Any, tools: Any) -> None:  # B-C11
    with pytest.raises(InvalidField) as caught:
        with_choice({"tools": tools, "tool_choice": choice})
    assert caught.value.param == "tool_choice"
