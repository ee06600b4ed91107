"""Loads and unloads as clients see them: progress, comments in streams, requests that are served meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from pathlib import Path

from tests.api.error_shapes import error_of
from tests.routers import Router, chat
from tests.waiting import until


def test_a_stream_gets_comments_while_its_model_loads(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C5
    flags = ("--models-dir", str(tiny_models), "--stream-keepalive", "0.05")
    router = launch(*flags, FAKE_LOAD_SECONDS="0.4")
    body = chat("tiny-a", stream=True)
    text = router.client.post("/v1/chat/completions", json=body).text
    assert text.startswith(": ")
    lines = [line for line in text.splitlines() if line]
    comments = [line for line in lines if line.startswith(":")]
    events = [json.loads(line[6:]) for line in lines[len(comments) :] if line != "data: [DONE]"]
    assert len(comments) >= 3
    assert [event["object"] for event in events] == ["chat.completion.chunk"] * 5
    assert router.client.post("/v1/chat/completions", json=body).text.startswith("data: ")  # it runs now
    assert router.chat("tiny-b").json()["object"] == "chat.completion"  # no stream, no comments


def test_without_keepalive_a_stream_gets_no_comments(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C5
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="0.2")
    assert router.client.post("/v1/chat/completions", json=chat("tiny-a", stream=True)).text.startswith("data: ")


def test_monitoring_loads_nothing(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:
    """Also with a single model, which a request need not name."""
    router = launch("--models-dir", str(folder("only")))
    for path in ("/health", "/models", "/v1/models/only", "/props", "/metrics", "/slots", "/lora-adapters"):
        for query in ("", "?model=only", "?model=only&autoload=0"):
            assert router.client.get(path + query).status_code in (200, 400)
    assert (router.status("only"), router.loads()) == ("unloaded", 0)
    assert router.client.get("/slots?autoload=1").status_code == 200
    assert router.status("only") == "loaded"


def test_unload_waits_for_a_running_stream(launch: Callable[..., Router], tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models), FAKE_CHUNK_SECONDS="0.02")
    with router.stream("tiny-a", 20) as events:
        next(events)
        assert router.client.post("/models/unload", json={"model": "tiny-a"}).json() == {"success": True}
        rest = events.json()
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
    until(lambda: router.status("tiny-a") == "unloaded")
    assert router.loads() == 1


def test_a_forced_unload_cuts_a_running_stream(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C4
    router = launch("--models-dir", str(tiny_models), FAKE_CHUNK_SECONDS="0.05")
    with router.stream("tiny-a", 100) as events:
        next(events)
        assert router.client.post("/models/unload", json={"model": "tiny-a", "force": True}).status_code == 200
        assert events.json()[-1]["error"]["message"]
    until(lambda: router.status("tiny-a") == "unloaded")
    assert "failed" not in router.listing()["tiny-a"]["status"]


def test_an_unload_during_a_load_is_no_failure(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L10
    """The waiting request is unavailable, and the model has not failed."""
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="20")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(router.chat, "tiny-a")
        until(lambda: router.status("tiny-a") == "loading")
        assert router.client.post("/models/load", json={"model": "tiny-a"}).json()["status"] == "loading"
        assert router.client.post("/models/unload", json={"model": "tiny-a"}).json() == {"success": True}
        answer = waiting.result()
    assert (answer.status_code, error_of(answer)["type"]) == (503, "unavailable_error")
    until(lambda: router.children() == [])
    assert router.listing()["tiny-a"]["status"]["value"] == "unloaded"
    assert "failed" not in router.listing()["tiny-a"]["status"]


def test_the_listing_shows_the_progress_of_a_load(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-P7
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="0.5")
    assert router.client.post("/models/load", json={"model": "tiny-a"}).json()["success"] is True
    until(lambda: "progress" in router.listing()["tiny-a"]["status"])
    progress = router.listing()["tiny-a"]["status"]["progress"]
    assert (progress["stages"], progress["current"]) == (["text_model"], "text_model")
    assert 0 <= progress["value"] <= 1
    until(lambda: router.status("tiny-a") == "loaded")
    assert "progress" not in router.listing()["tiny-a"]["status"]
