"""Processes that hang are found, and only while requests run on them; on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from router import errors
from router.pool.lease import Lease
from router.scheduling.states import State
from router.wire.address import Address
from router.wire.upstream import Upstream
from tests.clock import Clock
from tests.pool.bench import Bench, bench

TIMEOUT = 30.0


class Wire(Upstream):
    """Notes what is cut, and says how much has come."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[errors.UpstreamFailed] = []
        self.count = 0

    def cut(self, address: Address, error: errors.UpstreamFailed) -> None:
        self.cuts.append(error)

    def received(self, address: Address) -> int:
        return self.count


def jumping(scenario: Callable[[Bench, Wire], Awaitable[None]]) -> None:
    async def run() -> None:
        wire = Wire()
        async with bench("a", "b", health_timeout=TIMEOUT, upstream=wire) as b:
            await scenario(b, wire)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(run())


async def until_stopped(b: Bench, name: str = "a") -> float:
    """The time of the loop when the model's process is stopped."""
    loop = asyncio.get_running_loop()
    while b.state(name) is State.LOADED:
        await asyncio.sleep(0.01)
    return loop.time()


async def hanging(b: Bench, name: str = "a") -> tuple[Lease, float]:
    """A lease of a process that hangs from now on, and the time."""
    lease = await b.lease(name)
    await asyncio.sleep(100)
    b.node.of(name).hangs = True
    return lease, asyncio.get_running_loop().time()


def test_a_process_without_life_is_ended_within_the_timeout() -> None:  # B-S20
    async def scenario(b: Bench, wire: Wire) -> None:
        other = await b.lease("b")
        lease, since = await hanging(b)
        assert TIMEOUT - 5 < await until_stopped(b) - since <= TIMEOUT + 0.1
        [error] = wire.cuts
        assert (type(error), error.status) == (errors.ChildHung, 502)
        assert "'a' was stopped while it served" in error.message
        assert "no sign of life for 30 s" in error.message
        assert b.state("b") is State.LOADED
        lease.release()
        again = await b.lease("a")
        assert b.node.loads("a") == 2
        again.release()
        other.release()

    jumping(scenario)


def test_a_process_that_hung_while_nobody_used_it_is_ended_too() -> None:  # B-S20
    async def scenario(b: Bench, wire: Wire) -> None:
        await b.use("a")
        b.node.of("a").hangs = True
        await asyncio.sleep(1000)
        assert b.state("a") is State.LOADED  # nobody looks
        since = asyncio.get_running_loop().time()
        lease = await b.lease("a")
        assert TIMEOUT <= await until_stopped(b) - since <= TIMEOUT + 0.1
        lease.release()

    jumping(scenario)


def test_life_in_time_is_enough() -> None:  # B-S20
    async def scenario(b: Bench, wire: Wire) -> None:
        lease, _ = await hanging(b)
        for _ in range(10):
            await asyncio.sleep(TIMEOUT - 6)
            b.node.of("a").hangs = False
            await asyncio.sleep(7)
            b.node.of("a").hangs = True
        assert b.state("a") is State.LOADED
        lease.release()
        await asyncio.sleep(100)
        assert b.state("a") is State.LOADED

    jumping(scenario)


def test_bytes_of_an_answer_are_life() -> None:  # B-S20
    async def scenario(b: Bench, wire: Wire) -> None:
        lease, _ = await hanging(b)
        for _ in range(100):
            await asyncio.sleep(2)
            wire.count += 1
        assert b.state("a") is State.LOADED
        await until_stopped(b)
        lease.release()

    jumping(scenario)


def test_requests_that_follow_each_other_do_not_hide_a_hang() -> None:  # B-S20
    """Each of them is given up by its client after a while, and the next one comes at once."""

    async def scenario(b: Bench, wire: Wire) -> None:
        lease, since = await hanging(b)
        while b.state("a") is State.LOADED:
            await asyncio.sleep(3)
            more = b.pool.lease_at_once(b.specs["a"])
            lease.release()
            if more is None:
                break
            lease = more
        assert asyncio.get_running_loop().time() - since <= TIMEOUT + 3

    jumping(scenario)


def test_time_in_which_the_router_was_held_up_does_not_count() -> None:  # B-S20
    async def scenario(b: Bench, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        lease, _ = await hanging(b)
        await asyncio.sleep(1)
        loop.now += 1000  # the whole machine slept
        await asyncio.sleep(10)
        assert b.state("a") is State.LOADED
        b.node.of("a").hangs = False
        await asyncio.sleep(100)
        assert b.state("a") is State.LOADED
        lease.release()

    jumping(scenario)


async def test_without_a_timeout_nobody_looks() -> None:  # B-S20
    async with bench("a") as b:
        lease = await b.lease("a")
        assert b.pool.processes.runs["a"].watch is None
        lease.release()


async def test_the_watch_ends_with_its_process() -> None:
    async with bench("a", health_timeout=1000.0) as b:
        await b.use("a")
        watch = b.pool.processes.runs["a"].watch
        assert watch is not None
        b.node.of("a").die()
        with pytest.raises(asyncio.CancelledError):
            await watch
