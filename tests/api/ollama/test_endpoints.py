"""Ollama's endpoints that need no model to run: lists, aliases, downloads; and its errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from ollama import Message, ResponseError
from starlette.applications import Starlette
from starlette.testclient import TestClient

from router.api.download import FileProgress
from router.api.ollama import endpoints
from router.api.ollama.endpoints import OllamaStore
from router.errors import QueueTimeout, UnknownModel
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.wire.upstream import Upstream
from tests.api.ollama.asking import FEW, HI, JSON, client_of, error_of, loaded
from tests.conftest import Starter
from tests.fakes import FakeNode
from tests.routers import FAKE, Router


def test_tags_ps_and_show(router: Router, client: ollama.Client) -> None:
    client.generate("tiny-b", "")
    tags = {model.model: model for model in client.list().models}
    assert list(tags) == ["tiny-a", "tiny-b", "tiny-c"]
    details = tags["tiny-b"].details
    assert details
    assert (details.family, details.parameter_size, details.quantization_level) == ("llama", "274K", "F32")
    (running,) = client.ps().models
    assert (running.model, running.digest, running.context_length) == ("tiny-b", tags["tiny-b"].digest, 2048)
    assert (running.size or 0) > 0
    assert running.size_vram == 0
    shown = client.show("tiny-b")
    assert shown.details == details
    assert "completion" in (shown.capabilities or ()) or "embedding" in (shown.capabilities or ())
    assert (shown.modelinfo or {})["llama.context_length"] == 2048
    assert (shown.modelinfo or {})["tokenizer.ggml.tokens"] is None
    assert "message.role" in (shown.template or "")
    assert "num_ctx                        2048" in (shown.parameters or "")
    assert shown.modified_at == tags["tiny-b"].modified_at
    raw = {model["name"]: model for model in router.client.get("/api/tags").json()["models"]}
    assert raw["tiny-b"]["capabilities"] == shown.capabilities
    lengths = {name: raw["tiny-b"]["details"][name] for name in ("context_length", "embedding_length")}
    assert lengths == {"context_length": 2048, "embedding_length": (shown.modelinfo or {})["llama.embedding_length"]}
    by_name = router.client.post("/api/show", json={"name": "prefix.tiny-b:latest"}).json()
    assert by_name["details"].items() >= details.model_dump().items()


def test_it_says_that_it_runs(router: Router) -> None:
    assert router.client.get("/").text == "Ollama is running"
    assert router.client.head("/").status_code == 200
    version = router.client.get("/api/version").json()["version"]
    assert all(part.isdecimal() for part in version.split("."))


def test_an_alias_adds_its_system_prompt_and_parameters(router: Router, client: ollama.Client) -> None:
    plain = client.chat("tiny-a", HI, options=FEW).message.content
    assert client.copy("tiny-a", "mine").status == "success"
    assert client.chat("mine:latest", HI, options=FEW).message.content == plain
    created = client.create("brief", from_="mine", system="Be brief.", parameters=FEW, stream=True)
    assert [status.status for status in created][-1] == "success"
    assert client.create("brief2", from_="brief:latest", parameters={"num_predict": 2}).status == "success"
    spoken = client.chat("brief", HI)
    said = [Message(role="system", content="Be brief."), *HI]
    assert spoken.model == "brief"
    assert spoken.message.content == client.chat("tiny-a", said, options=FEW).message.content
    assert client.generate("brief2", "hi").eval_count == 2
    assert router.client.post("/api/show", json={"model": "brief2"}).json()["system"] == "Be brief."
    shown = client.show("brief2")
    assert "num_predict                    2" in (shown.parameters or "")
    assert shown.details
    assert shown.details.parent_model == "tiny-a"
    for name in ("mine", "brief", "brief2:latest"):
        assert name.removesuffix(":latest") in {model.model for model in client.list().models}
        client.delete(name)
        with pytest.raises(ResponseError) as caught:
            client.show(name)
        assert caught.value.status_code == 404


def test_a_wrong_alias_is_refused(router: Router, client: ollama.Client) -> None:
    for name in ("tiny-b", "tiny-b:latest", "a\nb", "x" * 201, ":latest"):
        with pytest.raises(ResponseError) as caught:
            client.copy("tiny-a", name)
        assert caught.value.status_code == 400
    for source in ("nobody", ":latest"):
        with pytest.raises(ResponseError) as caught:
            client.copy(source, "mine")
        assert caught.value.status_code == 404
    with pytest.raises(ResponseError) as caught:
        client.create("mine", from_="tiny-a", template="{{ .Prompt }}")
    assert caught.value.status_code == 501
    assert client.list().models == client.list().models
    assert len(client.list().models) == 3


def test_an_unknown_model_is_not_found_on_every_path(router: Router, client: ollama.Client) -> None:  # B-C1
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/api/chat", {"messages": [], "keep_alive": 0}),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/generate", {}),
        ("/api/embed", {"input": "hi"}),
        ("/api/embeddings", {"prompt": "hi"}),
        ("/api/show", {}),
    ]
    for path, fields in requests:
        response = router.client.post(path, json={"model": "tiny-aa", **fields})
        assert response.status_code == 404
        assert "tiny-a" in error_of(response)
        assert router.client.post(path, json=fields).status_code == 400
    with pytest.raises(ResponseError) as caught:
        client.delete("tiny-aa")
    assert caught.value.status_code == 404
    assert not loaded(client)


def test_mistakes_have_their_status(router: Router) -> None:
    def post(path: str, **more: Any) -> int:
        response = router.client.request("POST", path, **more)
        assert error_of(response)
        return response.status_code

    hello = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}]}
    assert post("/api/chat") == 400
    assert post("/api/chat", content=b"{", headers=JSON) == 400
    assert post("/api/chat", json={**hello, "options": {"top_k": "many"}}) == 400
    assert post("/api/chat", json={**hello, "stream": "no"}) == 400
    assert post("/api/chat", json={**hello, "keep_alive": "soon"}) == 400
    assert post("/api/chat?autoload=0", json=hello) == 400
    assert post("/api/generate", json={"model": "tiny-a", "prompt": "a", "suffix": "b"}) == 501
    assert post("/api/generate", json={"model": "tiny-a", "prompt": "a", "images": ["iVBORw0KGgo="]}) == 400
    assert post("/api/blobs/sha256:00", content=b"x") == 400
    assert post("/api/push", json={"model": "tiny-a"}) == 501
    assert post("/api/pull", json={"model": "../x", "stream": False}) == 400
    assert post("/api/tags") == 405
    assert error_of(router.client.get("/api/nothing"))
    assert error_of(router.client.request("DELETE", "/api/delete", json={"model": "tiny-a"}))
    digest = router.client.get("/api/tags").json()["models"][0]["digest"]
    heads = [router.client.head(f"/api/blobs/sha256:{word}").status_code for word in (digest, "0" * 64)]
    assert heads == [200, 404]


def test_every_path_needs_the_key(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-key", "secret")
    for route in ("GET /", "GET /api/tags", "POST /api/chat", "DELETE /api/delete"):
        response = router.client.request(*route.split())
        assert (route, response.status_code) == (route, 401)
        assert "key" in error_of(response)
    with client_of(router, headers={"authorization": "Bearer secret"}) as client:
        assert len(client.list().models) == 3


class Shelf:
    """A hub with one model."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def pull(self, name: str, token: str | None = None) -> AsyncIterator[FileProgress]:
        if name != "a/b":
            raise UnknownModel(f"{name} is not there")
        yield FileProgress("sha256:0123456789abcdef", 10, 0)
        yield FileProgress("sha256:0123456789abcdef", 10, 10)

    async def remove(self, name: str) -> None:
        if name == "kept":
            raise QueueTimeout("it is busy")
        self.removed.append(name)


def with_store(store: OllamaStore) -> TestClient:
    models = [ModelSpec(name, "cache", ()) for name in ("old", "kept")]
    pool = Pool(Catalog(models), [FakeNode()], Limits(), lambda spec: Need(Demand()))

    return TestClient(Starlette(routes=endpoints.routes(Gateway(pool, Upstream()), store)))


def test_a_pull_reports_each_file() -> None:  # B-H4
    http = with_store(Shelf())
    lines = [json.loads(line) for line in http.post("/api/pull", json={"model": "a/b"}).iter_lines()]
    part = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789abcdef", "total": 10}
    assert lines == [
        {"status": "pulling manifest"},
        {**part, "completed": 0},
        {**part, "completed": 10},
        *({"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")),
    ]
    assert http.post("/api/pull", json={"name": "a/b", "stream": False}).json() == {"status": "success"}
    failed = [json.loads(line) for line in http.post("/api/pull", json={"model": "a/c"}).iter_lines()]
    assert failed == [{"status": "pulling manifest"}, {"error": "a/c is not there"}]
    assert http.post("/api/pull", json={"model": "a/c", "stream": False}).status_code == 404


def test_a_removal_is_passed_to_the_store() -> None:
    shelf = Shelf()
    http = with_store(shelf)
    assert http.request("DELETE", "/api/delete", json={"model": "old:latest"}).status_code == 200
    assert shelf.removed == ["old"]
    assert http.request("DELETE", "/api/delete", json={"model": "kept"}).json() == {"error": "it is busy"}
