"""What a request wants about thinking, and what a model with each kind of template is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.messages.thinking import effort_of, forget_thoughts, thinking_of, turns_with_thoughts
from router.errors import InvalidRequest
from router.models.template import Reasoning
from router.proxy.thinking import with_wish
from tests.api.messages.test_conversation import result, user

SWITCH = Reasoning("enable_thinking", True)
LEVELS = Reasoning("reasoning_effort", "medium", ("low", "medium", "high"))


def told(reasoning: Reasoning | None, thinking: Any, effort: str | None = None, **more: Any) -> dict[str, Any]:
    return with_wish(thinking_of({"thinking": thinking, **more}, effort).chat, reasoning)


def switched(value: bool) -> dict[str, Any]:
    return {"chat_template_kwargs": {"enable_thinking": value}}


@pytest.mark.parametrize(
    ("thinking", "effort", "switch", "level"),
    [
        (None, None, {}, {}),
        ({"type": "disabled"}, None, switched(False), {"reasoning_effort": "low"}),
        ({"type": "disabled"}, "high", switched(False), {"reasoning_effort": "low"}),
        ({"type": "adaptive"}, None, switched(True), {"reasoning_effort": "high"}),
        ({"type": "adaptive", "display": "summarized"}, "max", switched(True), {"reasoning_effort": "high"}),
        ({"type": "adaptive"}, "medium", switched(True), {"reasoning_effort": "medium"}),
        (
            {"type": "enabled", "budget_tokens": 2048},
            "low",
            {**switched(True), "thinking_budget_tokens": 2048},
            {"reasoning_effort": "low", "thinking_budget_tokens": 2048},
        ),
        ({"type": "enabled"}, None, switched(True), {"reasoning_effort": "high"}),
        (None, "low", switched(True), {"reasoning_effort": "low"}),
    ],
)
def test_a_wish_becomes_the_models_own_control(thinking: Any, effort: Any, switch: Any, level: Any) -> None:  # B-C7
    assert told(SWITCH, thinking, effort) == switch
    assert told(LEVELS, thinking, effort) == level
    assert told(None, thinking, effort) == told(Reasoning("always", True), thinking, effort) == {}


def test_thinking_between_tools() -> None:  # B-C7
    thinking = {"type": "between_tools"}
    assert told(SWITCH, thinking, messages=[user("a")]) == switched(False)
    assert told(SWITCH, thinking, messages=[user([result("1", "a")])]) == switched(True)


def test_thoughts_can_be_left_out_of_the_answer() -> None:
    assert not thinking_of({"thinking": {"type": "adaptive", "display": "omitted"}}, None).is_shown
    assert thinking_of({"thinking": {"type": "adaptive"}}, None).is_shown


def edits(*edits: Any) -> dict[str, Any]:
    return {"context_management": {"edits": list(edits)}}


def test_thoughts_of_old_turns_are_cleared() -> None:
    kind = {"type": "clear_thinking_20251015"}
    assert turns_with_thoughts({}) is None
    assert turns_with_thoughts(edits({**kind, "keep": "all"})) is None
    assert turns_with_thoughts(edits(kind)) == 1
    assert turns_with_thoughts(edits({**kind, "keep": {"type": "thinking_turns", "value": 2}})) == 2
    messages = [{"role": "assistant", "content": "", "reasoning_content": n} for n in "abc"]
    forget_thoughts(messages, 2)
    assert [message.get("reasoning_content") for message in messages] == [None, "b", "c"]
    forget_thoughts(messages, 9)
    assert messages[2]["reasoning_content"] == "c"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"thinking": "on"}, "thinking: must be an object"),
        ({"thinking": {}}, "thinking.type"),
        ({"thinking": {"type": "hard"}}, 'thinking.type: "hard" is unknown'),
        ({"thinking": {"type": "enabled", "budget_tokens": "5"}}, "thinking.budget_tokens: must be a whole number"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens: must be at least 1"),
        (edits({"type": "clear_tool_uses_20250919"}), "context_management.edits.0"),
        (edits({"type": "clear_thinking_20251015", "keep": 3}), "context_management.edits.0.keep"),
    ],
)
def test_mistakes_are_named(fields: Any, said: str) -> None:  # B-C9
    read = thinking_of if "thinking" in fields else lambda fields, effort: turns_with_thoughts(fields)
    with pytest.raises(InvalidRequest) as caught:
        read(fields, None)
    assert said in caught.value.message


def test_an_unknown_effort_is_named() -> None:
    assert effort_of({}) is None
    with pytest.raises(InvalidRequest, match=r"output_config\.effort: must be one of low"):
        effort_of({"effort": "most"})
