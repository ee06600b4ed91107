"""One wish about thinking, however it is said, in the words of each kind of model."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import InvalidField
from router.models.template import Reasoning
from router.proxy.thinking import LEVELS, Wish, level_for, wish_of, with_wish

SWITCH = Reasoning("enable_thinking", True)
OTHER_SWITCH = Reasoning("thinking", False)
BOTH = Reasoning("enable_thinking", True, ("low", "high"))
EFFORT = Reasoning("reasoning_effort", "medium", ("low", "medium", "high"))
ANY_EFFORT = Reasoning("reasoning_effort", "medium")
ALWAYS = Reasoning("always", True)


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({}, None),
        ({"reasoning_effort": None}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "High"}, "high"),
        ({"reasoning_effort": "xhigh"}, "xhigh"),
        ({"reasoning_effort": "default"}, None),
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "low"),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"reasoning": {"max_tokens": 500}}, True),
        ({"reasoning": {"summary": "auto"}}, None),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "auto"}}, None),
        ({"thinking": False}, False),
        ({"enable_thinking": True}, True),
        ({"think": False}, False),
        ({"think": "medium"}, "medium"),
        ({"reasoning_effort": "default", "think": False}, False),
        ({"reasoning_effort": "low", "think": False}, "low"),
    ],
)
def test_the_same_wish_in_many_words(fields: dict[str, Any], wish: Wish) -> None:  # B-C7
    assert wish_of(fields) == wish


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"reasoning": {"enabled": "no"}}, "reasoning.enabled"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": []}, "thinking"),
        ({"enable_thinking": "false"}, "enable_thinking"),
        ({"think": 0}, "think"),
        ({"think": True, "reasoning": []}, "reasoning"),
        ({"think": True, "chat_template_kwargs": "x"}, "chat_template_kwargs"),
    ],
)
def test_what_cannot_be_understood_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        with_wish(fields, SWITCH)
    assert caught.value.param == field


ON = {"chat_template_kwargs": {"enable_thinking": True}}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("reasoning", "off", "low", "on", "most"),
    [
        (SWITCH, OFF, ON, ON, ON),
        (
            OTHER_SWITCH,
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
            *[{"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}] * 3,
        ),
        (BOTH, OFF, {"reasoning_effort": "low", **ON}, ON, {"reasoning_effort": "high", **ON}),
        *(
            (
                reasoning,
                {"reasoning_effort": "low"},
                {"reasoning_effort": "low"},
                {"reasoning_effort": "high"},
                {"reasoning_effort": "high"},
            )
            for reasoning in (EFFORT, ANY_EFFORT)
        ),
        (ALWAYS, {}, {}, {}, {}),
        (None, {}, {}, {}, {}),
    ],
)
def test_a_wish_in_the_words_of_each_model(
    reasoning: Reasoning | None, off: Any, low: Any, on: Any, most: Any
) -> None:  # B-C7
    assert with_wish({"reasoning_effort": "none"}, reasoning) == off
    assert with_wish({"thinking": {"type": "disabled"}}, reasoning) == off
    assert with_wish({"reasoning": {"effort": "low"}}, reasoning) == low
    assert with_wish({"think": True}, reasoning) == on
    assert with_wish({"reasoning_effort": "max"}, reasoning) == most


def test_a_request_without_a_wish_is_the_same() -> None:
    fields: dict[str, Any] = {"messages": [], "reasoning_effort": None}
    assert with_wish(fields, SWITCH) is fields


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_raw_arguments_of_the_template_win(name: str) -> None:  # B-C7
    raw: dict[str, Any] = {"chat_template_kwargs": {name: True, "x": 1}}
    assert with_wish({"think": False, **raw}, SWITCH) == raw
    raw = {"chat_template_kwargs": {"reasoning_effort": "high"}}
    assert with_wish({"reasoning_effort": "low", **raw}, EFFORT) == raw
    assert with_wish({"think": False, "chat_template_kwargs": {"x": 1}}, SWITCH) == {
        "chat_template_kwargs": {"x": 1, "enable_thinking": False}
    }


def test_an_operator_who_forbids_thinking_is_obeyed() -> None:
    assert with_wish({"think": True}, SWITCH, may_think=False) == {}
    assert with_wish({"think": "high"}, EFFORT, may_think=False) == {}
    assert with_wish({"think": False}, SWITCH, may_think=False) == OFF


def test_a_budget_of_tokens_goes_to_the_engine() -> None:
    assert with_wish({"thinking": {"type": "enabled", "budget_tokens": 99}}, SWITCH) == {
        "thinking_budget_tokens": 99,
        **ON,
    }
    assert with_wish({"reasoning": {"max_tokens": 99}, "thinking_budget_tokens": 7}, SWITCH) == {
        "thinking_budget_tokens": 7,
        **ON,
    }
    assert with_wish({"thinking": {"type": "disabled", "budget_tokens": 99}}, SWITCH) == OFF


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (("low", "high"), {"low": "low", "medium": "low", "high": "high", "xhigh": "high", "max": "high"}),
        (("none", "max"), {"low": "max", "medium": "max", False: "none", True: "max"}),
        (("minimal", "low"), {False: "minimal", "low": "low", "high": "low"}),
        (("slow", "quick"), {False: None, True: None, "high": None}),
    ],
)
def test_the_nearest_level_that_a_model_has(levels: tuple[str, ...], expected: dict[str | bool, str | None]) -> None:
    reasoning = Reasoning("reasoning_effort", None, levels)
    assert {wish: level_for(wish, reasoning) for wish in expected} == expected
    assert {level_for(level, reasoning) for level in LEVELS} <= {*levels, None}
