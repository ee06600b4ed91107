"""How long models stay without requests; on a clock that jumps."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from router.models.catalog import Catalog
from router.scheduling.limits import Limits
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB
from tests.pool.bench import RAM, bench
from tests.waiting import eventually


async def test_an_idle_model_is_stopped_after_its_time_to_live() -> None:  # B-S10
    async with bench("a", ttl=0.02) as b:
        await b.use("a")
        await eventually(lambda: b.state("a") is State.UNLOADED)


def test_the_time_to_live_begins_anew_with_each_use() -> None:  # B-S10
    """The timer is set once and fires too early. It is set again, however the model was used meanwhile."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with bench("a", "b", ttl=100.0) as b:
            await b.use("a")
            begun = loop.time()
            await asyncio.sleep(90)
            at_once = b.pool.lease_at_once(b.specs["a"])
            assert at_once
            await asyncio.sleep(120)  # in use
            assert b.state("a") is State.LOADED
            at_once.release()
            left = b.pool.status("a").expires_in
            assert left == pytest.approx(100)
            await b.use("b")
            await asyncio.sleep(50)
            watcher = b.pool.lease_at_once(b.specs["a"], used=False)
            assert watcher
            watcher.release()
            await asyncio.sleep(48)
            assert [b.state(name) for name in "ab"] == [State.LOADED] * 2
            gone = [await b.until_gone(name) - begun for name in "ab"]
            assert gone == pytest.approx([310, 310], abs=1)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


def test_a_shorter_time_to_live_moves_the_timer_forward() -> None:  # B-S10 B-C6
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with bench("a", "b", ttl=1000.0) as b:
            await b.use("a")
            begun = loop.time()
            (await b.pool.lease(b.specs["b"], ttl=50.0)).release()
            assert await b.until_gone("b") - begun == pytest.approx(50, abs=1)
            (await b.pool.lease(b.specs["a"], ttl=30.0)).release()
            again = loop.time()
            assert await b.until_gone("a") - again == pytest.approx(30, abs=1)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


def test_a_timer_with_nothing_left_to_do_does_no_harm() -> None:  # B-S10
    async def scenario() -> None:
        async with bench("a", ttl=100.0) as b:
            await b.use("a")
            (await b.pool.lease(b.specs["a"], ttl=math.inf)).release()
            await asyncio.sleep(1000)
            assert b.state("a") is State.LOADED
            b.pool.unload("a")
            await b.until_gone("a")
            await b.use("a")
            await asyncio.sleep(99)
            assert b.state("a") is State.LOADED
            await asyncio.sleep(2)
            assert b.state("a") is State.UNLOADED

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_a_pinned_model_stays_pinned() -> None:  # B-S10 B-C6
    async with bench("a", "b", ttl=500.0) as b:
        b.specs["a"] = replace(b.specs["a"], pin=True)
        await b.pool.exchange.replace(Catalog(tuple(b.specs.values())))
        await b.use("a")
        (await b.pool.lease(b.specs["b"], ttl=math.inf)).release()
        for name in "ab":
            lease = b.pool.lease_at_once(b.specs[name])
            assert lease
            assert b.pool.status(name).expires_in is None
            lease.release()
            assert b.pool.status(name).expires_in is None


async def test_a_request_sets_how_long_its_model_stays() -> None:  # B-C6
    async with bench("a") as b:
        (await b.pool.lease(b.specs["a"], ttl=math.inf)).release()
        assert b.pool.status("a").expires_in is None
        (await b.pool.lease(b.specs["a"], ttl=500.0)).release()
        await b.use("a")  # says nothing
        left = b.pool.status("a").expires_in
        assert left
        assert 400 < left <= 500
        lease = await b.pool.lease(b.specs["a"], ttl=0.0)
        assert b.pool.status("a").expires_in == 0
        assert b.state("a") is State.LOADED
        lease.release()
        await eventually(lambda: b.state("a") is State.UNLOADED)
        await b.use("a")
        assert b.pool.status("a").expires_in is None, "the next process is as the preset says"


async def test_a_wish_to_stay_locks_nobody_out_and_ends_with_the_process() -> None:  # B-C6
    async with bench("a", "b", ttl=500.0, need=60 * GIB, limits=Limits(margins={RAM: GIB}, queue_timeout=0.05)) as b:
        (await b.pool.lease(b.specs["a"], ttl=math.inf)).release()
        assert b.pool.status("a").expires_in is None
        await b.use("b")
        assert b.state("a") is State.UNLOADED
        await b.use("a")
        assert b.pool.status("a").expires_in == pytest.approx(500, abs=10)


async def test_a_model_that_was_to_stay_goes_after_all_others() -> None:  # B-C6
    async with bench("a", "b", "c", need=30 * GIB, limits=Limits(margins={RAM: GIB})) as b:
        (await b.pool.lease(b.specs["a"], ttl=math.inf)).release()
        await b.use("b")
        await b.use("c")
        assert [b.state(name) for name in "abc"] == [State.LOADED, State.UNLOADED, State.LOADED]


async def test_an_unload_by_a_client_waits_for_those_who_wait() -> None:  # B-C6
    async with bench("a") as b:
        b.node.autoload = False
        waiting = asyncio.create_task(b.pool.lease(b.specs["a"]))
        await eventually(lambda: b.state("a") is State.LOADING and b.node.loads() == 1)
        b.pool.unload_unless_awaited("a")
        b.node.of("a").load()
        lease = await waiting
        b.pool.unload_unless_awaited("a")
        assert b.state("a") is State.LOADED, "in use"
        lease.release()
        await eventually(lambda: b.state("a") is State.UNLOADED)
        b.pool.unload_unless_awaited("a")  # does nothing
