"""Just after the start most headers have not been read. A request that names a model meets what its header says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from router.api.app import create_app
from router.engine import discovery, flags
from router.memory.estimator import Estimator
from router.memory.footprints import Footprints
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import UNREAD, ModelSpec
from router.pool import catalog_exchange
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.reloader import describe_all
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device
from router.wire.upstream import Upstream
from tests.fakes import GIB, FakeNode
from tests.pool.bench import missing
from tests.waiting import eventually

TABLE = flags.default_table()


def unread(path: Path) -> ModelSpec:
    args = flags.parse(("--model", str(path), "--ctx-size", "1024"), TABLE)
    return ModelSpec(path.stem, "models_dir", args, model_path=path, size_bytes=path.stat().st_size)


@pytest.fixture
def pool(tiny_models: Path, tmp_path: Path) -> Pool:
    """A router whose reader of headers has not begun."""
    ram = Device("local", "RAM", "host", 64 * GIB)
    engine = discovery.find("embedded", os.environ)
    estimator = Estimator(engine, TABLE, [ram], {}, Footprints(tmp_path / "f.json"), {})
    specs = [unread(tiny_models / f"tiny-{name}.gguf") for name in "abc"]
    pool = Pool(Catalog(specs), [FakeNode()], Limits(), lambda spec: estimator.need(spec, quick=True))
    pool.exchange.estimate_with(lambda spec: estimator.need(spec, quick=True))
    return pool


@pytest.fixture
def client(pool: Pool) -> TestClient:
    return TestClient(create_app(Gateway(pool, Upstream()), reload=NotImplemented, forecast=NotImplemented))


LOOKS: dict[str, tuple[Callable[[TestClient], Any], Callable[[dict[str, Any]], list[Any]]]] = {
    "OpenAI": (
        lambda client: client.get("/v1/models/tiny-a"),
        lambda told: [told["meta"]["architecture"], told["context"]["effective"], told["context"]["trained"]],
    ),
    "Ollama": (
        lambda client: client.post("/api/show", json={"model": "tiny-a"}),
        lambda told: [
            told["details"]["family"],
            told["details"]["context_length"],
            told["model_info"]["llama.context_length"],
        ],
    ),
    "Anthropic": (
        lambda client: client.get("/v1/models/tiny-a", headers={"anthropic-version": "2023-06-01"}),
        lambda told: ["llama", told["max_input_tokens"], 2048],
    ),
}


@pytest.mark.parametrize("dialect", LOOKS)
def test_what_is_looked_at_first_is_described(client: TestClient, pool: Pool, dialect: str) -> None:  # B-L17
    ask, told = LOOKS[dialect]
    with client:
        answer = ask(client)
        assert answer.status_code == 200, answer.text
        assert told(answer.json()) == ["llama", 1024, 2048]
        assert pool.catalog.resolve("tiny-a").info is not UNREAD
        assert pool.catalog.resolve("tiny-b").info is UNREAD  # nobody waits for the others
        assert pool.state("tiny-a").value == "unloaded"


def test_a_broken_file_says_so_at_the_first_look(tmp_path: Path) -> None:  # B-L17
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, not really")
    pool = Pool(Catalog([unread(tmp_path / "bad.gguf")]), [FakeNode()], Limits(), NotImplemented)
    app = create_app(Gateway(pool, Upstream()), reload=NotImplemented, forecast=NotImplemented)
    with TestClient(app) as client:
        assert client.get("/v1/models/bad").json()["status"]["error"]


def test_a_request_is_made_for_the_model_as_its_header_says(client: TestClient, pool: Pool) -> None:  # B-L17
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": [picture]}]}
    with client:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert "image" in answer.json()["error"]["message"]
        assert pool.catalog.resolve("tiny-a").info.capabilities == ("completion",)


async def test_what_was_read_is_kept_whatever_becomes_of_the_catalog_meanwhile(pool: Pool) -> None:
    before = pool.catalog
    described = await describe_all(before)
    wanted = missing("u/r:Q8_0", "u/r:Q8_0", source="cache")
    await pool.exchange.replace(Catalog([*before.models[:2], wanted]))
    pool.exchange.drop_missing("u/r:Q8_0")  # a third catalog
    pool.exchange.adopt_descriptions(described, of=before)
    assert [spec.name for spec in pool.catalog.models] == ["tiny-a", "tiny-b"]
    assert all(spec.info.architecture == "llama" for spec in pool.catalog.models)
    await pool.close()


async def test_a_model_dropped_while_a_catalog_is_prepared_does_not_come_back(tiny_models: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    def need(spec: ModelSpec) -> Need:
        if spec.env:
            asked.set()
            answer.wait(10)
        return Need(Demand())

    old, wanted = unread(tiny_models / "tiny-a.gguf"), missing("u/r:Q8_0", "u/r:Q8_0", source="cache")
    pool = Pool(Catalog([old, wanted]), [FakeNode()], Limits(), need)
    (await pool.lease(old)).release()
    preparing = asyncio.create_task(pool.exchange.replace(Catalog([replace(old, env=(("X", "1"),)), wanted])))
    await asyncio.to_thread(asked.wait, 10)
    pool.exchange.drop_missing("u/r:Q8_0")
    answer.set()
    await preparing
    assert [spec.name for spec in pool.catalog.models] == ["tiny-a"]
    await pool.close()


async def test_a_disk_that_hangs_is_not_waited_for(  # B-L17
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_exchange, "LEARN_PATIENCE_S", 0.01)
    answer = threading.Event()

    def need(spec: ModelSpec) -> Need:
        answer.wait(10)
        return Need(Demand())

    pool = Pool(Catalog([unread(tiny_models / "tiny-a.gguf")]), [FakeNode()], Limits(), need)
    pool.exchange.estimate_with(need)
    await pool.exchange.learn("tiny-a")
    assert pool.need("tiny-a") is None
    answer.set()
    await eventually(lambda: pool.need("tiny-a") is not None)
    await pool.close()
