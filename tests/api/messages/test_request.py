"""A whole request as a chat completion: every field has its effect, or is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming as PreviewParams
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

from router.api.messages import request
from router.api.messages.request import chat_request
from router.errors import InvalidRequest

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object"}
WANTED = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}


def chat(**fields: Any) -> dict[str, Any]:
    return chat_request({"model": "m", "messages": HI, "max_tokens": 5, **fields}).fields


PLAIN: dict[str, Any] = {"messages": HI, "max_tokens": 5, "stream": False}


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9, "top_k": 7}),
        ({"seed": 1, "grammar": "root ::= [a]", "min_p": 0.1}, {"seed": 1, "grammar": "root ::= [a]", "min_p": 0.1}),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}}, {}),
        ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, WANTED),
        ({"output_format": {"type": "json_schema", "schema": SCHEMA}}, WANTED),
        (
            {"stop_sequences": ["a", "b"]},
            {"stop": ["a", "b"], "verbose": True, "response_fields": ["stopping_word"]},
        ),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"stream_options": {"include_usage": False}, "keep_alive": 5, "n": 1, "container": None}, {}),
    ],
)
def test_fields_in_chats_words(fields: Any, more: Any) -> None:  # B-C9
    assert chat(**fields) == {**PLAIN, **more}


def test_a_stream_tells_its_prompt_and_its_usage() -> None:
    asked = chat_request({"messages": HI, "stream": True})
    assert asked.shape.stream
    own = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    assert asked.fields == {"messages": HI, **own}


def test_counting_generates_nothing() -> None:
    counted = chat_request({"messages": HI, "max_tokens": 5, "stream": True, "stop_sequences": ["a"]}, counts_only=True)
    assert counted.fields == {"messages": HI, "stop": ["a"]}
    assert not counted.shape.stream


def test_an_answer_that_has_begun_does_not_think() -> None:
    begun = {"messages": [*HI, {"role": "assistant", "content": "The"}]}
    assert chat_request(begun).shape.prefill == "The"
    assert chat_request(begun).fields["reasoning_effort"] == "none"
    with pytest.raises(InvalidRequest, match="begun cannot think"):
        chat_request({**begun, "thinking": {"type": "adaptive"}})


def test_every_field_of_the_api_is_known() -> None:
    """A field that this does not know would be passed on to the engine, which ignores it without a word."""
    known = {*request._TRANSLATED, *request._NO_EFFECT, *request._REFUSED}
    for types in (MessageCreateParamsNonStreaming, PreviewParams):
        assert "messages" in types.__annotations__
        assert set(types.__annotations__) <= known


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": "5"}, "max_tokens: must be a whole number, not a string"),
        ({"stream": 1}, "stream: must be true or false"),
        ({"stop_sequences": "a"}, "stop_sequences: must be a list"),
        ({"stop_sequences": [""]}, "stop_sequences.0: must not be empty"),
        ({"output_config": "a"}, "output_config: must be an object"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: must be an object"),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers: the router does not talk"),
        ({"container": "c"}, "container: there are no containers"),
        ({"logprobs": True}, "logprobs: a message has no place"),
        ({"n": 2}, "n: there is one answer"),
        ({"repeat_last_n": 2**30}, "repeat_last_n"),
        ({"stop_sequences": ["a"], "stop": ["b"]}, "stop: the request says this twice"),
        (
            {"output_format": {"type": "json_schema", "schema": SCHEMA}, "response_format": {"type": "text"}},
            "response_format: the request says this twice",
        ),
    ],
)
def test_what_has_no_effect_is_refused(fields: Any, said: str) -> None:  # B-C9
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert said in caught.value.message
