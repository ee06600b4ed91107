"""What a client learns of a load before it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from router.api.estimate import settings_of
from router.errors import InvalidRequest
from tests.api.error_shapes import error_of
from tests.conftest import Starter
from tests.routers import Router

MIB = 2**20


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("model=a&ctx_size=4096&n_parallel=2", {"model": "a", "ctx_size": 4096, "n_parallel": 2}),
        ("ctx_size=&cache_type_k=q8_0", {"ctx_size": None, "cache_type_k": "q8_0"}),
        ("ctx_size=many&n_parallel=-1", {"ctx_size": "many", "n_parallel": "-1"}),
        ("extra_args=--top-k&extra_args=20", {"extra_args": ["--top-k", "20"]}),
        ("extra_args=--top-k%2020", {"extra_args": ["--top-k", "20"]}),
        ('extra_args=["--top-k",20]', {"extra_args": ["--top-k", 20]}),
        ("extra_args=[]", {"extra_args": []}),
        ("extra_args=", {"extra_args": []}),
        ("extra_args=null", {"extra_args": None}),
        ("chat_template=chatml&speculative_type=off", {"chat_template": "chatml", "speculative_type": "off"}),
    ],
)
def test_a_query_is_the_body_of_a_load(query: str, body: dict[str, Any]) -> None:  # B-D10
    assert settings_of(QueryParams(query)) == body


@pytest.mark.parametrize(("query", "said"), [("ctx_size=1&ctx_size=2", "2 times"), ("extra_args=[1", "cannot be read")])
def test_a_query_that_makes_no_sense_is_refused(query: str, said: str) -> None:  # B-D10
    with pytest.raises(InvalidRequest, match=said):
        settings_of(QueryParams(query))


@pytest.fixture
def router(routers: Starter, tiny_models: Path) -> Router:
    return routers("--engine", "embedded", "--models-dir", str(tiny_models), "--models-max", "2")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ctxsize=4096", "'ctxsize' is no setting of a load; did you mean ctx_size?"),
        ("ctx-size=4096", "did you mean ctx_size?"),
        ("nonsense=1", "'nonsense' is no setting of a load; there are ctx_size"),
        ("ctx_size=many", "ctx_size is a whole number"),
        ("cache_type_k=q9", "cache_type_k is one of"),
        ("n_parallel=1000", "n_parallel"),
        ("extra_args=--port 1", "--port belongs to the router"),
        ("extra_args=--log-file x", "--log-file cannot be set over HTTP"),
        ("ctx_size=1&extra_args=-c 2", "set the same"),
        ("cache_type_k=q8_0", "'tiny-a' cannot have these settings: a K cache of type q8_0 has blocks of 32"),
    ],
)
def test_what_is_no_setting_is_a_bad_request(router: Router, query: str, said: str) -> None:  # B-D10
    response = router.client.get(f"/models/estimate?model=tiny-a&{query}")
    assert response.status_code == 400
    assert said in error_of(response)["message"]


def test_an_estimate_is_for_what_would_run(router: Router) -> None:  # B-D10
    def ask(model: str = "tiny-c", **query: Any) -> dict[str, Any]:
        response = router.client.get("/models/estimate", params={"model": model, **query})
        assert response.status_code == 200, response.text
        return dict(response.json())

    plain = ask()
    assert (plain["verdict"], plain["evicts"]) == ("It fits now.", [])
    body = {"model": "tiny-c", "ctx_size": 1024, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    wanted = ask(ctx_size=1024, cache_type_k="q8_0", cache_type_v="q8_0")
    assert wanted["context"] == 1024
    assert wanted["host"]["kv"] < plain["host"]["kv"] * 0.6
    assert router.client.post("/models/load", json=body).json()["status"] == "loaded"
    held = ask()
    assert held["verdict"] == "It runs with these settings now."
    assert (held["context"], held["host"]["kv"]) == (1024, wanted["host"]["kv"])
    router.chat("tiny-a")
    assert ask("tiny-b")["evicts"] == ["tiny-c"]
    assert (ask()["evicts"], ask(ctx_size=2048)["evicts"]) == ([], [])
    assert ask(ctx_size=2048)["verdict"] == "It fits now. Its process ends first."
    assert router.client.post("/models/load", json={"model": "tiny-c", "ctx_size": 2048}).json()["status"] == "loaded"
    assert router.status("tiny-a") == "loaded"
    router.client.post("/models/unload", json={"model": "tiny-c"})
    assert ask()["context"] == 2048  # what is remembered holds for the next load
    assert router.loads("tiny-c") == 2
