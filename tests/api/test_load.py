"""Loads and unloads as clients see them: progress, comments in streams, requests that are served meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api.error_shapes import error_of
from tests.models.rig import write_header
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


SWITCH = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking %}<think>{% endif %}"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_what_a_load_brought_is_what_clients_see(
    launch: Callable[..., Router], folder: Callable[..., Path], tmp_path: Path
) -> None:  # B-L16
    """A template and a projector of a load count in the list, and for requests, until another load replaces them."""
    place = folder("m")
    projector = tmp_path / "eyes.gguf"
    write_header(projector, "clip", {"clip.has_vision_encoder": True})
    router = launch("--models-dir", str(place), "--load-args", "any")

    def seen() -> tuple[list[str], str | None, list[str]]:
        entry = router.listing()["m"]
        shown = router.client.post("/api/show", json={"model": "m"}).json()["capabilities"]
        assert set(shown) == set(entry["capabilities"])
        (tag,) = (tag for tag in router.client.get("/api/tags").json()["models"] if tag["name"].startswith("m"))
        assert set(tag["capabilities"]) == set(entry["capabilities"])
        for lone in router.client.get("/models").json().get("models", ()):
            assert lone["capabilities"] == entry["capabilities"]
        anthropic = router.client.get("/v1/models/m", headers={"anthropic-version": "2023-06-01"}).json()
        sees = anthropic["capabilities"]["image_input"]["supported"]
        assert sees is ("vision" in entry["capabilities"])
        control = (entry["reasoning"] or {}).get("control")
        return entry["capabilities"], control, entry["architecture"]["input_modalities"]

    def load(**settings: Any) -> None:
        response = router.client.post("/models/load", json={"model": "m", "wait": True, **settings})
        assert response.status_code == 200, response.text
        until(lambda: router.status("m") == "loaded")

    def told() -> dict[str, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": [PICTURE]}], "reasoning_effort": "high"}
        answer: dict[str, Any] = router.client.post("/apply-template", json=body).json()
        return answer if "error" in answer else dict(json.loads(answer["body"]))

    plain = (["completion"], None, ["text"])
    assert seen() == plain
    assert "does not see images" in told()["error"]["message"]
    load(chat_template=SWITCH, extra_args=["--mmproj", str(projector)])
    for _ in range(2):
        assert seen() == (["completion", "vision", "thinking"], "enable_thinking", ["text", "image"])
        assert told()["chat_template_kwargs"] == {"enable_thinking": True}
        assert router.client.post("/models/reload").status_code == 200
    (place / "n.gguf").hardlink_to(place / "m.gguf")
    assert router.client.post("/models/reload").json()["added"] == ["n"]
    until(lambda: "vision" in seen()[0])
    load(chat_template=None, extra_args=[])
    assert seen() == plain
