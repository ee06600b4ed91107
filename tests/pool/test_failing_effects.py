"""What a node or another part raises against its promise costs the requests in question, and nothing else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from router import errors
from router.memory.need import Need
from router.models.spec import ModelSpec
from router.pool.download_source import CheckHeader, OnProgress
from router.pool.lease import Lease
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device, Reading
from router.scheduling.states import State
from router.wire.address import Address
from router.wire.upstream import Upstream
from tests.clock import Clock
from tests.fakes import GIB, Broken, FakeNode, Trouble
from tests.pool.bench import RAM, Bench, bench, missing, refused

QUICK = Limits(margins={RAM: GIB}, drain_grace=0.05, poll=0.02)


async def serves(b: Bench, *models: str) -> None:
    """Each of these models can be had, one after the other: two at most fit."""
    for name in models:
        async with asyncio.timeout(10):
            await b.use(name)


async def outcome(b: Bench, name: str) -> str:
    """What a request for this model is told; empty if it was served."""
    try:
        async with asyncio.timeout(10):
            await b.use(name)
    except errors.RouterError as exc:
        return exc.message
    return ""


@pytest.mark.parametrize("call", ["probe", "spawn", "ready", "wait", "stop", "footprint", "prefetch"])
async def test_a_call_that_fails_once_stops_no_later_load(call: str) -> None:
    async with bench("a", "b", "c", limits=QUICK) as b:
        b.node.trouble = Trouble(**{call: 1})
        said = await outcome(b, "a")
        assert said == "" or (call in ("spawn", "ready", "wait") and "a defect in the router" in said)
        await serves(b, "a", "b", "c", "a")


@pytest.mark.parametrize("call", ["probe", "spawn", "ready", "wait"])
async def test_a_call_that_always_fails_is_told_to_each_request(call: str) -> None:
    async with bench("a", "b", limits=replace(QUICK, backoff_max=0.0)) as b:
        b.node.trouble = Trouble(**{call: math.inf})
        for name in ("a", "b", "a", "a"):
            said = await outcome(b, name)
            assert call in said or (call == "wait" and said == "")  # it served until it was waited for
        b.node.trouble.times.clear()
        await serves(b, "a", "b")


async def test_a_memory_that_can_never_be_read_is_unavailable() -> None:
    async with bench("a", limits=QUICK) as b:
        b.node.trouble = Trouble(probe=math.inf)
        error = await refused(b.lease("a"), errors.DeviceLost)
        assert (error.status, error.retry_after) == (503, 10.0)
        assert "the free memory of local cannot be read" in error.message
        assert b.node.loads() == 0


async def test_a_process_that_cannot_be_stopped_is_given_up() -> None:
    async with bench("a", "b", "c", limits=QUICK) as b:
        await serves(b, "a", "b")
        immortal = b.node.of("a")
        b.node.trouble.times["stop"] = 4
        request = asyncio.create_task(b.lease("c"))
        async with asyncio.timeout(10):
            (await request).release()
        assert b.state("a") is State.UNLOADED
        assert immortal.is_alive  # the machine goes on showing what it holds: `b` makes room instead
        immortal.die()
        await serves(b, "a", "b", "c")


async def test_a_start_that_cannot_even_begin_fails_its_load_alone() -> None:
    async with bench("a", "b", limits=QUICK) as b:
        far = Device("far", "CUDA0", "gpu", 64 * GIB)
        b.node.devices = (*b.node.devices, far)
        needs = {"a": Demand(fixed=GIB), "b": Demand(host=GIB)}
        pool = Pool(b.pool.catalog, [b.node], QUICK, lambda spec: Need(needs[spec.name]))
        error = await refused(pool.lease(b.specs["a"]), errors.LoadFailed)
        assert "a defect in the router" in error.message
        (await pool.lease(b.specs["b"])).release()
        await pool.close()


async def test_an_address_that_cannot_be_forgotten_keeps_no_process_alive() -> None:
    class Sticky(Upstream):
        def forget(self, address: Address) -> None:
            raise Broken("forget")

    async with bench("a", "b", "c", limits=QUICK, upstream=Sticky()) as b:
        await serves(b, "a", "b", "c", "a", "b")


async def test_a_source_that_fails_against_its_promise_fails_its_download_alone() -> None:
    class Source:
        def __init__(self) -> None:
            self.times = 1

        async def fetch(self, spec: ModelSpec, on_progress: OnProgress, check_header: CheckHeader) -> None:
            self.times -= 1
            if self.times >= 0:
                raise Broken("fetch")

        def forget(self, name: str) -> None: ...

        def end(self) -> None: ...

    async with bench(missing("m"), "a", limits=QUICK) as b:
        b.pool.downloads.source = Source()
        await refused(b.lease("m"), errors.RouterError)
        assert b.state("m") is not State.DOWNLOADING
        await serves(b, "a")


async def test_one_node_that_fails_leaves_the_others_their_loads() -> None:
    here, there = FakeNode(), FakeNode((Device("there", "RAM", "host", 64 * GIB),), "there")
    margins = {RAM: GIB, "there/RAM": GIB}
    async with bench("a", "b") as b:
        pool = Pool(b.pool.catalog, [here, there], Limits(margins=margins), lambda spec: Need(Demand(host=40 * GIB)))
        await pool.snapshot()
        here.trouble = Trouble(probe=math.inf)
        (await pool.lease(b.specs["a"])).release()
        (await pool.lease(b.specs["b"])).release()
        # One by one on the node that answers: the other one takes none. Then it is back.
        assert (here.loads(), there.loads()) == (0, 2)
        here.trouble = Trouble()
        (await pool.lease(b.specs["a"])).release()
        assert here.loads() == 1
        await pool.close()


async def test_a_lost_gpu_is_named_to_the_client_and_comes_back() -> None:  # B-S18
    gpu = Device("local", "CUDA0", "gpu", 24 * GIB, uuid="GPU-0")
    async with bench("a", "b") as b:
        b.node.devices = (gpu, *b.node.devices)
        demand = {"a": Demand(fixed=20 * GIB), "b": Demand(host=GIB)}
        limits = Limits(margins={gpu.key: GIB, RAM: GIB})
        pool = Pool(b.pool.catalog, [b.node], limits, lambda spec: Need(demand[spec.name]))
        (await pool.lease(b.specs["b"])).release()
        b.node.lost = {gpu.key: "it has fallen off the bus"}
        error = await refused(pool.lease(b.specs["a"]), errors.DeviceLost)
        assert (error.status, error.retry_after) == (503, 10.0)
        assert "CUDA0 (GPU-0) cannot be read: it has fallen off the bus" in error.message
        assert [child.launch.model for child in b.node.alive] == ["b"]
        b.node.lost.clear()
        (await pool.lease(b.specs["a"])).release()
        await pool.close()


class Clumsy(Pool):
    """Hands out a lease only after some failures."""

    failures = 0

    def _leased(self, ticket: int, model: str) -> Lease:
        if self.failures:
            self.failures -= 1
            raise Broken("lease")
        return super()._leased(ticket, model)


async def test_a_grant_that_fails_is_answered_and_leaves_no_lease() -> None:
    async with bench("a") as b:
        pool = Clumsy(b.pool.catalog, [b.node], QUICK, lambda spec: Need(Demand(host=GIB)))
        pool.failures = 1
        error = await refused(pool.lease(b.specs["a"]), errors.RouterError)
        assert "a defect in the router" in error.message
        assert pool.status("a").leases == 0
        (await pool.lease(b.specs["a"])).release()
        await pool.close()


def test_a_probe_that_never_answers_is_given_up() -> None:
    class Silent(FakeNode):
        silences = 3

        async def probe(
            self, expected: Mapping[str, int], enough: Mapping[str, int] | None = None
        ) -> tuple[Reading, ...]:
            if self.silences:
                self.silences -= 1
                await asyncio.Event().wait()
            return await super().probe(expected, enough)

    async def run() -> None:
        async with bench("a") as b:
            pool = Pool(b.pool.catalog, [Silent()], QUICK, lambda spec: Need(Demand(host=GIB)))
            error = await refused(pool.lease(b.specs["a"]), errors.DeviceLost)
            assert "TimeoutError" in error.message
            (await pool.lease(b.specs["a"])).release()
            await pool.close()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(run())
