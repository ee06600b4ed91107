"""A chat request as its model takes it; one without a wish goes out as it came."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router.engine.flags import default_table, parse
from router.errors import InvalidRequest
from router.models.spec import Info, ModelSpec
from router.models.template import Reasoning, Roles
from router.proxy.chat import changed
from router.proxy.routing import routing_fields

SWITCH = Reasoning("enable_thinking", True)
INFO = Info(architecture="llama", capabilities=("completion", "tools", "thinking"), reasoning=SWITCH)
STRICT = replace(INFO, roles=Roles(late_system=False, developer=False, repeats=False))
USER, LATE = {"role": "user", "content": "hi"}, {"role": "system", "content": "s"}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


def spec(info: Info, *flags: str) -> ModelSpec:
    return ModelSpec("m", "preset", tuple(parse(flags, default_table())), info=info)


def ask(info: Info, *flags: str, **fields: Any) -> dict[str, Any] | None:
    body = json.dumps({"messages": [USER], **fields}).encode()
    read = routing_fields(body, None)
    assert read.fields is not None
    return changed(spec(info, *flags), read.fields, body, read.outline)


@pytest.mark.parametrize("info", [Info(), INFO, STRICT])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": []},
        {"messages": [LATE, USER, {"role": "assistant", "content": "system"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "image_url"}]}]},
        {"messages": "developer"},
        {"tool_choice": "auto", "tools": [], "chat_template_kwargs": {"enable_thinking": True}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}, "reasoning_effort": None},
    ],
)
def test_a_request_without_a_wish_stays_as_it_is(info: Info, fields: dict[str, Any]) -> None:
    assert ask(info, **fields) is None


def test_all_wishes_come_together() -> None:  # B-C7 B-C8 B-C9
    schema = {"type": "object"}
    told = ask(
        STRICT,
        messages=[USER, LATE, USER],
        reasoning_effort="none",
        response_format={"type": "json_schema", "schema": schema},
        tool_choice={"type": "function", "function": {"name": "f"}},
        tools=[{"type": "function", "function": {"name": "f"}}],
        x=1,
    )
    assert told == {
        "messages": [LATE, {"role": "user", "content": "hi\n\nhi"}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "x": 1,
        **OFF,
    }


def test_a_translation_that_gives_all_fields_is_not_parsed_again() -> None:
    fields = {"messages": [USER], "reasoning_effort": "none"}
    assert changed(spec(INFO), fields, b"not parsed") == {"messages": [USER], **OFF}
    assert changed(spec(STRICT), {"messages": [USER]}, b"not parsed") is None
    assert changed(spec(INFO), {"think": False}, b"not parsed", has_all=True) == OFF


def test_a_model_of_which_nothing_is_known_is_told_the_usual_words() -> None:
    told = ask(Info(), think="low")
    assert told is not None
    assert (told["reasoning_effort"], told["chat_template_kwargs"]) == ("low", {"enable_thinking": True})
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    assert ask(Info(), messages=picture) is None
    with pytest.raises(InvalidRequest, match="does not see images"):
        ask(INFO, messages=picture)


@pytest.mark.parametrize(
    "flags",
    [
        ("--reasoning", "off"),
        ("--reasoning-budget", "0"),
        ("--chat-template-kwargs", '{"enable_thinking": false}'),
    ],
)
def test_what_an_operator_forbids_stays_forbidden(flags: tuple[str, str]) -> None:
    assert ask(INFO, *flags, think=True) == {"messages": [USER]}
    assert ask(INFO, *flags, think=False) == {"messages": [USER], **OFF}
    assert ask(INFO, "--reasoning", "on", think=False) == {"messages": [USER], **OFF}


@pytest.mark.parametrize("body", [b'{"messages": [{"role": "system"}, 5, "developer"]}', b'{"messages": "system"}'])
def test_messages_of_no_shape_are_left_to_the_engine(body: bytes) -> None:
    read = routing_fields(body, None)
    assert read.fields is not None
    assert changed(spec(STRICT), read.fields, body, read.outline) is None
