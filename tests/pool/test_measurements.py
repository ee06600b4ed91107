"""What processes really hold is booked and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from router.memory.footprints import Footprint
from router.memory.need import Need
from router.models.catalog import Catalog
from router.node.interface import Child
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device
from router.scheduling.states import State
from tests.fakes import GIB, FakeNode
from tests.pool.bench import CUDA, RAM, spec
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("margin", "on_gpu", "booked", "held", "found"),
    [
        (GIB, 9, {CUDA: 11 * GIB}, {CUDA: 9 * GIB}, Footprint(gpu=9 * GIB, gpus=1, host=GIB)),
        # In a container, and on AMD, the machine does not report what a process holds of a GPU. That is no RAM either.
        (GIB, 0, {CUDA: 11 * GIB}, {CUDA: 11 * GIB}, Footprint(gpu=0, gpus=0, host=GIB)),
        # Nothing is booked on a GPU that is not checked.
        (0, 9, {}, {}, Footprint(gpu=9 * GIB, gpus=1, host=GIB)),
    ],
)
async def test_what_a_child_really_holds_is_booked_and_learned(
    margin: int, on_gpu: int, booked: dict[str, int], held: dict[str, int], found: Footprint
) -> None:  # B-D7
    learned: list[tuple[str, Footprint]] = []
    gpu = Device("local", "CUDA0", "gpu", 24 * GIB)
    need = Need(Demand(split=10 * GIB, fixed=GIB, host=GIB))
    reported = {CUDA: on_gpu * GIB} if on_gpu else {}
    node = FakeNode((gpu, Device("local", "RAM", "host", 64 * GIB)), footprints={"a": {**reported, RAM: GIB // 2}})
    limits = Limits(margins={CUDA: margin, RAM: GIB})
    pool = Pool(
        Catalog((spec("a"),)), [node], limits, lambda _: need, learn=lambda s, found: learned.append((s.name, found))
    )
    lease = await pool.lease(spec("a"))
    assert pool.status("a").held == {**booked, RAM: GIB}
    async with asyncio.timeout(5):
        while not learned:
            await asyncio.sleep(0.001)
    assert pool.status("a").held == {**held, RAM: GIB}
    assert learned == [("a", found)]
    lease.release()
    await pool.close()


@pytest.mark.parametrize(
    ("took", "held", "need"),
    [
        (0.5, 1 + 4, 1),  # less than was expected: in RAM that may be taken later
        (3, 3 + 4, 3),  # more, and the cache is empty yet
    ],
)
async def test_a_prompt_cache_is_booked_and_is_no_need(took: float, held: int, need: int) -> None:  # B-D9
    learned: list[Footprint] = []
    node = FakeNode((Device("local", "RAM", "host", 18 * GIB),), footprints={"a": {RAM: int(took * GIB)}})
    pool = Pool(
        Catalog((spec("a"),)),
        [node],
        Limits(margins={RAM: GIB}),
        lambda _: Need(Demand(host=GIB, prompt_cache=8 * GIB)),
        learn=lambda _, found: learned.append(found),
    )
    lease = await pool.lease(spec("a"))
    assert node.children[0].launch.args[-2:] == ("--cache-ram", "4096")
    assert (pool.status("a").held, pool.status("a").prompt_cache) == ({RAM: 5 * GIB}, 4 * GIB)
    await eventually(lambda: bool(learned))
    assert pool.status("a").held == {RAM: held * GIB}
    run = pool.processes.runs["a"]
    node.footprints["a"] = {RAM: int((took + 4) * GIB)}  # now the cache is full
    booked, found = run.reconcile(await run.measure(), pool.status("a").held)
    assert booked == {RAM: max(held * GIB, int((took + 4) * GIB))}
    assert {learned[0].host, found.host} == {need * GIB}
    lease.release()
    await pool.close()


@dataclass
class SlowNode(FakeNode):
    """A measurement waits for `go`."""

    measuring: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def footprint(self, child: Child) -> Mapping[str, int]:
        self.measuring.set()
        await self.go.wait()
        return await super().footprint(child)


async def test_nothing_is_learned_of_a_process_that_stops_meanwhile() -> None:  # B-D7
    learned: list[str] = []
    node = SlowNode(footprints={"a": {RAM: GIB}})
    pool = Pool(
        Catalog((spec("a"),)),
        [node],
        Limits(),
        lambda _: Need(Demand(host=GIB)),
        learn=lambda s, found: learned.append(s.name),
    )
    for is_stopped in (True, False):
        (await pool.lease(spec("a"))).release()
        async with asyncio.timeout(10):
            await node.measuring.wait()
            if is_stopped:
                pool.unload("a")
            node.go.set()
            while pool.state("a") is not State.UNLOADED and not learned:
                await asyncio.sleep(0.001)
        assert learned == ([] if is_stopped else ["a"])
        node.measuring.clear()
        node.go.clear()
    node.go.set()
    await pool.close()


@pytest.mark.parametrize("how", ["died", "nothing is reported"])
async def test_nothing_is_learned_of_a_process_that_died_while_it_was_measured(how: str) -> None:  # B-D7
    learned: list[str] = []
    node = SlowNode(footprints={"a": {RAM: 1}} if how == "died" else {})
    pool = Pool(
        Catalog((spec("a"),)),
        [node],
        Limits(margins={RAM: 0}),
        lambda _: Need(Demand(host=GIB)),
        learn=lambda s, found: learned.append(s.name),
    )
    (await pool.lease(spec("a"))).release()
    async with asyncio.timeout(10):
        await node.measuring.wait()
    if how == "died":
        node.of("a").die()
        await eventually(lambda: pool.state("a") is State.FAILED)
    node.go.set()
    if how != "died":
        pool.unload("a", force=True)
    await eventually(lambda: not node.alive)
    await pool.close()
    assert learned == []
