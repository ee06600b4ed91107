"""Anthropic's own client over real engines, and over scripted calls of the fake one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import psutil
import pytest
from pydantic import BaseModel

from tests.api.error_shapes import error_of
from tests.api.messages.child import events_of, message_of
from tests.api.messages.conftest import client_of
from tests.routers import Router

HI: Any = [{"role": "user", "content": "hello"}]
STEADY = {"seed": 1, "temperature": 0}
FEW: Any = {"max_tokens": 8, "extra_body": STEADY}
RAIN: Any = {"name": "rain", "description": "Does it rain?", "input_schema": {"type": "object", "properties": {}}}
GIF: Any = {"type": "base64", "media_type": "image/gif", "data": "R0lGODlhAQABAAAAACwAAAAAAQABAAA="}


class Weather(BaseModel):
    hot: bool


def streamed(router: Router, **fields: Any) -> dict[str, Any]:
    """The message of a stream, whose every event is checked by its type."""
    body = {"model": "plain", "messages": HI, "max_tokens": 8, "seed": 1, "temperature": 0, "stream": True, **fields}
    response = router.client.post("/v1/messages", json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream"), response.text
    return message_of(events_of(response.content))


def counted(claude: anthropic.Anthropic, model: str = "plain", **fields: Any) -> int:
    return claude.messages.count_tokens(model=model, messages=fields.pop("messages", HI), **fields).input_tokens


def test_whole_and_streamed_are_the_same(router: Router, claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(model="plain", messages=HI, **FEW)
    assert (whole.role, whole.model, whole.stop_reason) == ("assistant", "plain", "max_tokens")
    assert whole.usage.output_tokens == 8
    with claude.messages.stream(model="plain", messages=HI, **FEW) as stream:
        assert "".join(stream.text_stream)
        final = stream.get_final_message()
    made = streamed(router)
    assert made["content"] == [{"type": "text", "text": whole.content[0].text}]
    assert final.content[0].text == made["content"][0]["text"]  # type: ignore[union-attr]
    used = made["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == counted(claude)


def test_structured_output(claude: anthropic.Anthropic) -> None:  # B-C9
    parsed = claude.messages.parse(model="plain", messages=HI, output_format=Weather, max_tokens=90, extra_body=STEADY)
    assert isinstance(parsed.parsed_output, Weather)
    older: Any = {**STEADY, "output_format": {"type": "json_schema", "schema": Weather.model_json_schema()}}
    answer = claude.messages.create(model="plain", messages=HI, max_tokens=90, extra_body=older)
    assert Weather.model_validate_json(answer.content[0].text)  # type: ignore[union-attr]


def test_stop_sequences_are_named(router: Router, claude: anthropic.Anthropic) -> None:  # B-C9
    text = claude.messages.create(model="plain", messages=HI, **FEW).content[0].text
    word = text[len(text) // 2 :][:3]
    assert word
    answer = claude.messages.create(model="plain", messages=HI, stop_sequences=["never", word], **FEW)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", word)
    made = streamed(router, stop_sequences=["never", word])
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", word)
    assert "".join(block["text"] for block in made["content"]) == text[: text.index(word)]
    missed = claude.messages.create(model="plain", messages=HI, stop_sequences=["never"], **FEW)
    assert (missed.stop_reason, missed.stop_sequence) == ("max_tokens", None)


def test_thinking(router: Router, claude: anthropic.Anthropic) -> None:  # B-C7
    """The template thinks, unless it is told not to. Its prompt has one word more then."""
    kinds = {"enabled": {"budget_tokens": 1024}, "adaptive": {}, "disabled": {}}
    counts = {kind: counted(claude, "thinks", thinking={"type": kind, **more}) for kind, more in kinds.items()}
    assert counts["enabled"] == counts["adaptive"] == counted(claude, "thinks") < counts["disabled"]
    made = streamed(router, model="thinks", thinking={"type": "adaptive"})
    assert [block["type"] for block in made["content"]] == ["thinking"]
    assert made["content"][0]["signature"]
    hidden = streamed(router, model="thinks", thinking={"type": "adaptive", "display": "omitted"})
    assert hidden["content"][0]["thinking"] == ""
    assert [block["type"] for block in streamed(router, model="thinks", thinking={"type": "disabled"})["content"]] == [
        "text"
    ]
    short = {"type": "enabled", "budget_tokens": 2}
    thoughts = streamed(router, model="thinks", thinking=short, max_tokens=20)["content"][0]["thinking"]
    assert len(thoughts) < len(streamed(router, model="thinks", max_tokens=20)["content"][0]["thinking"])
    earlier = [*HI, {"role": "assistant", "content": [{**made["content"][0]}, {"type": "text", "text": "a"}]}, *HI]
    without = [*HI, {"role": "assistant", "content": "a"}, *HI]
    assert counted(claude, "thinks", messages=earlier) > counted(claude, "thinks", messages=without)


def test_an_answer_that_has_begun_goes_on(router: Router, claude: anthropic.Anthropic) -> None:
    begun = [*HI, {"role": "assistant", "content": "so I"}]
    for model in ("plain", "thinks"):
        whole = claude.messages.create(model=model, messages=begun, **FEW)
        made = streamed(router, model=model, messages=begun)
        assert [block["type"] for block in made["content"]] == ["text"]
        assert made["content"][0]["text"] == whole.content[0].text
        assert not made["content"][0]["text"].startswith("so I")


def test_a_late_system_message(claude: anthropic.Anthropic) -> None:  # B-C8
    """As Claude Code sends it, to a template that refuses it."""
    late: Any = [*HI, {"role": "system", "content": "Be brief."}]
    assert claude.messages.create(model="strict", messages=late, system="Go.", **FEW).content
    assert counted(claude, "strict", messages=late, system="Go.") > counted(claude, "strict", system="Go.")


def test_all_that_is_said_reaches_the_model(claude: anthropic.Anthropic) -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Once upon a time."}}
    use = {"type": "tool_use", "id": "1", "name": "rain", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "It does rain today."}]}
    calls: list[Any] = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    assert counted(claude, messages=[{"role": "user", "content": [document]}]) > 20
    assert counted(claude, messages=calls) > counted(claude) + 10
    assert counted(claude, "tools", tools=[RAIN]) > counted(claude, "tools") + 20
    assert counted(claude, "tools", tools=[RAIN, RAIN], tool_choice={"type": "tool", "name": "rain"}) == counted(
        claude, "tools", tools=[RAIN]
    )


def test_what_a_preset_sets_holds(claude: anthropic.Anthropic) -> None:  # B-C9
    assert claude.messages.create(model="seeded", messages=HI, **FEW).usage.output_tokens == 2


def test_a_warm_up_generates_nothing(router: Router, claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="plain", messages=HI, max_tokens=0)
    assert (answer.content, answer.stop_reason, answer.usage.output_tokens) == ([], "max_tokens", 0)
    assert streamed(router, max_tokens=0)["content"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_permanent_errors_are_told_as_such(router: Router, stream: bool) -> None:  # B-C11
    def refused(**fields: Any) -> str:
        body = {"model": "plain", "messages": HI, "max_tokens": 4, "stream": stream, **fields}
        response = router.client.post("/v1/messages", json=body)
        assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
        return str(error_of(response)["message"])

    long = [{"role": "user", "content": "hello " * 600}]
    tokens = router.client.post("/v1/messages/count_tokens", json={"model": "plain", "messages": long}).json()
    assert refused(messages=long) == f"prompt is too long: {tokens['input_tokens']} tokens > 512 maximum"
    assert "see images" in refused(messages=[{"role": "user", "content": [{"type": "image", "source": GIF}]}])
    assert "web_search" in refused(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert "top_k" in refused(top_k="many")


def test_a_wrong_tool_is_named(router: Router) -> None:
    body = {"model": "plain", "messages": HI, "max_tokens": 4, "tools": [RAIN]}
    response = router.client.post("/v1/messages", json={**body, "tool_choice": {"type": "tool", "name": "snow"}})
    assert (response.status_code, "snow" in error_of(response)["message"]) == (400, True)


# Over the fake engine


def test_a_tool_call_in_pieces_and_its_result(launch: Callable[..., Router], tiny_models: Path) -> None:
    given = {"city": "Bonn", "when": ["now", 'at "noon"']}
    router = launch("--models-dir", str(tiny_models), FAKE_TOOL_ARGUMENTS=json.dumps(given))
    with client_of(router) as claude:
        asked: Any = {"model": "tiny-a", "tools": [RAIN], "max_tokens": 50}
        whole = claude.messages.create(messages=HI, **asked)
        with claude.messages.stream(messages=HI, **asked) as stream:
            final = stream.get_final_message()
        for answer in (whole, final):
            block: Any = answer.content[0]
            assert (block.type, block.id, block.name) == ("tool_use", "call-of-fake", "rain")
            assert (block.input, answer.stop_reason) == (given, "tool_use")
        turn: Any = {"role": "assistant", "content": final.to_dict()["content"]}
        result: Any = {"type": "tool_result", "tool_use_id": "call-of-fake", "content": "It does.", "is_error": False}
        more = claude.messages.create(messages=[*HI, turn, {"role": "user", "content": [result]}], **asked)
        assert more.content[0].type == "text"
    made = streamed(router, model="tiny-a", tools=[RAIN])
    assert made["content"][0]["input"] == given


def test_a_child_that_dies_is_an_error_event(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C4
    router = launch("--models-dir", str(tiny_models), FAKE_CHUNK_SECONDS="0.05")
    asked: Any = {"model": "tiny-a", "messages": HI, "max_tokens": 1000}
    with client_of(router) as claude, claude.messages.create(**asked, stream=True) as stream:
        next(iter(stream))
        (child,) = router.children()
        psutil.Process(child.pid).kill()
        with pytest.raises(anthropic.APIStatusError, match="ended in the middle"):
            list(stream)


def test_an_answer_without_a_limit_gets_a_time_limit(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L14
    """One that is not complete then ends as one that was cut, never as complete."""
    flags = ("--models-dir", str(tiny_models), "--max-generation-time", "1")
    router = launch(*flags, FAKE_TOKENS="100000", FAKE_CHUNK_SECONDS="0.05")
    body = {"model": "tiny-a", "messages": HI, "stream": True}
    made = message_of(events_of(router.client.post("/v1/messages", json=body).content))
    assert made["content"][0]["text"]
    assert made["stop_reason"] == "max_tokens"
