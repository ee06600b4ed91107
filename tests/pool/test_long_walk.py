"""Clients, loads with settings, operators, new catalogs and bad luck, at random."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from router import errors
from router.engine import flags
from router.models.catalog import Catalog
from router.models.spec import Info, ModelSpec
from router.pool.settings_patch import read_patch
from router.pool.settings_store import differences
from router.scheduling.states import State
from tests.pool.bench import BAD, HUGE, TABLE, SettingsBench, model, settings_bench
from tests.waiting import eventually

QUICK: dict[str, Any] = {
    "poll": 0.002,
    "queue_timeout": 5.0,
    "task_grace": 0.01,
    "drain_timeout": 0.02,
    "health_timeout": 0.1,
}


class Walk:
    """Clients, loads with settings, operators, new catalogs and bad luck, at random."""

    PATCHES: tuple[dict[str, Any], ...] = (
        {},
        {"ctx_size": 4096},
        {"ctx_size": 8192},
        {"ctx_size": 0},
        {"ctx_size": None},
        {"ctx_size": BAD},
        {"ctx_size": HUGE},
        {"extra_args": ["--seed", "7"]},
        {"extra_args": []},
    )
    OWN = ((), ("--ctx-size", "2048"), ("--seed", "1"), ("--ctx-size", str(BAD)))

    def __init__(self, bench: SettingsBench, seed: int) -> None:
        self.bench, self.random = bench, Random(seed)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.answers: Counter[str] = Counter()
        self.luck = {self.use: 30, self.load: 12, self.unload: 3, self.cancel: 4, self.replace: 3, self.describe: 1}
        self.luck |= {self.die: 6, self.ready: 20, self.may_stop: 20, self.pace: 4, self.hang: 2}

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.tasks.add(asyncio.create_task(coroutine))

    def name(self) -> str:
        return self.random.choice("abc")

    async def _used(self, name: str, turns: int, *, background: bool = False) -> None:
        lease = await self.bench.pool.lease(self.bench.pool.catalog.resolve(name), background=background)
        try:
            for _ in range(turns):
                await asyncio.sleep(0 if turns <= 30 else 0.001)
        finally:
            lease.release()

    def use(self) -> None:
        turns = self.random.choice([0, 1, 30, 30, 60])  # the longest are cut at times
        self.keep(self._used(self.name(), turns, background=self.random.random() < 0.2))

    def load(self) -> None:
        patch = read_patch(self.random.choice(self.PATCHES), TABLE)
        self.keep(self.bench.pool.settings.load(self.name(), patch, wait=self.random.random() < 0.8))

    def unload(self) -> None:
        self.bench.pool.unload(self.name(), force=self.random.random() < 0.3)

    def cancel(self) -> None:
        if open_ := [task for task in self.tasks if not task.done()]:
            self.random.choice(open_).cancel()

    def replace(self) -> None:
        self.keep(self._replaced([name for name in "abc" if self.random.random() < 0.9]))

    async def _replaced(self, names: Sequence[str]) -> None:
        models = [self._model(name) for name in names]
        if "c" not in names and models:
            models[-1] = replace(models[-1], aliases=("c",))
        await self.bench.pool.exchange.replace(Catalog(models))

    def _model(self, name: str) -> ModelSpec:
        file = self.random.choice([name, name, name, f"{name}2"])
        args = flags.parse(("--model", f"{file}.gguf", *self.random.choice(self.OWN)), TABLE)
        return ModelSpec(name, "models_dir", args, min_loaded=self.random.choice([None, 0.02]))

    def describe(self) -> None:
        catalog = self.bench.pool.catalog
        described = [replace(spec, info=Info(architecture="llama")) for spec in catalog.models]
        self.bench.pool.exchange.adopt_descriptions(Catalog(described), of=catalog)

    def die(self) -> None:
        if alive := self.bench.node.alive:
            child = self.random.choice(alive)
            child.die(1, "it ended", out_of_memory=self.random.random() < 0.3)

    def hang(self) -> None:
        if alive := self.bench.node.alive:
            self.random.choice(alive).hangs = True

    def ready(self) -> None:
        for child in self.bench.node.alive:
            if self.random.random() < 0.5:
                child.load()

    def may_stop(self) -> None:
        for child in self.bench.node.children:
            child.may_stop.set()

    def pace(self) -> None:
        """How children begin, and end, from now on."""
        self.bench.node.autoload = self.random.random() < 0.5
        self.bench.node.brief = self.random.random() < 0.1
        for child in self.bench.node.alive:
            if self.random.random() < 0.3:
                child.may_stop.clear()

    async def go(self, steps: int) -> None:
        for _ in range(steps):
            [what] = self.random.choices(list(self.luck), list(self.luck.values()))
            what()
            for _ in range(self.random.choice([0, 1, 2, 5])):
                await asyncio.sleep(0)
            if self.random.random() < 0.05:
                await asyncio.sleep(0.001)  # threads come round
        await self.settle()

    async def settle(self) -> None:
        """From now on all goes well. Every request gets an answer."""
        node = self.bench.node
        node.autoload, node.brief = True, False
        async with asyncio.timeout(20):
            while any(not task.done() for task in self.tasks) or not self.is_quiet():
                for child in node.children:
                    child.hangs = False
                    child.load()
                    child.may_stop.set()
                await asyncio.sleep(0.001)
        for task in self.tasks:
            if not task.cancelled():
                error = task.exception()
                if error and not isinstance(error, errors.RouterError):
                    raise error
                self.answers[type(error).__name__] += 1
        self.tasks.clear()
        self.check()
        await self.remember()
        self.check()

    async def remember(self) -> None:
        """The settings of one load are kept if it succeeds, and otherwise nothing changes."""
        pool, node = self.bench.pool, self.bench.node
        for spec in pool.catalog.models:
            patch = read_patch(self.random.choice(self.PATCHES), TABLE)
            before = pool.settings.requested(spec.name)
            load = asyncio.create_task(pool.settings.load(spec.name, patch))
            while not load.done():
                for child in node.children:
                    child.may_stop.set()
                await asyncio.sleep(0.001)
            failed = load.exception()
            assert failed is None or isinstance(failed, errors.RouterError)
            assert pool.settings.requested(spec.name) == (before if failed else before.apply_patch(patch))
        await eventually(self.is_quiet)

    def is_quiet(self) -> bool:
        """Every process serves, and nothing else goes on."""
        pool, runs = self.bench.pool, self.bench.pool.processes.runs
        alive = {child.launch.model for child in self.bench.node.alive}
        serve = all(pool.state(name) is State.LOADED for name in runs)
        return (
            alive == runs.keys()
            and serve
            and len(pool._core.tasks._tasks) == len(runs)
            and not pool._core.estimates._tasks
        )

    def check(self) -> None:
        pool = self.bench.pool
        assert not pool._core.store._pending
        assert not pool._tickets
        assert not pool._scheduler._line.by_ticket
        assert not pool._scheduler._books.leased
        for name, run in pool.processes.runs.items():
            want = pool.effective(name)
            assert sorted(run.args) == sorted(want.argv)
            assert not differences(run.spec, want)
            assert not pool._scheduler.model(name).closing


@pytest.mark.parametrize("seed", range(12))
async def test_a_long_walk(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:  # B-L8 B-L9 B-L10 B-L13 B-S2 B-S19 B-S20
    async with settings_bench(model("a"), model("b"), model("c"), models_max=2, **QUICK) as b:
        walk = Walk(b, seed)
        for _ in range(10):
            await walk.go(60)
        assert walk.answers["NoneType"] > 50
    assert not [record for record in caplog.records if record.levelname == "CRITICAL"]
