"""A request that only looks starts nothing, waits for nothing and keeps nothing, in whatever state its model is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from router import errors
from router.node.interface import Slept
from router.scheduling.states import State
from tests.fakes import GIB
from tests.pool.bench import Bench, bench, hub_bench
from tests.waiting import eventually


async def unloaded(b: Bench) -> None:
    pass


async def loading(b: Bench) -> None:
    b.node.autoload = False
    b.requests.append(asyncio.create_task(b.lease("a")))
    await eventually(lambda: b.state("a") is State.LOADING and b.node.loads() == 1)


async def queued(b: Bench) -> None:
    b.leases.append(await b.lease("b"))
    b.requests.append(asyncio.create_task(b.lease("a")))
    await eventually(lambda: b.pool.status("a").waiting == 1)


async def busy_and_closing(b: Bench) -> None:
    b.leases.append(await b.lease("a"))
    b.pool.unload("a")


async def stopping(b: Bench) -> None:
    (await b.use("a")).may_stop.clear()
    b.pool.unload("a")


async def failed(b: Bench) -> None:
    (await b.use("a")).die()
    await eventually(lambda: b.state("a") is State.FAILED)


async def asleep(b: Bench) -> None:
    (await b.use("a")).launch.on_event(Slept())
    assert b.state("a") is State.SLEEPING


@pytest.mark.parametrize("arrange", [unloaded, loading, queued, busy_and_closing, stopping, failed, asleep])
async def test_looking_changes_nothing(arrange: Callable[[Bench], Awaitable[None]]) -> None:
    async with bench("a", "b", need=60 * GIB) as b:
        await arrange(b)
        before = b.pool.status("a"), b.state("a"), b.node.loads(), len(b.node.alive), repr(b.pool)
        with pytest.raises(errors.NotLoaded, match="only looks"):
            b.pool.look(b.specs["a"])
        await asyncio.sleep(0)
        assert (b.pool.status("a"), b.state("a"), b.node.loads(), len(b.node.alive), repr(b.pool)) == before
        for lease in b.leases:
            lease.release()
        for request in b.requests:
            request.cancel()


async def test_what_runs_is_looked_at_and_what_sleeps_if_it_sleeps_on() -> None:
    async with bench("a") as b:
        child = await b.use("a")
        b.pool.look(b.specs["a"]).release()
        child.launch.on_event(Slept())
        b.pool.look(b.specs["a"], wakes=False).release()
        assert b.state("a") is State.SLEEPING


async def test_looking_at_a_download_does_not_wait_for_it() -> None:
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        with pytest.raises(errors.NotLoaded, match="still downloading"):
            b.pool.look(b.specs["a"])
        assert b.pool.status("a").waiting == 1
        request.cancel()
