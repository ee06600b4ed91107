"""The same wish, in many words, on real engines whose models have strict, silent and talkative templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.routers import ENGINES, Router, start

USER = {"role": "user", "content": "hi"}
REFUSE = "{{ raise_exception('System message must be at the beginning.') }}"
ROLES = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}" + REFUSE + "{% endif %}"
TURN = "{{ m.role }}:{{ m.content }};{% endfor %}"
EFFORT = "{{ reasoning_effort if reasoning_effort is defined else 'medium' }}"
COUNTED = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
)
TEMPLATES = {
    # It takes one system message, and thinks unless it is told not to.
    "strict": ROLES + TURN + "{% if enable_thinking is defined and enable_thinking is false %}(quiet){% endif %}",
    # It thinks only if it is asked to.
    "silent": "{% for m in messages %}" + TURN + "{% if thinking is defined and thinking %}(loud){% endif %}",
    "levels": "{% for m in messages %}" + TURN + "(" + EFFORT + ")",
    "always": "{% for m in messages %}" + TURN + "<think>",
    "counted": COUNTED + TURN,
}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("wishes")
    sections = [
        f"[{name}]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {text}\n" for name, text in TEMPLATES.items()
    ]
    (folder / "presets.ini").write_text("\n".join(sections))
    flags = ("--engine", ENGINES[request.param](), "--models-preset", str(folder / "presets.ini"))
    router = start(folder / "router", *flags, "--ctx-size", "512", "--max-generation-time", "2")
    yield router
    router.stop()


def prompt(router: Router, model: str, **fields: Any) -> str:
    response = router.client.post("/apply-template", json={"model": model, "messages": [USER], **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["prompt"])


OFF: list[dict[str, Any]] = [
    {"reasoning_effort": "none"},
    {"reasoning_effort": "minimal"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
    {"thinking": {"type": "disabled"}},
    {"enable_thinking": False},
    {"think": False},
]
ON: list[dict[str, Any]] = [
    {"reasoning": {"enabled": True}},
    {"thinking": {"type": "enabled", "budget_tokens": 10}},
    {"thinking": {"type": "adaptive"}},
    {"enable_thinking": True},
    {"think": True},
    {"reasoning_effort": "xhigh"},
]


def test_thinking_is_one_wish_in_all_words(router: Router) -> None:  # B-C7
    told = {"strict": ("", "(quiet)", ""), "silent": ("", "", "(loud)"), "levels": ("(medium)", "(low)", "(high)")}
    for model, (default, off, on) in told.items():
        assert prompt(router, model) == "user:hi;" + default
        assert {prompt(router, model, **wish) for wish in OFF} == {"user:hi;" + off}
        assert {prompt(router, model, **wish) for wish in ON} == {"user:hi;" + on}
    assert {prompt(router, "always", **wish) for wish in [*OFF, *ON]} == {prompt(router, "always")}
    raw = {"chat_template_kwargs": {"enable_thinking": True}}
    assert prompt(router, "strict", reasoning_effort="none", **raw) == "user:hi;"
    for wish in ({"reasoning_effort": "a lot"}, {"think": 5}, {"thinking": {"type": "often"}}):
        response = router.client.post("/v1/chat/completions", json={"model": "levels", "messages": [USER], **wish})
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith(next(iter(wish)))


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_late_system_message_is_heard_where_the_template_refuses_it(router: Router) -> None:  # B-C8
    late = [say("system", "a"), USER, say("system", "b"), say("assistant", "c"), USER]
    assert prompt(router, "strict", messages=late) == "system:a\n\nb;user:hi;assistant:c;user:hi;"
    developers = [say("developer", "a"), say("developer", [{"type": "text", "text": "b"}]), USER]
    assert prompt(router, "strict", messages=developers).startswith("system:a\n\nb;user:hi;")
    assert prompt(router, "silent", messages=late) == "system:a;user:hi;system:b;assistant:c;user:hi;"
    again = [USER, say("user", "there"), say("assistant", "c"), say("system", "b"), say("assistant", "d"), USER]
    assert prompt(router, "counted", messages=again) == "user:b\nhi\n\nthere;assistant:c\n\nd;user:hi;"


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}}


@pytest.mark.parametrize("part", [PICTURE, SOUND, FILE], ids=["image", "audio", "file"])
def test_what_a_model_does_not_take_loads_nothing(router: Router, part: dict[str, Any]) -> None:  # B-C11
    router.client.post("/models/unload", json={"model": "always"})
    loads = router.loads()
    chat = {"model": "always", "messages": [say("user", [part])]}
    response = router.client.post("/v1/chat/completions", json=chat)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert response.json()["error"]["param"] == "messages[0].content"
    assert router.loads() == loads


CUT = [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [USER, {"role": "assistant", "tool_calls": CUT}, say("tool", "x")]}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages"),
        ({"tools": "rain"}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "hail"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"json_schema": {"type": "object"}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"reasoning_format": "x"}, "reasoning_format"),
    ],
)
def test_an_error_that_would_come_again_is_the_clients(
    router: Router, fields: dict[str, Any], param: str
) -> None:  # B-C11
    for stream in (False, True):
        body = {"model": "strict", "messages": [USER], "max_tokens": 2, "stream": stream, **fields}
        response = router.client.post("/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_too_long_a_prompt_is_told_with_its_numbers(router: Router) -> None:  # B-C11
    body = {"model": "silent", "messages": [say("user", "x " * 600)]}
    response = router.client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 512)
    assert f"maximum context length is 512 tokens, but the prompt has {error['n_prompt_tokens']}" in error["message"]


SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
FORMS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}},
    {"response_format": {"type": "json_schema", "name": "a", "strict": True, "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"json_schema": SCHEMA},
]


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_a_schema_holds_in_each_form_of_it(router: Router, form: dict[str, Any]) -> None:  # B-C9
    body = {"model": "silent", "messages": [USER], "max_tokens": 64, "seed": 1, **form}
    response = router.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert json.loads(response.json()["choices"][0]["message"]["content"])["yes"] in (True, False)


def test_one_tool_that_must_be_called_is_the_only_one(router: Router) -> None:
    def tool(name: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}

    named = {"tool_choice": {"type": "function", "function": {"name": "rain"}}, "tools": [tool("snow"), tool("rain")]}
    only = {"tool_choice": "required", "tools": [tool("rain")]}
    assert prompt(router, "silent", **named) == prompt(router, "silent", **only)


def test_what_the_clock_ends_is_told_as_cut(router: Router) -> None:  # B-L14
    """The engine ends it at the end of a line, long before the context is full."""
    for path, fields in (("/v1/chat/completions", {"messages": [USER]}), ("/v1/completions", {"prompt": "hi"})):
        newlines = {"logit_bias": [[13, 99.0]], "ignore_eos": True, "t_max_predict_ms": 1}
        body = {"model": "silent", **newlines, **fields}
        whole = router.client.post(path, json=body).json()
        assert whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] < 300
        with router.client.stream("POST", path, json={**body, "stream": True}) as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
        assert json.loads(lines[-1])["choices"][0]["finish_reason"] == "length"


def ask_all(router: Router, model: str, messages: list[dict[str, Any]], wishes: dict[str, dict[str, Any]]) -> list[int]:
    """How many tokens the prompt has, as each API tells it."""
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions/input_tokens": {"messages": messages},
        "/v1/messages/count_tokens": {"messages": messages},
        "/v1/responses/input_tokens": {"input": messages},
        "/api/chat": {"messages": messages, "stream": False, "options": {"num_predict": 1}},
    }
    counts = []
    for path, fields in asked.items():
        response = router.client.post(path, json={"model": model, **fields, **wishes.get(path, {})})
        assert response.status_code == 200, (path, response.text)
        answer = response.json()
        counts.append(answer["prompt_eval_count"] if path == "/api/chat" else answer["input_tokens"])
    return counts


def wishes_of(effort: str, thinking: dict[str, Any], think: bool) -> dict[str, dict[str, Any]]:
    return {
        "/v1/chat/completions/input_tokens": {"reasoning_effort": effort},
        "/v1/messages/count_tokens": {"thinking": thinking},
        "/v1/responses/input_tokens": {"reasoning": {"effort": effort}},
        "/api/chat": {"think": think},
    }


def test_each_api_asks_the_model_the_same(router: Router) -> None:  # B-C7 B-C8
    off = wishes_of("none", {"type": "disabled"}, False)
    on = wishes_of("high", {"type": "adaptive"}, True)
    for model in ("strict", "silent"):
        without, said = ask_all(router, model, [USER], off), ask_all(router, model, [USER], on)
        assert len({*without}) == len({*said}) == 1
        assert without != said
    late = [USER, say("system", "b"), say("assistant", "c"), USER]
    assert len({*ask_all(router, "strict", late, off)}) == 1


def test_a_picture_for_a_model_without_eyes_in_each_api(router: Router) -> None:  # B-C11
    data = "iVBORw0KGgo="
    source = {"type": "base64", "media_type": "image/png", "data": data}
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [say("user", [PICTURE])]},
        "/v1/messages": {"messages": [say("user", [{"type": "image", "source": source}])], "max_tokens": 5},
        "/v1/responses": {
            "input": [say("user", [{"type": "input_image", "image_url": f"data:image/png;base64,{data}"}])]
        },
        "/api/chat": {"messages": [{**USER, "images": [data]}]},
    }
    for path, fields in asked.items():
        for stream in (False, True):
            response = router.client.post(path, json={"model": "always", "stream": stream, **fields})
            assert response.status_code == 400, (path, response.text)
            assert "does not see images" in response.text
