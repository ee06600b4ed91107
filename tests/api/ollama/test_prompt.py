"""Ollama's requests in llama-server's words."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest

from router.api.ollama import prompt
from router.api.ollama.fields import MAX_KEEP_ALIVE_S, embedding_inputs, keep_alive
from router.api.ollama.options import OPTIONS, AliasDefaults
from router.api.ollama.prompt import CHAT, INFILL, RAW
from router.errors import InvalidRequest
from router.models.template import Control, Reasoning

HI = [{"role": "user", "content": "hi"}]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


def chat(defaults: AliasDefaults | None = None, **fields: Any) -> dict[str, Any]:
    return prompt.chat({"messages": HI, **fields}, defaults or AliasDefaults()).fields


def test_options_under_the_engines_names() -> None:
    options: dict[str, Any] = {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "seed": 7}
    options |= {"repeat_penalty": 1.1, "repeat_last_n": 8, "presence_penalty": 1, "frequency_penalty": 2}
    options |= {"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.2, "num_predict": 9, "num_keep": 4, "stop": "x"}
    options |= {"num_ctx": 1 << 20, "num_gpu": 99, "num_thread": 1, "penalize_newline": True, "of_no_meaning": [1]}
    named = {"num_predict": "n_predict", "num_keep": "n_keep"}
    kept = {name: value for name, value in options.items() if name in OPTIONS}
    told = {named.get(name, name): value for name, value in kept.items()}
    assert chat(options=options) == {"messages": HI, **told, "stop": ["x"], "stream": True}


@pytest.mark.parametrize("count", [-1, -2, 0, None])
def test_no_limit_is_no_field(count: int | None) -> None:
    assert chat(options={"num_predict": count, "repeat_last_n": -1}) == {"messages": HI, "stream": True}


VALUES: list[Any] = ["5", 5.5, True, [], math.nan, math.inf, 10**400]
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
IMAGES: list[Any] = [1, "x", [1], ["%"], ["aGVsbG8="]]
CALLS: list[Any] = [1, [1], [{"function": {"name": 1}}]]
WRONG["messages"] += [[{"role": "user", "images": value}] for value in IMAGES]
WRONG["messages"] += [[{"role": "assistant", "tool_calls": value}] for value in CALLS]


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InvalidRequest):
            chat(**{"logprobs": True, name: value})


def test_pictures() -> None:
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0....").decode()
    given = {"role": "user", "content": "what?", "images": [PNG, f"data:image/x;base64,{jpeg}"]}
    parts = chat(messages=[given])["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    urls = [part["image_url"]["url"] for part in parts[:2]]
    assert urls == [f"data:image/png;base64,{PNG}", f"data:image/jpeg;base64,{jpeg}"]
    generated = prompt.generate({"prompt": "what?", "images": [PNG]}, AliasDefaults()).fields["messages"][0]["content"]
    assert generated == [parts[0], parts[2]]


def test_tool_calls_and_their_results_find_each_other() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"city": name}}, **more}

    messages = [
        {"role": "assistant", "tool_calls": [call("rain"), call("wind"), call("rain", id="mine")], "thinking": "hm"},
        {"role": "tool", "tool_name": "wind", "content": "3"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "tool_call_id": "mine", "content": "2"},
        {"role": "tool", "tool_name": "nobody", "content": "2"},
    ]
    told = chat(messages=messages)["messages"]
    calls = told[0]["tool_calls"]
    assert told[0]["reasoning_content"] == "hm"
    assert [made["id"] for made in calls] == ["call00001", "call00002", "mine"]
    assert [json.loads(made["function"]["arguments"]) for made in calls] == [
        {"city": n} for n in ("rain", "wind", "rain")
    ]
    answered = [(result.get("tool_call_id"), result.get("name")) for result in told[1:]]
    assert answered == [("call00002", "wind"), ("call00001", "rain"), ("mine", "rain"), (None, "nobody")]
    again = chat(messages=[*messages, {"role": "user", "content": "and?"}])["messages"]
    assert again[: len(told)] == told, "the prompt so far stays as it was"


def test_tools_are_whole() -> None:
    told = chat(tools=[{"function": {"name": "f"}}])["tools"]
    schema = {"type": "object", "properties": {}}
    assert told == [{"type": "function", "function": {"name": "f", "description": "", "parameters": schema}}]


def test_thinking() -> None:
    assert "chat_template_kwargs" not in chat()
    assert [chat(think=value)["chat_template_kwargs"] for value in (True, False)] == [
        {"enable_thinking": True},
        {"enable_thinking": False},
    ]
    assert chat(think="low")["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("control", "levels", "said", "told"),
    [
        ("thinking", (), True, {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        ("enable_thinking", (), False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("reasoning_effort", (), "max", {"reasoning_effort": "max"}),
        ("reasoning_effort", ("low", "high"), "max", {"reasoning_effort": "high"}),
        ("reasoning_effort", ("low", "high"), "medium", {"reasoning_effort": "low"}),
        ("reasoning_effort", ("high",), "low", {}),
    ],
)
def test_thinking_as_the_template_allows(
    control: Control, levels: tuple[str, ...], said: bool | str, told: dict[str, Any]
) -> None:
    reasoning = Reasoning(control, None, levels)
    asked = prompt.generate({"prompt": "x", "think": said}, AliasDefaults(), reasoning).fields
    switch = {"chat_template_kwargs": {"enable_thinking": said is not False}}
    thinking = {name: asked[name] for name in ("chat_template_kwargs", "reasoning_effort") if name in asked}
    assert thinking == {**switch, **told}


def test_formats() -> None:
    schema = {"type": "array"}
    assert [chat(format=value).get("response_format") for value in ("", None)] == [None, None]
    shapes = [chat(format=value)["response_format"]["json_schema"]["schema"] for value in ("json", schema)]
    assert shapes == [{"type": "object"}, schema]
    assert (
        prompt.generate({"prompt": "x", "raw": True, "format": schema}, AliasDefaults()).fields["json_schema"] == schema
    )


def test_ways_to_generate() -> None:
    ways: list[dict[str, Any]] = [{}, {"raw": True}, {"suffix": "end"}, {"suffix": "end", "raw": True}]
    asked = [prompt.generate({"prompt": "begin", **way}, AliasDefaults()) for way in ways]
    assert [question.target for question in asked] == [CHAT, RAW, INFILL, INFILL]
    assert asked[0].fields["messages"] == [{"role": "user", "content": "begin"}]
    assert asked[1].fields["prompt"] == "begin"
    assert [asked[2].fields[name] for name in ("input_prefix", "input_suffix")] == ["begin", "end"]
    mistakes: list[dict[str, Any]] = [{"template": "{{ .Prompt }}"}, {"raw": True, "images": [PNG]}, {"raw": 1}]
    for wrong in mistakes:
        with pytest.raises(InvalidRequest):
            prompt.generate({"prompt": "begin", **wrong}, AliasDefaults())


def test_defaults_of_a_name_come_below_the_request() -> None:
    own = AliasDefaults("Be brief.", {"seed": 1, "top_k": 2})
    told = chat(own, options={"seed": 3})
    assert (told["seed"], told["top_k"], told["messages"][0]) == (3, 2, {"role": "system", "content": "Be brief."})
    said = {"role": "system", "content": "Be long."}
    assert chat(own, messages=[said, *HI])["messages"] == [said, *HI]
    systems = ("", "No.")
    generated = [prompt.generate({"prompt": "x", "system": system}, own).fields["messages"] for system in systems]
    assert [[m["content"] for m in messages] for messages in generated] == [["Be brief.", "x"], ["No.", "x"]]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *((0, 0), (-1, math.inf), (2.5, 2.5), ("0", 0), ("-1", math.inf), ("300", 300), ("5m", 300), ("1h30m", 5400)),
        *(("1.5h", 5400), ("500ms", 0.5), ("10ns", 1e-8), ("-5m", math.inf), ("24h", 86400), (None, None), ("+1s", 1)),
        *(
            (1e300, MAX_KEEP_ALIVE_S),
            (10**400, MAX_KEEP_ALIVE_S),
            ("999999999h", MAX_KEEP_ALIVE_S),
            (-(10**400), math.inf),
        ),
        (math.inf, MAX_KEEP_ALIVE_S),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_keep_alive(said: Any, seconds: float | None) -> None:  # B-C6
    assert keep_alive({"keep_alive": said}) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("said", ["", "5 minutes", "m", "5m!", "1h-5m", "--1", [], {}, True, math.nan, "1e3", "९s"])
def test_no_keep_alive(said: Any) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive({"keep_alive": said})


def test_what_is_embedded() -> None:
    assert [embedding_inputs({"input": given}) for given in ("a", ["a", "b"], [], None)] == [["a"], ["a", "b"], [], []]
    for wrong in (1, [1], {"a": 1}, [["a"]]):
        with pytest.raises(InvalidRequest):
            embedding_inputs({"input": wrong})
