"""Pins that an operator sets: the scheduler heeds them at once."""

from __future__ import annotations

import asyncio

from router.models.catalog import Catalog
from router.scheduling.limits import Limits
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB
from tests.pool.bench import RAM, Bench, bench, spec
from tests.waiting import eventually


def pin(b: Bench, name: str, pinned: bool | None) -> bool:
    return b.pool.pins.set(b.pool.catalog.resolve(name), pinned)


async def test_a_pinned_model_is_evicted_only_once_it_is_let_go() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        for name in "ab":
            await b.use(name)
        assert pin(b, "a", True)
        assert pin(b, "b", True)
        asked = asyncio.create_task(b.lease("c"))
        await eventually(lambda: [entry.why.kind.value for entry in b.pool.waiting()] == ["pinned_or_foreign"])
        assert not pin(b, "b", False)
        lease = await asyncio.wait_for(asked, 5)
        assert (b.state("a"), b.state("b")) == (State.LOADED, State.UNLOADED)
        lease.release()


async def test_a_pin_ends_a_drain() -> None:  # B-S10
    async with bench("a", "b", need=40 * GIB) as b:
        lease = await b.lease("a")
        asked = asyncio.create_task(b.lease("b"))
        await eventually(lambda: not b.is_open("a"))
        pin(b, "a", True)
        await eventually(lambda: b.is_open("a"))
        lease.release()
        await b.use("a")
        assert not asked.done()
        pin(b, "a", False)
        (await asyncio.wait_for(asked, 5)).release()


def test_a_pinned_model_does_not_end_by_idleness() -> None:  # B-S10
    async def scenario() -> None:
        async with bench("a", ttl=10.0) as b:
            await b.use("a")
            pin(b, "a", True)
            await asyncio.sleep(100)
            assert b.state("a") is State.LOADED
            assert b.pool.status("a").expires_in is None
            pin(b, "a", None)
            await b.until_gone("a")

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_a_pin_of_a_model_that_does_not_run_holds_from_its_next_load_on() -> None:
    limits = Limits(margins={RAM: GIB}, drain_grace=0.05)
    async with bench(spec("a"), spec("b", pin=True), spec("c"), limits=limits) as b:
        assert pin(b, "a", True)
        assert not pin(b, "b", False)
        assert b.node.loads() == 0
        for name in "abc":
            await b.use(name)
        assert (b.state("a"), b.state("b")) == (State.LOADED, State.UNLOADED)


async def test_a_pin_holds_over_new_presets_until_its_model_leaves() -> None:
    async with bench("a", "b") as b:
        heard = b.pool.journal.seq
        pin(b, "a", True)
        pin(b, "a", True)
        pins = [entry.event for entry in b.pool.journal.since(heard) if entry.event.KIND == "pin"]
        assert len(pins) == 1
        await b.pool.exchange.replace(Catalog([spec("a", "--ctx-size", "512"), spec("b")]))
        assert b.pool.pins.is_pinned(b.pool.catalog.resolve("a"))
        await b.pool.exchange.replace(Catalog([spec("b")]))
        await b.pool.exchange.replace(Catalog([spec("a"), spec("b")]))
        assert not b.pool.pins.is_pinned(b.pool.catalog.resolve("a"))
