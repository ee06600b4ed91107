"""Requests in a chat's words: every field has its effect, or is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.responses.request import ChatRequest, translate
from router.errors import InvalidRequest

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"hot": {"type": "boolean"}}}
TOOL = {"type": "function", "name": "f", "parameters": None, "strict": None}


def translated(**fields: Any) -> ChatRequest:
    return translate({"model": "alias", "input": "Hi", **fields}, "m", [], lambda id: None)


def chat(**fields: Any) -> dict[str, Any]:
    """What the chat has besides that which every chat has."""
    found = translated(**fields).fields
    common = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    assert common.keys() <= found.keys()
    return {name: value for name, value in found.items() if common.get(name) != value}


def system(words: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": words}, *HI]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"input": [{"role": "user", "content": "Hi"}]}, {}),
        ({"instructions": "Be brief."}, system("Be brief.")),
        ({"max_output_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0.5, "top_p": 1}, {"temperature": 0.5, "top_p": 1}),
        ({"temperature": None, "top_p": None, "max_output_tokens": None}, {}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
        ({"reasoning": None}, {}),
        ({"text": {"verbosity": "medium"}}, {}),
        ({"text": {"verbosity": "low"}, "instructions": "Go."}, system("Go.\n\nKeep your answers short.")),
        ({"text": {"verbosity": "high"}}, system("Answer in detail.")),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "w", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "w", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"parallel_tool_calls": False}, {}),
        (
            {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
                ],
                "tool_choice": "none",
                "parallel_tool_calls": False,
            },
        ),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 1}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["reasoning.encrypted_content"], "top_logprobs": 0}, {}),
        (
            {"seed": 1, "top_k": 5, "chat_template_kwargs": {"x": 1}},
            {"seed": 1, "top_k": 5, "chat_template_kwargs": {"x": 1}},
        ),
        ({"stream": True, "stream_options": {"include_obfuscation": False}, "store": False, "user": "u"}, {}),
        ({"metadata": {"a": "b"}, "truncation": "disabled", "service_tier": "auto", "prompt_cache_key": "k"}, {}),
        ({"background": False, "conversation": None, "prompt": None, "n": 1, "context_management": []}, {}),
    ],
)
def test_fields_in_a_chats_words(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    found = chat(**fields)
    assert found == expected


def test_earlier_items_come_first_and_instructions_are_the_new_ones() -> None:
    earlier = [
        {"type": "message", "role": "user", "content": "One"},
        {"type": "message", "role": "assistant", "content": "A"},
    ]
    fields = translate({"input": "Hi", "instructions": "New."}, "m", earlier, lambda id: None).fields
    assert [message["content"] for message in fields["messages"]] == ["New.", "One", "A", "Hi"]


def test_what_the_answer_repeats() -> None:
    form = {"type": "json_schema", "name": "w", "schema": SCHEMA}
    shown = translated(
        instructions="Go.",
        reasoning={"effort": "low", "generate_summary": "concise"},
        text={"format": form},
        tools=[TOOL, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "f"},
        metadata={"a": "b"},
        store=False,
    ).shown
    assert (shown["model"], shown["instructions"], shown["store"]) == ("m", "Go.", False)
    assert shown["reasoning"] == {"effort": "low", "summary": "concise"}
    assert shown["text"] == {"format": form, "verbosity": "medium"}
    assert [tool["name"] for tool in shown["tools"]] == ["f"]
    assert (shown["tool_choice"], shown["metadata"]) == ({"type": "function", "name": "f"}, {"a": "b"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}]}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"messages": HI}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 2.5}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"include": "reasoning.encrypted_content"}, "include"),
        ({"include": ["thoughts"]}, "include"),
        ({"truncation": "middle"}, "truncation"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"text": "x"}, "text"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"name": "w"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "w"}}}, "text.format.schema"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_mistake_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param
