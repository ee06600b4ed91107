"""A router whose command line names one model: it loads it from the start, as llama-server does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.routers import Router
from tests.waiting import until


def test_it_is_not_healthy_before_its_model_runs(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:
    router = launch("--model", str(folder("a") / "a.gguf"), FAKE_LOAD_SECONDS="1")
    for path in ("/health", "/v1/health"):
        response = router.client.get(path)
        assert response.status_code == 503
        assert response.json()["error"] == {"code": 503, "message": "Loading model", "type": "unavailable_error"}
    assert router.client.get("/livez").status_code == 200
    assert router.client.get("/readyz").status_code == 503
    assert router.chat("a").status_code == 200, "a request waits for it"
    until(lambda: router.client.get("/health").status_code == 200)
    assert router.loads() == 1


def test_a_model_that_cannot_be_loaded_leaves_the_router_healthy(
    launch: Callable[..., Router], folder: Callable[..., Path]
) -> None:
    router = launch("--model", str(folder("a") / "a.gguf"), FAKE_FAIL="broken")
    until(lambda: "could not load a at startup" in router.log)
    assert router.client.get("/health").status_code == 200


def test_one_of_several_models_is_loaded_by_requests(
    launch: Callable[..., Router], folder: Callable[..., Path]
) -> None:
    place = folder("a", "b")
    router = launch("--model", str(place / "a.gguf"), "--models-dir", str(place))
    assert router.client.get("/health").status_code == 200
    assert router.status("a") == router.status("b") == "unloaded"
