"""Processes: how they start, fail and end, and what clients are sent of it."""

from __future__ import annotations

import asyncio

from router import errors
from router.scheduling.states import State
from tests.pool.bench import bench, refused
from tests.waiting import eventually


async def test_a_failed_load_is_refused_with_the_childs_words() -> None:  # B-P3
    async with bench("a") as b:
        b.node.autoload = False
        request = asyncio.create_task(b.lease("a"))
        await eventually(lambda: bool(b.node.alive))
        b.node.of("a").die(1, "unknown model architecture: 'x'")
        error = await refused(request, errors.LoadFailed)
        assert "unknown model architecture" in error.message
        status = b.pool.status("a")
        assert (status.value, status.failed, status.exit_code) == ("unloaded", True, 1)


async def test_repeated_crashes_back_off_and_say_why() -> None:  # B-S14
    async with bench("a") as b:
        for _ in range(2):
            await b.use("a")
            b.node.of("a").die()
            await eventually(lambda: b.state("a") is State.FAILED)
        error = await refused(b.lease("a"), errors.BackingOff)
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 1
        assert "signal 9" in error.message


async def test_after_one_crash_the_next_request_reloads() -> None:  # B-S14
    async with bench("a") as b:
        lease = await b.lease("a")
        b.node.of("a").die()
        await eventually(lambda: b.state("a") is State.FAILED)
        lease.release()  # of a process that is gone
        await b.use("a")
        assert b.node.loads() == 2
        assert b.pool.status("a").leases == 0


async def test_unload_then_load_never_has_two_processes() -> None:  # B-L9
    async with bench("a") as b:
        await b.use("a")
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        requests = [asyncio.create_task(b.lease("a")) for _ in range(2)]
        await eventually(lambda: b.pool.status("a").waiting == 2)
        assert b.state("a") is State.STOPPING
        b.node.of("a").may_stop.set()
        for request in requests:
            (await request).release()
        assert b.node.loads() == 2  # FakeNode.spawn itself asserts that they are not alive together


async def test_every_change_is_published() -> None:
    async with bench("a") as b, b.pool.feed.subscribe() as news:
        await b.use("a")
        b.pool.unload("a")
        await eventually(lambda: b.state("a") is State.UNLOADED)
        published = [await news.next(1) for _ in range(3)]
        assert [item and item["data"]["status"] for item in published] == ["loading", "loaded", "unloaded"]
        assert published[-1] == {"model": "a", "event": "status_change", "data": {"status": "unloaded", "exit_code": 0}}
