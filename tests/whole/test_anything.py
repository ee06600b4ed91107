"""Whatever JSON a client sends, it is answered in the dialect of its path, and the router has no defect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.api import native, openai
from router.api.messages import endpoints as messages
from router.proxy.rewrite import PATHS
from tests.routers import ENGINES, Router, start

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %}.{% endif %}"
)
POSTS = sorted(
    {*openai.PATHS, *messages.PATHS, *(path.replace("{slot}", "0") for path in native.BY_BODY), "/lora-adapters"}
    | {"/models/load", "/models/unload", "/v1/streams/lookup"}
    | {"/v1/responses", "/responses", "/v1/responses/input_tokens"}
)
GETS = ["/props", "/slots", "/lora-adapters", "/metrics", "/v1/stream", "/models/estimate", "/models", "/v1/models/x"]

ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(max_size=12)
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "image", "tool_use", "odd"])}, optional={"text": TEXT | ODD}
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]) | ODD,
            "content": TEXT | PARTS | ODD,
        }
    )
    | ODD,
    max_size=3,
)
MODELS = st.sampled_from(["filtered", "plain", "filtered", "second", "claude-x", "nowhere", ""])
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "reasoning", "function_call", "function_call_output", "odd"]) | ODD},
        optional={
            "role": st.sampled_from(["user", "assistant", "developer"]) | ODD,
            "call_id": TEXT | ODD,
            "summary": PARTS | ODD,
            **dict.fromkeys(("content", "output", "arguments"), TEXT | PARTS | ODD),
            **dict.fromkeys(("id", "name", "namespace", "encrypted_content"), TEXT | ODD),
        },
    )
    | ODD,
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": MODELS | ODD,
    "messages": MESSAGES | ODD,
    "stream": st.booleans() | ODD,
    "max_tokens": st.integers(-2, 9) | ODD,
    "n_predict": st.integers(-2, 9) | ODD,
    "t_max_predict_ms": ODD,
    "temperature": st.sampled_from([0, math.inf, 10**400]) | ODD,
    "reasoning_effort": st.sampled_from(["low", "none"]) | ODD,
    "reasoning": st.fixed_dictionaries({"effort": TEXT | ODD}) | ODD,
    "thinking": st.fixed_dictionaries({"type": st.sampled_from(["enabled", "disabled"])}) | ODD,
    "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "a"]), ODD, max_size=2) | ODD,
    "input": TEXT | ITEMS | ODD,
    "text": st.fixed_dictionaries({"format": ODD, "verbosity": ODD}) | ODD,
    **dict.fromkeys(("include", "metadata", "store", "previous_response_id", "max_output_tokens", "truncation"), ODD),
    **dict.fromkeys(("prompt", "system", "instructions", "content", "query"), TEXT | ODD),
    **dict.fromkeys(("documents", "tokens", "stop", "tools", "tool_choice", "response_format", "logprobs"), ODD),
    **dict.fromkeys(("ctx_size", "extra_args", "wait", "force", "conversation_ids", "options"), ODD),
}
# Mostly what would be served, with one or another field as nobody expects it.
BODIES = st.fixed_dictionaries(
    {"model": MODELS}, optional={name: FIELDS[name] for name in FIELDS if name != "model"}
) | st.fixed_dictionaries({}, optional=FIELDS)
HEADERS = st.dictionaries(
    st.sampled_from(["x-task", "x-conversation-id", "x-request-id", "anthropic-version"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8),
    max_size=2,
)


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("anything")
    path = f"model = {tiny_models}/tiny-a.gguf\nchat-template = {TEMPLATE}\n"
    (folder / "models.ini").write_text(
        f"[plain]\n{path}\n[second]\n{path}\n[filtered]\n{path}"
        'set-params = {"max_tokens": 2}\ndefault-params = {"seed": 1}\nstrip-params = stop\nsystem-prefix = Go.\n'
    )
    made = start(
        folder / "router",
        *("--engine", ENGINES[request.param](), "--models-preset", str(folder / "models.ini"), "--models-max", "0"),
        *("--ctx-size", "256", "--predict", "4", "--max-generation-time", "2", "--claude-map", "claude-*=plain"),
        *("--task-grace", "0", "--no-models-preset-watch", "--metrics"),
    )
    yield made
    assert "a defect" not in made.log
    assert made.stop() == 0


def check(response: httpx.Response, path: str) -> None:
    """It is a whole answer of the path's dialect."""
    assert response.status_code < 400 or response.headers["x-request-id"]
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        for event in filter(None, response.text.split("\n\n")):
            lines = [line for line in event.splitlines() if not line.startswith(":")]
            assert all(line.startswith(("data: ", "event: ")) for line in lines)
            data = [line[6:] for line in lines if line.startswith("data: ")]
            assert not lines or data
            assert all(word == "[DONE]" or json.loads(word) is not None for word in data)
        return
    if kind == "text/plain":
        assert path == "/metrics"
        return
    answer = response.json()
    if response.status_code >= 400:
        error = answer["error"]
        assert isinstance(error["message"], str)
        if path.startswith("/v1/messages"):
            assert (answer["type"], isinstance(error["type"], str)) == ("error", True)
            assert answer["request_id"] == response.headers["request-id"]
        else:
            assert error["code"] == response.status_code
        assert "a defect" not in error["message"]


@settings(max_examples=200)
@given(path=st.sampled_from(POSTS), body=BODIES | ODD, headers=HEADERS)
def test_whatever_is_sent(router: Router, path: str, body: Any, headers: dict[str, str]) -> None:
    if path == "/models/load" and isinstance(body, dict):
        body = {key: value for key, value in body.items() if key in ("model", "wait", "force")}
    response = router.client.post(path, content=json.dumps(body), headers=headers)
    check(response, path)
    known = isinstance(body, dict) and body.get("model") in ("plain", "filtered", "second")
    if isinstance(body, dict) and body.get("model") == "nowhere":
        assert response.status_code == 404 or path == "/v1/streams/lookup"
    if known and response.status_code in (502, 503, 504):
        raise AssertionError(response.text)


@settings(max_examples=40)
@given(
    path=st.sampled_from(GETS),
    query=st.dictionaries(st.sampled_from(["model", "conv_id", "from", "autoload"]), TEXT | MODELS),
)
def test_whatever_is_asked_for(router: Router, path: str, query: dict[str, str]) -> None:
    response = router.client.get(path, params=query)
    if response.headers.get("content-type", "").startswith("application/json"):
        check(response, path)
    assert response.status_code < 500


@settings(max_examples=40)
@given(
    path=st.sampled_from(sorted({f"/v1{path}" for path in PATHS & {p.removeprefix("/v1") for p in openai.PATHS}})),
    body=st.binary(max_size=40),
)
def test_whatever_bytes(router: Router, path: str, body: bytes) -> None:
    response = router.client.post(path, content=body)
    check(response, path)
    assert response.status_code == 400


def test_it_still_serves(router: Router) -> None:
    for model in ("plain", "filtered", "second"):
        assert router.chat(model).status_code == 200
