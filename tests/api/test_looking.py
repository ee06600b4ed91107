"""A client that only looks, at whatever it can look at, changes nothing: no process starts, wakes, stays or goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.access.permissions import REQUIRED
from tests.conftest import Starter
from tests.routers import Router, chat
from tests.waiting import until

MODELS = ("idle", "loading", "loaded", "asleep", "failed", "closing", "stopping")
PRESETS = """
[*]
env.FAKE_JOURNAL = {journal}
model = {model}

[idle]
[loading]
env.FAKE_LOAD_SECONDS = 600
[loaded]
[asleep]
env.FAKE_SLEEP_IDLE_SECONDS = 0.01
[failed]
env.FAKE_FAIL = no
[closing]
env.FAKE_CHUNK_SECONDS = 600
[stopping]
env.FAKE_IGNORE_EXIT = 1
env.FAKE_IGNORE_SIGTERM = 1
stop-timeout = 600
"""
# `/v1/stream` names a conversation, and the others are an endless stream or never exist.
GETS = sorted(
    row.removeprefix("GET ") for row in REQUIRED if row.startswith("GET ") and "stream" not in row and "sse" not in row
)


@pytest.fixture
def router(routers: Starter, fake: str, tiny_models: Path, tmp_path: Path) -> Iterator[Router]:
    (tmp_path / "p.ini").write_text(PRESETS.format(journal=tmp_path / "journal", model=tiny_models / "tiny-a.gguf"))
    router = routers("--engine", fake, "--models-preset", str(tmp_path / "p.ini"), "--models-max", "0", "--slots")
    for model in ("loaded", "asleep", "closing", "stopping"):
        assert router.client.post("/models/load", json={"model": model, "wait": True}).status_code == 200
    assert router.chat("failed").status_code == 500
    router.client.post("/models/load", json={"model": "loading"})
    router.client.post("/models/unload", json={"model": "stopping"})
    until(lambda: router.status("asleep") == "sleeping" and router.status("loading") == "loading")
    yield router
    for child in router.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # one of them ignores all else


def seen(router: Router, journal: Path) -> dict[str, Any]:
    """What runs, in which state, and what has been started or woken until now."""
    events = [line.split()[2:4] for line in journal.read_text().splitlines()]
    return {
        "states": {name: model["status"]["value"] for name, model in router.listing().items()},
        "processes": sorted(child.pid for child in router.children()),
        "starts": sorted(model for model, event in events if event == "start"),
        "requests to who sleeps": [event for model, event in events if model == "asleep" and event == "request"],
        "ps": [model["name"] for model in router.client.get("/api/ps").json()["models"]],
        "log": router.loads(),
    }


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_looking_at_all_there_is_changes_nothing(router: Router, tmp_path: Path, method: str) -> None:
    with router.stream("closing", 1000) as events:
        next(events)
        router.client.post("/models/unload", json={"model": "closing"})
        before = seen(router, tmp_path / "journal")
        assert before["states"] == {
            **dict.fromkeys(("idle", "failed", "stopping"), "unloaded"),
            **dict.fromkeys(("loaded", "closing"), "loaded"),
            "loading": "loading",
            "asleep": "sleeping",
        }
        for model in MODELS:
            for path in GETS:
                answer = router.client.request(
                    method, path.replace("{name:path}", model).replace("{response_id}", "x"), params={"model": model}
                )
                assert answer.status_code < 500, (path, model, answer.text)
                if path in ("/props", "/slots", "/lora-adapters", "/metrics"):
                    serves = model == "loaded" or (model == "asleep" and path == "/props")
                    assert answer.status_code == (200 if serves else 400), (path, model, answer.text)
            assert router.client.post("/api/show", json={"model": model}).status_code == 200
        for path in ("/api/tags", "/models", "/props", "/metrics"):
            assert router.client.get(path).status_code == 200
        after = seen(router, tmp_path / "journal")
        assert {**after, "requests to who sleeps": []} == before
        assert router.status("asleep") == "sleeping"


def test_a_program_that_watches_may_ask_for_the_load(router: Router) -> None:
    router.client.post("/models/unload", json={"model": "loading"})
    assert router.client.get("/slots", params={"model": "idle", "autoload": "1"}).status_code == 200
    assert router.status("idle") == "loaded"
    assert router.client.post("/v1/chat/completions", json=chat("asleep")).status_code == 200
