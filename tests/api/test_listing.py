"""The list of models: what pickers need, whether models run or not, and that it is kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from router import errors
from router.api.listing import Listing
from router.memory.demand import Estimate
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.node.interface import LoadProgress
from router.pool.lease import Lease
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.conftest import Starter
from tests.fakes import GIB, FakeNode

RAM = "local/RAM"
NAMES = "abcd"


def test_what_a_picker_needs(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    # B-C2
    ini = tmp_path / "models.ini"
    ini.write_text(
        f"[a]\nmodel = {tiny_models / 'tiny-a.gguf'}\nalias = gpt\ntags = chat, small\ndescription = A tiny one.\n"
        f"[b]\nmodel = {tiny_models / 'tiny-b.gguf'}\nctx-size = 512\nparallel = 1\n"
    )
    router = routers("--engine", "embedded", "--models-preset", str(ini))
    before = router.listing()
    a, b = before["a"], before["b"]
    assert a["details"]["format"] == "gguf"
    assert (a["details"]["family"], a["details"]["quantization_level"]) == ("llama", a["meta"]["quantization"])
    assert a["details"]["parameter_size"].endswith("K")
    assert a["size"] == (tiny_models / "tiny-a.gguf").stat().st_size
    assert (a["info"]["meta"]["description"], a["info"]["meta"]["tags"]) == (
        "A tiny one.",
        [{"name": "chat"}, {"name": "small"}],
    )
    assert a["info"]["meta"]["capabilities"] == {"vision": False, "usage": True, "builtin_tools": False}
    assert (a["context"]["configured"], b["context"]["configured"]) == (None, 512)
    assert b["context"] == {"trained": a["context"]["trained"], "configured": 512, "effective": 512}
    assert router.chat("b").status_code == 200
    after = router.listing()["b"]
    assert after["status"]["value"] == "loaded"
    assert {key: after[key] for key in ("details", "context", "size", "info")} == {
        key: b[key] for key in ("details", "context", "size", "info")
    }


class Life:
    """A pool of which two models fit, and what can happen to it, at random; a list that is kept all the time."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.node = FakeNode(autoload=False, held={name: {RAM: 30 * GIB} for name in NAMES})
        need = Need(Demand(host=30 * GIB), source="header", estimate=Estimate(GIB, GIB, 0, 0, 2048))
        self.pool = Pool(self.catalog(), [self.node], Limits(margins={RAM: GIB}, drain_grace=0), lambda spec: need)
        self.listing = Listing(self.pool)
        self.leases: list[asyncio.Task[Lease]] = []

    def catalog(self) -> Catalog:
        names = self.random.sample(NAMES, self.random.randint(2, 4))
        described = self.random.choice(("a model", "a good one"))
        return Catalog(
            [ModelSpec(name, "models_dir", (), description=described, unlisted=name == "d") for name in names]
        )

    async def step(self) -> None:
        model = self.random.choice(self.pool.catalog.models)
        match self.random.randrange(7):
            case 0 | 1:
                self.leases.append(asyncio.create_task(self.pool.lease(model)))
            case 2 if self.node.alive:
                self.random.choice(self.node.alive).load()
            case 3 if self.node.alive:
                child = self.random.choice(self.node.alive)
                child.launch.on_event(LoadProgress("text_model", self.random.random()))
            case 4 if self.leases:
                await self.leave(self.leases.pop(self.random.randrange(len(self.leases))))
            case 5 if self.node.alive and not self.random.randrange(4):
                self.random.choice(self.node.alive).die()
            case 6 if not self.random.randrange(4):
                await self.pool.exchange.replace(self.catalog())
            case 6:
                self.pool.unload(model.name)
        for _ in range(self.random.randint(0, 9)):
            await asyncio.sleep(0)

    async def leave(self, lease: asyncio.Task[Lease]) -> None:
        lease.cancel()
        with contextlib.suppress(errors.RouterError, asyncio.CancelledError):
            (await lease).release()

    async def end(self) -> None:
        await self.pool.close()
        for lease in self.leases:
            await self.leave(lease)


@contextlib.asynccontextmanager
async def life(seed: int) -> AsyncIterator[Life]:
    lived = Life(seed)
    try:
        yield lived
    finally:
        await lived.end()


def entries(listing: Listing) -> list[dict[str, Any]]:
    return [{**entry, "created": 0} for entry in json.loads(listing.render())["data"]]


@pytest.mark.parametrize("seed", range(10))
async def test_a_list_that_is_kept_says_what_a_new_one_does(seed: int) -> None:
    async with life(seed) as it:
        for _ in range(150):
            await it.step()
            assert entries(it.listing) == entries(Listing(it.pool))
            assert it.listing.render() is it.listing.render()
    assert entries(it.listing) == entries(Listing(it.pool))


async def test_of_what_has_changed_each_model_is_told_once_the_latest_first() -> None:
    async with life(1) as it:
        pool, (name, other) = it.pool, [spec.name for spec in it.pool.catalog.models[:2]]
        before = pool.change_log.version
        assert list(pool.change_log.since(before)) == []
        for started in (name, other):
            it.leases.append(asyncio.create_task(pool.lease(pool.catalog.resolve(started))))
            async with asyncio.timeout(5):
                while started not in [child.launch.model for child in it.node.children]:
                    await asyncio.sleep(0)
            it.node.of(started).load()
        assert list(pool.change_log.since(before)) == [other, name]
        between = pool.change_log.version
        for value in (0.1, 0.2):
            it.node.of(name).launch.on_event(LoadProgress("text_model", value))
        assert list(pool.change_log.since(between)) == [name]
        assert list(pool.change_log.since(before)) == [name, other]
        assert list(pool.change_log.since(pool.change_log.version)) == []
