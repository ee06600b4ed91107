"""Tokens that come with requests: they open gated repositories for one download, and are nowhere afterwards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.processes import command_of
from tests.routers import Router
from tests.waiting import until

TOKEN, WRONG, OWN = "hf_of_this_request", "hf_wrong_and_secret", "hf_of_the_router"
MODEL = "user/gated:Q8_0"


@pytest.fixture
def hub(tiny_models: Path) -> Iterator[HubServer]:
    data = (tiny_models / "tiny-a.gguf").read_bytes()
    gated = Repo({"m-Q8_0.gguf": RepoFile(data)}, token=TOKEN, gated=True)
    private = Repo({"m-Q8_0.gguf": RepoFile(data)}, token=TOKEN)
    with HubServer(
        {"user/gated": gated, "user/private": private, "user/own": Repo(dict(gated.files), token=OWN)}
    ) as hub:
        yield hub


@pytest.fixture
def router(routers: Starter, hub: HubServer) -> Router:
    flags = ("--engine", "embedded", "--hub-allow", "user/*", "--log-level", "debug")
    return routers(*flags, HF_ENDPOINT=hub.url, HF_TOKEN=OWN, MODEL_ENDPOINT="")


def is_nowhere(router: Router, *tokens: str) -> bool:
    shown = [router.log, router.client.get("/models").text, router.client.get("/metrics").text]
    shown += [router.client.get(f"/models/{MODEL}/settings").text]
    for process in psutil.Process(router.process.pid).children(recursive=True):
        shown += command_of(process)
    for engine in router.children():
        shown += engine.environ().values()
    files = [path for path in router.folder.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
    kept = b"".join(path.read_bytes() for path in files)
    return not any(token in text for token in tokens for text in shown) and not any(
        token.encode() in kept for token in tokens
    )


def pull(router: Router, name: str, **more: Any) -> str:
    """The last line of Ollama's pull."""
    lines = router.client.post("/api/pull", json={"model": name, **more}).text.splitlines()
    last = json.loads(lines[-1])
    return str(last.get("error", last.get("status")))


def test_a_gated_repository_is_loaded_with_the_token_of_the_request(router: Router, hub: HubServer) -> None:
    # B-H6 B-L17 B-T7
    refused = router.client.post("/models/load", json={"model": MODEL})
    assert refused.status_code == 403
    assert "accept its licence" in refused.text
    assert "hf_token" in refused.text
    refused = router.client.post("/models/load", json={"model": MODEL, "hf_token": WRONG})
    assert refused.status_code == 403
    assert WRONG not in refused.text
    answer = router.client.post("/models/load", json={"model": MODEL, "hf_token": TOKEN, "wait": True})
    assert (answer.status_code, answer.json().get("status")) == (200, "loaded"), answer.text
    assert TOKEN not in answer.text
    assert hub.tokens["cdn"] == {None}
    again = router.client.post("/models/load", json={"model": MODEL, "hf_token": WRONG, "wait": True})
    assert again.json()["status"] == "already_loaded"  # no download, no token
    assert router.chat(MODEL).status_code == 200
    assert is_nowhere(router, TOKEN, WRONG, OWN)


def test_downloads_take_a_token_too(router: Router) -> None:  # B-H6
    assert "private" in pull(router, "user/private")
    assert pull(router, "hf.co/user/private", hf_token=TOKEN) == "success"
    assert router.client.post("/models", json={"model": "user/gated"}).status_code == 403
    assert router.client.post("/models", json={"model": "user/gated", "hf_token": TOKEN}).status_code == 200
    until(lambda: router.status(MODEL) == "unloaded")
    assert router.chat(MODEL).status_code == 200
    assert pull(router, "user/own") == "success"  # the router's own token, where a request brings none
    bad = router.client.post("/models", json={"model": "user/gated", "hf_token": "two words"})
    assert (bad.status_code, "two words" in bad.text) == (400, False)
    assert is_nowhere(router, TOKEN, OWN)


def test_of_two_tokens_for_one_file_the_first_downloads_it(router: Router, hub: HubServer) -> None:  # B-H6
    file = hub.repos["user/gated"].files["m-Q8_0.gguf"]
    gate = file.gate = threading.Event()
    with ThreadPoolExecutor(3) as clients:
        body = {"model": MODEL, "wait": True}
        first = clients.submit(router.client.post, "/models/load", json={**body, "hf_token": TOKEN})
        until(lambda: MODEL in router.listing() and router.status(MODEL) == "downloading")
        second = clients.submit(router.client.post, "/models/load", json={**body, "hf_token": WRONG})
        refused = router.client.post("/models", json={"model": MODEL, "hf_token": WRONG})
        assert refused.status_code == 403  # who asks the hub anew is judged by its own token
        gate.set()
        assert (first.result().json()["status"], second.result().json()["status"]) == ("loaded", "already_loaded")
    assert hub.gets["user/gated/m-Q8_0.gguf"] == 1


def test_the_token_is_gone_when_its_download_has_ended(router: Router, hub: HubServer) -> None:  # B-H6
    file = hub.repos["user/gated"].files["m-Q8_0.gguf"]
    file.oid = "0" * 64
    failed = router.client.post("/models/load", json={"model": MODEL, "hf_token": TOKEN, "wait": True})
    assert failed.status_code == 502
    file.oid = None
    assert router.client.post("/models/load", json={"model": MODEL, "wait": True}).status_code == 403
