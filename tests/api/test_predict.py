"""Google Cloud's predict route: several requests in one."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from router.api.predict import MAX_INSTANCES, Variables, format_name
from router.errors import ConfigError
from tests.routers import Router, chat
from tests.shell import Shell

SAY = {"@requestFormat": "chatCompletions", **chat("tiny-a", 2)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def predicting(launch: Callable[..., Router], tiny_models: Path) -> Callable[..., Router]:
    def make(*flags: str, **variables: str) -> Router:
        environ = {"AIP_MODE": "PREDICTION", "AIP_HTTP_PORT": str(free_port()), **variables}
        return launch("--models-dir", str(tiny_models), *flags, **environ)

    return make


def predict(router: Router, *instances: Any, path: str = "/predict", **more: Any) -> list[Any]:
    response = router.client.post(path, json={"instances": instances}, **more)
    assert response.status_code == 200, response.text
    predictions: list[Any] = response.json()["predictions"]
    return predictions


def test_each_instance_is_answered(predicting: Callable[..., Router]) -> None:
    """In their order, by the endpoint that each names, whatever other instances are."""
    router = predicting()
    answers = predict(
        router,
        SAY,
        {**SAY, "model": "tiny-b", "stream": True},
        {**SAY, "@requestFormat": "/v1/chat/completions", "max_tokens": 3},
        {"@requestFormat": "tokenize", "model": "tiny-a", "content": "x"},
        {**SAY, "model": "nobody"},
        {"@requestFormat": "modelsLoad", "model": "tiny-a"},
        {"@requestFormat": "/models/unload", "model": "tiny-a"},
        {"@requestFormat": "apiChat"},
        {"@requestFormat": "predict"},
        {"@requestFormat": 5},
        {},
        "text",
    )
    texts = [answer["choices"][0]["message"]["content"] for answer in answers[:3]]
    assert texts == ["one two ", "one two ", "one two three "]
    assert json.loads(answers[3]["body"]) == {"model": "tiny-a", "content": "x"}
    assert [answer["error"]["code"] for answer in answers[4:]] == [404, *[400] * 7]
    assert router.status("tiny-a") == router.status("tiny-b") == "loaded"


def test_a_key_is_passed_on(predicting: Callable[..., Router]) -> None:
    router = predicting("--api-key", "k", "--admin-key", "a")
    assert router.client.post("/predict", json={"instances": []}).status_code == 401
    (answer,) = predict(router, SAY, headers={"authorization": "Bearer k"})
    assert answer["object"] == "chat.completion" or answer["choices"]
    router.client.headers["authorization"] = "Bearer k"
    (refused,) = predict(router, {"@requestFormat": "props", "model": "tiny-a"})
    assert refused["error"]["code"] == 400


@pytest.mark.parametrize(
    "body",
    [{}, {"instances": None}, {"instances": {}}, {"instances": [{}] * (MAX_INSTANCES + 1)}, [], "text"],
    ids=range(6),
)
def test_what_is_no_list_of_instances(predicting: Callable[..., Router], body: Any) -> None:
    answer = predicting().client.post("/predict", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_routes_have_the_names_of_the_variables(predicting: Callable[..., Router]) -> None:
    router = predicting("--api-key", "k", AIP_PREDICT_ROUTE="v1/ask", AIP_HEALTH_ROUTE="/alive")
    assert router.client.get("/alive").json() == {"status": "ok"}
    assert router.client.post("/predict", json={}).status_code == 401
    router.client.headers["authorization"] = "Bearer k"
    assert router.client.post("/predict", json={}).status_code == 404
    assert predict(router, SAY, path="/v1/ask")[0]["choices"]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT"),
        ({"AIP_HTTP_PORT": "70000"}, "AIP_HTTP_PORT"),
        ({"AIP_PREDICT_ROUTE": "/{x}"}, "AIP_PREDICT_ROUTE"),
        ({"AIP_HEALTH_ROUTE": "a b"}, "AIP_HEALTH_ROUTE"),
    ],
)
def test_wrong_variables_are_an_error(variables: Mapping[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Variables.read({"AIP_MODE": "PREDICTION", **variables})


def test_a_route_that_is_taken_is_an_error(shell: Shell, tiny_models: Path, fake: str) -> None:
    environ = {"AIP_MODE": "PREDICTION", "AIP_HTTP_PORT": str(free_port()), "AIP_PREDICT_ROUTE": "/v1/completions"}
    ended = shell("--models-dir", str(tiny_models), "--engine", fake, **environ)
    assert ended.code == 2
    assert "AIP_PREDICT_ROUTE" in ended.sentence


def test_without_the_mode_nothing_changes() -> None:
    assert Variables.read({"AIP_HTTP_PORT": "x", "AIP_PREDICT_ROUTE": "/{"}) is None
    assert Variables.read({"AIP_MODE": "PREDICTION"}) == Variables("/predict", "", 8080)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chatCompletions"),
        ("/apply-template", "applyTemplate"),
        ("/v1/messages/count_tokens", "messagesCountTokens"),
        ("/infill", "infill"),
    ],
)
def test_names_of_paths(path: str, name: str) -> None:
    assert format_name(path) == name
