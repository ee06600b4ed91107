"""The pool on a machine without processes: leases, effects, news."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router import errors
from router.engine import flags
from router.memory.estimate import Need
from router.memory.footprints import Footprint
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.node.interface import Child, Part
from router.pool.lease import Lease
from router.pool.overrides import Wish
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB, FakeNode

RAM, CUDA = "local/RAM", "local/CUDA0"


def spec(name: str, **more: Any) -> ModelSpec:
    return ModelSpec(name, "models_dir", (), **more)


class Bench:
    """A pool over a fake node with 64 GiB and a demand of 30 GiB a model, so that two fit."""

    def __init__(self, *names: str, need: int = 30 * GIB, limits: Limits | None = None, **more: Any) -> None:
        self.node = FakeNode(held={name: {RAM: need} for name in names})
        self.specs = {name: spec(name) for name in names}
        limits = limits or Limits(margins={RAM: GIB}, drain_grace=0.05)
        catalog = Catalog(tuple(self.specs.values()))
        self.pool = Pool(catalog, [self.node], limits, lambda _: Need(Demand(host=need)), **more)

    async def lease(self, name: str) -> Lease:
        return await self.pool.lease(self.specs[name])

    async def use(self, name: str, seconds: float = 0.0) -> None:
        lease = await self.lease(name)
        try:
            await asyncio.sleep(seconds)
        finally:
            lease.release()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    def state(self, name: str) -> State:
        return self.pool.state(name)


@contextlib.asynccontextmanager
async def bench(*names: str, **more: Any) -> AsyncIterator[Bench]:
    made = Bench(*names, **more)
    try:
        yield made
    finally:
        for child in made.node.alive:
            child.may_stop.set()
        await made.pool.close()
        assert not made.node.alive


async def refused(wish: Awaitable[object], error: type[errors.RouterError]) -> errors.RouterError:
    with pytest.raises(error) as caught:
        await wish
    return caught.value


async def test_a_request_loads_its_model_and_is_served() -> None:  # B-S1
    async with bench("a") as b:
        lease = await b.lease("a")
        assert (lease.model, lease.address, lease.key) == ("a", b.node.of("a").address, b.node.of("a").key)
        assert b.pool.status("a").leases == 1
        lease.release()
        assert b.pool.status("a").leases == 0
        assert b.pool.status("a").value == "loaded"


async def test_a_second_release_does_nothing() -> None:  # B-S2
    async with bench("a") as b:
        first, second = await b.lease("a"), await b.lease("a")
        first.release()
        first.release()
        assert b.pool.status("a").leases == 1
        second.release()


async def test_six_concurrent_requests_are_one_load() -> None:  # B-S6
    async with bench("a") as b:
        await asyncio.gather(*(b.use("a") for _ in range(6)))
        assert b.node.loads() == 1


async def test_two_models_that_do_not_fit_together_are_all_served() -> None:  # B-S6
    async with bench("a", "b", need=40 * GIB) as b:
        await asyncio.gather(*(b.use(name, 0.01) for name in "ababab"))
        assert b.node.most_alive == 1
        assert b.node.loads() <= 3
        assert b.pool.evictions == b.node.loads() - 1


async def test_the_least_recently_finished_goes() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        long = await b.lease("a")
        await b.use("b")
        long.release()  # a began before b and finished after it
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["a", "c"]


async def test_who_only_watches_keeps_no_model() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        await b.use("a")
        await b.use("b")
        (await b.pool.lease(b.specs["a"], used=False)).release()
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["b", "c"]


async def test_an_explicit_load_forgives_the_failures() -> None:  # B-S14
    async with bench("a") as b:
        for _ in range(3):
            await b.pool.load("a")
            b.node.of("a").die()
            await b.until(lambda: b.state("a") is State.FAILED)
        assert b.node.loads() == 3


@pytest.mark.parametrize(
    ("margin", "on_gpu", "booked", "held", "found"),
    [
        (GIB, 9, {CUDA: 11 * GIB}, {CUDA: 9 * GIB}, Footprint(gpu=9 * GIB, gpus=1, host=GIB)),
        # In a container, and on AMD, nobody tells what a process holds of a GPU: that is no RAM either.
        (GIB, 0, {CUDA: 11 * GIB}, {CUDA: 11 * GIB}, Footprint(gpu=0, gpus=0, host=GIB)),
        # Of a GPU that is not checked nothing is booked.
        (0, 9, {}, {}, Footprint(gpu=9 * GIB, gpus=1, host=GIB)),
    ],
)
async def test_what_a_child_really_holds_is_booked_and_learned(
    margin: int, on_gpu: int, booked: dict[str, int], held: dict[str, int], found: Footprint
) -> None:  # B-D7
    learned: list[tuple[str, Footprint]] = []
    gpu = Device("local", "CUDA0", "gpu", 24 * GIB)
    need = Need(Demand(split=10 * GIB, fixed=GIB, host=GIB))
    told = {CUDA: on_gpu * GIB} if on_gpu else {}
    node = FakeNode((gpu, Device("local", "RAM", "host", 64 * GIB)), footprints={"a": {**told, RAM: GIB // 2}})
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


@dataclass
class Scale(FakeNode):
    """Takes its time."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def footprint(self, child: Child) -> Mapping[str, int]:
        self.asked.set()
        await self.go.wait()
        return await super().footprint(child)


async def test_nothing_is_learned_of_one_that_stops_meanwhile() -> None:  # B-D7
    learned: list[str] = []
    node = Scale(footprints={"a": {RAM: GIB}})
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
            await node.asked.wait()
            if is_stopped:
                pool.unload("a")
            node.go.set()
            while pool.state("a") is not State.UNLOADED and not learned:
                await asyncio.sleep(0.001)
        assert learned == ([] if is_stopped else ["a"])
        node.asked.clear()
        node.go.clear()
    node.go.set()
    await pool.close()


async def test_a_waiting_client_that_leaves_costs_nothing() -> None:  # B-S8
    async with bench("a", "b", need=40 * GIB) as b:
        lease = await b.lease("a")
        waiting = asyncio.create_task(b.lease("b"))
        await b.until(lambda: b.pool.status("b").waiting == 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert b.pool.status("b").waiting == 0
        lease.release()
        await b.use("a")
        assert b.node.loads() == 1


async def test_a_client_that_leaves_during_a_load_does_not_abort_it() -> None:  # B-S16
    async with bench("a") as b:
        b.node.autoload = False
        first, second = asyncio.create_task(b.lease("a")), asyncio.create_task(b.lease("a"))
        await b.until(lambda: bool(b.node.alive))
        first.cancel()
        b.node.of("a").load()
        (await second).release()
        assert first.cancelled() or first.cancelling()
        assert b.node.loads() == 1


async def test_a_load_nobody_waits_for_is_dropped_where_that_is_set() -> None:  # B-S16
    limits = Limits(margins={RAM: GIB}, finish_loads=False)
    async with bench("a", limits=limits) as b:
        b.node.autoload = False
        only = asyncio.create_task(b.lease("a"))
        await b.until(lambda: bool(b.node.alive))
        only.cancel()
        await b.until(lambda: b.state("a") is State.UNLOADED)
        assert not b.node.alive


async def test_a_cancel_that_crosses_the_grant_leaks_no_lease() -> None:  # B-S2
    async with bench("a") as b:
        await b.use("a")
        for turns in range(4):
            task = asyncio.create_task(b.lease("a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await task).release()
        await b.until(lambda: b.pool.status("a").leases == 0)


async def test_a_cancel_at_the_moment_of_ready_leaks_no_lease() -> None:  # B-S2
    async with bench("a") as b:
        b.node.autoload = False
        task = asyncio.create_task(b.lease("a"))
        await b.until(lambda: bool(b.node.alive))
        b.node.of("a").load()
        while b.state("a") is not State.LOADED:  # the grant is out, the task has not come round yet
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await b.until(lambda: b.pool.status("a").leases == 0)


async def test_a_failed_load_is_told_in_the_childs_words() -> None:  # B-P3
    async with bench("a") as b:
        b.node.autoload = False
        wish = asyncio.create_task(b.lease("a"))
        await b.until(lambda: bool(b.node.alive))
        b.node.of("a").die(1, "unknown model architecture: 'x'")
        error = await refused(wish, errors.LoadFailed)
        assert "unknown model architecture" in error.message
        status = b.pool.status("a")
        assert (status.value, status.failed, status.exit_code) == ("unloaded", True, 1)


async def test_repeated_crashes_back_off_and_say_why() -> None:  # B-S14
    async with bench("a") as b:
        for _ in range(2):
            await b.use("a")
            b.node.of("a").die()
            await b.until(lambda: b.state("a") is State.FAILED)
        error = await refused(b.lease("a"), errors.BackingOff)
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 1
        assert "signal 9" in error.message


async def test_after_one_crash_the_next_request_reloads() -> None:  # B-S14
    async with bench("a") as b:
        lease = await b.lease("a")
        b.node.of("a").die()
        await b.until(lambda: b.state("a") is State.FAILED)
        lease.release()  # of a process that is gone
        await b.use("a")
        assert b.node.loads() == 2
        assert b.pool.status("a").leases == 0


async def test_a_model_that_never_fits_is_refused_with_the_numbers() -> None:  # B-S12
    async with bench("a", need=64 * GIB) as b:
        error = await refused(b.lease("a"), errors.ModelTooLarge)
        assert "64.0 GiB" in error.message
        assert "1.0 GiB" in error.message
        assert b.node.loads() == 0


async def test_memory_that_vanished_before_the_spawn_is_seen() -> None:  # B-S11
    async with bench("a", "b") as b:
        await b.use("a")
        b.node.foreign[RAM] = 30 * GIB
        await b.use("b")
        assert b.node.most_alive == 1


async def test_what_another_program_gives_back_is_used() -> None:  # B-S12
    limits = Limits(margins={RAM: GIB}, poll=0.01)
    async with bench("a", need=40 * GIB, limits=limits) as b:
        b.node.foreign[RAM] = 40 * GIB
        wish = asyncio.create_task(b.lease("a"))
        await b.until(lambda: len(b.node.probes) > 2)
        assert not wish.done()
        b.node.foreign.clear()
        (await wish).release()


async def test_freed_memory_is_waited_for() -> None:
    async with bench("a", "b", need=40 * GIB) as b:
        await b.use("a")
        await b.use("b")
        assert {RAM: 60 * GIB} in b.node.probes  # the estimate may be a tenth too high


async def test_a_full_queue_refuses_with_retry_after() -> None:  # B-S9
    limits = Limits(margins={RAM: GIB}, queue_max=0)
    async with bench("a", "b", need=40 * GIB, limits=limits) as b:
        lease = await b.lease("a")
        error = await refused(b.lease("b"), errors.QueueFull)
        assert error.status == 503
        assert error.retry_after
        lease.release()
        await b.use("b")


async def test_the_queue_has_a_time_limit() -> None:  # B-S9
    limits = Limits(margins={RAM: GIB}, queue_timeout=0.05)
    async with bench("a", "b", need=40 * GIB, limits=limits) as b:
        lease = await b.lease("a")
        error = await refused(b.lease("b"), errors.QueueTimeout)
        assert error.retry_after
        lease.release()


async def test_an_idle_model_ends_after_its_time_to_live() -> None:  # B-S10
    async with bench("a", ttl=0.02) as b:
        await b.use("a")
        await b.until(lambda: b.state("a") is State.UNLOADED)


def test_the_time_to_live_begins_anew_with_each_use() -> None:  # B-S10
    """The timer is set once and comes too early: it goes on until it is time, whoever used the model and how."""

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
            if watcher := b.pool.lease_at_once(b.specs["a"], used=False):
                watcher.release()
            gone = [await when(b, name) for name in "ab"]
            assert gone[0] - begun == pytest.approx(310, abs=1)
            assert gone[1] >= gone[0]

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def when(b: Bench, name: str) -> float:
    """Sleeps until it is gone."""
    while b.state(name) is not State.UNLOADED:
        await asyncio.sleep(0.25)
    return asyncio.get_running_loop().time()


def test_what_is_due_earlier_is_done_earlier() -> None:  # B-S10 B-C6
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with bench("a", "b", ttl=1000.0) as b:
            await b.use("a")
            begun = loop.time()
            (await b.pool.lease(b.specs["b"], ttl=50.0)).release()
            assert await when(b, "b") - begun == pytest.approx(50, abs=1)
            (await b.pool.lease(b.specs["a"], ttl=30.0)).release()
            again = loop.time()
            assert await when(b, "a") - again == pytest.approx(30, abs=1)

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
            await when(b, "a")
            await b.use("a")
            await asyncio.sleep(99)
            assert b.state("a") is State.LOADED
            await asyncio.sleep(2)
            assert b.state("a") is State.UNLOADED

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_a_lease_at_once_counts_as_any_other() -> None:  # B-S2 B-S10
    async with bench("a", "b", "c") as b:
        assert b.pool.lease_at_once(b.specs["a"]) is None
        assert b.node.loads() == 0
        await b.use("a")
        await b.use("b")
        leases = [b.pool.lease_at_once(b.specs["a"]) for _ in range(3)]
        first = leases[0]
        assert first
        assert (first.model, first.address, first.key) == ("a", b.node.of("a").address, b.node.of("a").key)
        for left, lease in zip((3, 2, 1), leases, strict=True):
            assert b.pool.status("a").leases == left
            assert lease
            lease.release()
            lease.release()
        assert b.pool.status("a").leases == 0
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["a", "c"]


async def test_who_only_watches_at_once_keeps_no_model() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        await b.use("a")
        await b.use("b")
        lease = b.pool.lease_at_once(b.specs["a"], used=False)
        assert lease
        lease.release()
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["b", "c"]


def is_open(b: Bench, name: str) -> bool:
    """A lease of it can be had at once; it is given back."""
    lease = b.pool.lease_at_once(b.specs[name], used=False)
    if lease:
        lease.release()
    return lease is not None


async def test_a_lease_at_once_keeps_its_model_from_eviction() -> None:  # B-S3 B-S7
    async with bench("a", "b", need=40 * GIB) as b:
        await b.use("a")
        lease = b.pool.lease_at_once(b.specs["a"])
        assert lease
        other = asyncio.create_task(b.lease("b"))
        await b.until(lambda: not is_open(b, "a"))
        assert b.state("a") is State.LOADED, "it is drained, and takes no new work"
        lease.release()
        (await other).release()
        assert b.state("a") is State.UNLOADED


def test_a_lease_at_once_in_the_background_is_a_background_task() -> None:  # B-S10
    async def scenario() -> None:
        loop, limits = asyncio.get_running_loop(), Limits(margins={RAM: GIB}, task_grace=1000.0, queue_timeout=0)
        async with bench("a", "b", need=40 * GIB, limits=limits) as b:
            (await b.pool.lease(b.specs["a"], background=True)).release()
            for in_background, pause in ((True, 0), (False, 1000)):
                lease = b.pool.lease_at_once(b.specs["a"], background=in_background)
                assert lease
                lease.release()
                begun = loop.time()
                for name in "ba":
                    (await b.pool.lease(b.specs[name], background=True)).release()
                assert loop.time() - begun == pytest.approx(pause, abs=20)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_a_pinned_model_stays_pinned() -> None:  # B-S10 B-C6
    async with bench("a", "b", ttl=500.0) as b:
        b.specs["a"] = replace(b.specs["a"], pin=True)
        await b.pool.replace(Catalog(tuple(b.specs.values())))
        await b.use("a")
        (await b.pool.lease(b.specs["b"], ttl=math.inf)).release()
        for name in "ab":
            lease = b.pool.lease_at_once(b.specs[name])
            assert lease
            assert b.pool.status(name).expires_in is None
            lease.release()
            assert b.pool.status(name).expires_in is None


async def test_none_at_once_of_a_model_that_does_not_serve() -> None:  # B-L10 B-S14
    async with bench("a") as b:
        b.node.autoload = False
        task = asyncio.create_task(b.lease("a"))
        await b.until(lambda: b.state("a") is State.LOADING and bool(b.node.children))
        assert not is_open(b, "a"), "loading"
        b.node.of("a").load()
        lease = await task
        assert is_open(b, "a")
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        assert b.state("a") is State.LOADED
        assert not is_open(b, "a"), "closing"
        lease.release()
        await b.until(lambda: b.state("a") is State.STOPPING)
        assert not is_open(b, "a"), "stopping"
        b.node.of("a").may_stop.set()
        await b.until(lambda: b.state("a") is State.UNLOADED)
        assert not is_open(b, "a"), "gone"
        b.node.autoload = True
        await b.use("a")
        b.node.of("a").die()
        await b.until(lambda: b.state("a") is State.FAILED)
        assert not is_open(b, "a"), "failed"
        assert b.node.loads() == 2


async def test_none_at_once_after_the_end() -> None:
    async with bench("a") as b:
        lease = await b.lease("a")
        b.pool.end()
        assert not is_open(b, "a")
        lease.release()


async def test_none_at_once_while_new_settings_wait() -> None:  # B-L9
    """Whoever comes while the old process ends gets the new one."""
    async with bench("a") as b:
        lease = await b.lease("a")
        load = asyncio.create_task(b.pool.load("a", Wish({"ctx_size": 4096})))
        await b.until(lambda: not is_open(b, "a"))
        waiting = asyncio.create_task(b.lease("a"))
        assert b.state("a") is State.LOADED
        lease.release()
        assert (await load).status == "loaded"
        lease = await waiting
        assert lease.address == b.node.of("a").address
        lease.release()
        assert b.node.loads() == 2


async def test_an_old_lease_of_a_process_that_is_gone() -> None:  # B-S2
    async with bench("a") as b:
        await b.use("a")
        old = b.pool.lease_at_once(b.specs["a"])
        assert old
        b.node.of("a").die()
        await b.until(lambda: b.state("a") is State.FAILED)
        new = await b.lease("a")
        old.release()
        assert b.pool.status("a").leases == 1
        new.release()
        assert b.pool.status("a").leases == 0


async def test_a_request_says_how_long_its_model_stays() -> None:  # B-C6
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
        await b.until(lambda: b.state("a") is State.UNLOADED)
        await b.use("a")
        assert b.pool.status("a").expires_in is None, "the next process is as the preset says"


async def test_what_a_request_pins_stays_until_one_says_otherwise() -> None:  # B-C6
    async with bench("a", "b", need=60 * GIB, limits=Limits(margins={RAM: GIB}, queue_timeout=0.05)) as b:
        (await b.pool.lease(b.specs["a"], ttl=math.inf)).release()
        await refused(b.pool.lease(b.specs["b"], ttl=math.inf), errors.QueueTimeout)
        assert b.state("a") is State.LOADED
        (await b.pool.lease(b.specs["a"], ttl=500.0)).release()
        await b.use("b")
        await b.use("a")  # for "b" was refused when it was to be pinned
        assert b.state("b") is State.UNLOADED


async def test_a_steady_stream_on_one_model_does_not_starve_another() -> None:  # B-S7
    async with bench("a", "b", need=40 * GIB) as b:
        stop = asyncio.Event()

        async def traffic() -> None:
            while not stop.is_set():
                await b.use("a", 0.01)

        busy = [asyncio.create_task(traffic()) for _ in range(4)]
        await b.until(lambda: b.pool.status("a").leases == 4)
        async with asyncio.timeout(5):
            await b.use("b")
        stop.set()
        await asyncio.gather(*busy)


async def test_an_explicit_load_and_unload() -> None:
    async with bench("a") as b:
        await b.pool.load("a")
        assert b.pool.is_running("a")
        b.pool.unload("a")
        await b.until(lambda: b.state("a") is State.UNLOADED)


async def test_an_explicit_load_tells_its_failure() -> None:
    async with bench("a", need=64 * GIB) as b:
        await refused(b.pool.load("a"), errors.ModelTooLarge)


async def test_unload_lets_running_requests_end_and_refuses_waiting_ones() -> None:  # B-L10
    async with bench("a") as b:
        lease = await b.lease("a")
        b.pool.unload("a")
        assert b.node.of("a").stops == 0
        late = asyncio.create_task(b.lease("a"))
        await b.until(lambda: b.pool.status("a").waiting == 1)
        b.pool.unload("a")
        await refused(late, errors.Cancelled)
        lease.release()
        await b.until(lambda: b.state("a") is State.UNLOADED)


async def test_unload_then_load_never_has_two_processes() -> None:  # B-L9
    async with bench("a") as b:
        await b.use("a")
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        wishes = [asyncio.create_task(b.lease("a")) for _ in range(2)]
        await b.until(lambda: b.pool.status("a").waiting == 2)
        assert b.state("a") is State.STOPPING
        b.node.of("a").may_stop.set()
        for wish in wishes:
            (await wish).release()
        assert b.node.loads() == 2  # FakeNode.spawn itself asserts that they are not alive together


async def test_the_news_tell_every_change() -> None:
    async with bench("a") as b, b.pool.feed.subscribe() as news:
        await b.use("a")
        b.pool.unload("a")
        await b.until(lambda: b.state("a") is State.UNLOADED)
        told = [await news.next(1) for _ in range(3)]
        assert [item and item["data"]["status"] for item in told] == ["loading", "loaded", "unloaded"]
        assert told[-1] == {"model": "a", "event": "status_change", "data": {"status": "unloaded", "exit_code": 0}}


async def test_closing_refuses_whoever_waits() -> None:
    async with bench("a") as b:
        b.node.autoload = False
        wish = asyncio.create_task(b.lease("a"))
        await b.until(lambda: bool(b.node.alive))
        closing = asyncio.create_task(b.pool.close())
        await refused(wish, errors.Cancelled)
        await closing
        await refused(b.lease("a"), errors.Cancelled)


async def test_the_end_waits_for_running_requests_unless_forced() -> None:  # B-S3
    async with bench("a", "b", "c") as b:
        await b.use("a")
        lease = await b.lease("b")
        wish = asyncio.create_task(b.lease("c"))
        await asyncio.sleep(0)
        b.pool.end()
        await refused(wish, errors.Cancelled)
        await refused(b.lease("b"), errors.Cancelled)
        await b.until(lambda: b.state("a") is State.UNLOADED)
        assert b.state("b") is State.LOADED
        b.pool.end(force=True)
        await b.until(lambda: b.state("b") is State.UNLOADED)
        lease.release()


async def test_a_new_catalog_ends_only_what_changed() -> None:  # B-L13
    async with bench("a", "b", need=10 * GIB) as b:
        await b.use("a")
        await b.use("b")
        changed = spec("b", env=(("X", "1"),))
        changes = await b.pool.replace(Catalog((b.specs["a"], changed, spec("c"))))
        assert (changes.added, changes.changed, changes.kept) == (("c",), ("b",), ("a",))
        await b.until(lambda: b.state("b") is State.UNLOADED)
        assert b.state("a") is State.LOADED


async def test_whoever_waits_for_what_a_new_catalog_changed_gets_the_new_one() -> None:  # B-L13
    async with bench("a", "b", need=60 * GIB) as b:
        lease = await b.lease("a")
        wish = asyncio.create_task(b.lease("b"))
        await b.until(lambda: b.pool.status("b").waiting == 1)
        changed = spec("b", env=(("X", "1"),))
        await b.pool.replace(Catalog((b.specs["a"], changed)))
        assert not wish.done()
        lease.release()
        (await wish).release()
        assert b.node.of("b").launch.env == changed.env


async def test_a_catalog_that_is_replaced_during_an_estimate_counts() -> None:  # B-L13
    old, new, kept = spec("a"), spec("a", env=(("X", "1"),)), spec("b")
    asked, answer = threading.Event(), threading.Event()

    def need(which: ModelSpec) -> Need:
        if which is old or which is kept:
            asked.set()
            answer.wait(5)
            return Need(Demand(), ("--old",))
        return Need(Demand(), ("--new",))

    node = FakeNode()
    pool = Pool(Catalog((old, kept)), [node], Limits(), need)
    wish = asyncio.create_task(pool.lease(old))
    await asyncio.to_thread(asked.wait, 5)
    await pool.replace(Catalog((new,)))
    (await pool.lease(new)).release()
    answer.set()
    (await wish).release()
    assert [(child.launch.args, child.launch.env) for child in node.children] == [(("--new",), new.env)]
    await refused(pool.lease(kept), errors.UnknownModel)
    await pool.close()


async def test_startup_loads_go_as_far_as_the_count_limit() -> None:  # B-L13
    limits = Limits(models_max=1)
    async with bench("a", "b", limits=limits) as b:
        b.pool.catalog = Catalog((spec("a", load_on_startup=True), spec("b", load_on_startup=True)))
        await b.pool.start()
        assert [child.launch.model for child in b.node.alive] == ["a"]


# Downloads


class FakeHub:
    """Has a model's files come when the test says so; `catalog` is what the pool's is then."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.gates: dict[str, asyncio.Future[None]] = {}
        self.begun: list[str] = []
        self.checks: list[Any] = []
        self.forgotten: list[str] = []
        self.on_part: Callable[[Part], None] = lambda part: None
        self.ended = False

    async def fetch(self, spec: ModelSpec, on_part: Callable[[Part], None], check: Any) -> None:
        self.begun.append(spec.name)
        self.on_part = on_part
        on_part(Part("http://hub/file", 5, 10, "0" * 64))
        gate = self.gates[spec.name] = asyncio.get_running_loop().create_future()
        await gate
        await self.arrive(spec.name)

    async def arrive(self, name: str) -> None:
        """The catalog as it is with the files of this one."""
        models = [here(name) if spec.name == name else spec for spec in self.pool.catalog.models]
        await self.pool.replace(Catalog(models))

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def end(self) -> None:
        self.ended = True


def there(name: str, repo: str = "user/m:Q8_0", **more: Any) -> ModelSpec:
    """A model that is not here yet."""
    return ModelSpec(name, "preset", flags.parse(["--hf-repo", repo], flags.default_table()), **more)


def here(name: str, repo: str = "user--m") -> ModelSpec:
    path = Path(f"/cache/models--{repo}/snapshots/{'c' * 40}/m-Q8_0.gguf")
    return ModelSpec(name, "preset", flags.parse(["--model", str(path)], flags.default_table()), model_path=path)


@contextlib.asynccontextmanager
async def hub_bench(*names: str, **more: Any) -> AsyncIterator[tuple[Bench, FakeHub]]:
    async with bench(*names, **more) as b:
        b.specs = {name: there(name) for name in names}
        b.pool.catalog = Catalog(tuple(b.specs.values()))
        b.pool.hub = hub = FakeHub(b.pool)
        yield b, hub


async def begun(b: Bench, hub: FakeHub, *names: str) -> None:
    await b.until(lambda: all(name in hub.gates for name in names))


async def test_ten_requests_for_a_missing_model_are_one_download_and_one_load() -> None:  # B-H3
    async with hub_bench("a") as (b, hub), b.pool.feed.subscribe() as news:
        wishes = [asyncio.create_task(b.lease("a")) for _ in range(10)]
        await begun(b, hub, "a")
        status = b.pool.status("a")
        assert (status.value, status.waiting, status.held) == ("downloading", 10, {})
        assert status.progress
        assert status.progress.value == 0.5
        hub.gates["a"].set_result(None)
        for wish in wishes:
            (await wish).release()
        assert (hub.begun, b.node.loads()) == (["a"], 1)
        told = [item["event"] for _ in range(5) if (item := await news.next(1))]
        assert told == ["status_change", "download_progress", "models_reload", "download_finished", "model_status"]


async def test_a_failed_download_is_told_as_the_hub_says_it() -> None:  # B-H4
    async with hub_bench("a") as (b, hub), b.pool.feed.subscribe() as news:
        wishes = [asyncio.create_task(b.lease("a")) for _ in range(3)]
        await begun(b, hub, "a")
        hub.gates["a"].set_exception(errors.HubUnavailable("the hub is busy", retry_after=33.0))
        for wish in wishes:
            error = await refused(wish, errors.HubUnavailable)
            assert (error.message, error.retry_after) == ("the hub is busy", 33.0)
        assert (b.pool.status("a").failed, b.pool.status("a").failure) == (True, "the hub is busy")
        events = [item for _ in range(3) if (item := await news.next(1))]
        assert (events[-1]["event"], events[-1]["data"]["error"]) == ("download_failed", "the hub is busy")


async def test_a_download_without_a_model_has_failed() -> None:  # B-H4
    async with hub_bench("a") as (b, hub):
        hub.arrive = lambda name: asyncio.sleep(0)  # type: ignore[method-assign]
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        hub.gates["a"].set_result(None)
        assert "still not there" in (await refused(wish, errors.UpstreamFailed)).message


async def test_a_defect_of_the_hub_leaves_nothing_behind() -> None:
    async with hub_bench("a") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        hub.gates["a"].set_exception(ZeroDivisionError())
        assert "a defect" in (await refused(wish, errors.RouterError)).message
        assert b.state("a") is State.FAILED


async def test_an_unload_ends_a_download_and_late_news_of_it_are_none() -> None:  # B-L10
    async with hub_bench("a") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        late, gate = hub.on_part, hub.gates.pop("a")
        b.pool.unload("a")
        assert hub.forgotten == ["a"]  # before anybody can want it again
        await refused(wish, errors.Cancelled)
        late(Part("http://hub/file", 10, 10, "0" * 64))
        assert (b.pool.status("a").value, b.pool.parts("a")) == ("unloaded", ())
        again = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        assert gate.cancelled()
        late(Part("http://hub/file", 10, 10, "0" * 64))
        assert [part.done for part in b.pool.parts("a")] == [5]
        hub.gates["a"].set_result(None)
        (await again).release()


async def test_an_abort_while_the_files_arrive() -> None:
    async with hub_bench("a") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        hub.gates["a"].set_result(None)
        b.pool.unload("a")
        await refused(wish, errors.Cancelled)
        await hub.arrive("a")
        await b.use("a")
        assert hub.begun == ["a"]


async def test_a_preset_that_names_another_repository_during_the_download() -> None:
    async with hub_bench("a") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        old = hub.gates.pop("a")
        await b.pool.replace(Catalog([there("a", "user/other:Q8_0")]))
        await begun(b, hub, "a")
        assert old.cancelled()
        await b.pool.replace(Catalog([there("a", "user/other:Q8_0", priority=1)]))
        assert not hub.gates["a"].cancelled(), "it is still the same"
        await b.pool.replace(Catalog([here("a", "user--third")]))
        (await wish).release()
        assert hub.gates["a"].cancelled()
        assert hub.begun == ["a", "a"]


async def test_what_another_program_downloads_meanwhile_is_waited_for() -> None:
    async with hub_bench("a") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        await hub.arrive("a")
        assert b.state("a") is State.DOWNLOADING
        hub.gates["a"].set_result(None)
        (await wish).release()


async def test_a_model_that_goes_from_the_catalog_takes_its_download_along() -> None:
    async with hub_bench("a", "b") as (b, hub):
        wish = asyncio.create_task(b.lease("a"))
        await begun(b, hub, "a")
        await b.pool.replace(Catalog([there("b")]))
        await refused(wish, errors.Cancelled)
        await b.until(lambda: hub.gates["a"].cancelled())


async def test_downloads_that_wait_for_others_are_shown_and_bounded() -> None:
    limits = Limits(margins={RAM: GIB}, downloads_max=1)
    async with hub_bench("a", "b", "c", limits=limits) as (b, hub):
        b.pool.QUEUED = 1
        b.pool.pull("a")
        await begun(b, hub, "a")
        before = b.pool.version()
        b.pool.pull("b")
        assert b.pool.version() > before
        assert (b.pool.status("b").value, hub.begun) == ("downloading", ["a"])
        with pytest.raises(errors.QueueFull):
            b.pool.pull("c")
        b.pool.pull("b")  # is not one more
        b.pool.unload("b")
        assert b.pool.status("b").value == "unloaded"
        b.pool.pull("c")
        hub.gates["a"].set_result(None)
        await begun(b, hub, "c")
        assert hub.begun == ["a", "c"]


async def test_what_was_only_wanted_goes_with_its_download() -> None:
    async with hub_bench("a") as (b, hub):
        wanted = replace(there("user/m:Q8_0"), source="cache")
        b.pool.catalog = Catalog([*b.pool.catalog.models, wanted])
        b.pool.pull("user/m:Q8_0")
        await begun(b, hub, "user/m:Q8_0")
        b.pool.unload("user/m:Q8_0")
        assert [spec.name for spec in b.pool.catalog.models] == ["a"]


async def test_a_download_that_nobody_waits_for_is_forgotten_where_that_is_set() -> None:  # B-S16
    limits = Limits(margins={RAM: GIB}, downloads_max=1, finish_loads=False)
    async with hub_bench("a", "b", "c", limits=limits) as (b, hub):
        b.pool.catalog = Catalog([replace(spec, source="cache") for spec in b.pool.catalog.models])
        wishes = [asyncio.create_task(b.lease(name)) for name in "aabc"]
        await begun(b, hub, "a")
        await b.until(lambda: b.pool.is_fetching("c"))

        async def leave(wish: asyncio.Task[Lease]) -> None:
            wish.cancel()
            await asyncio.wait({wish})

        await leave(wishes[0])
        assert hub.forgotten == []
        await leave(wishes[1])
        assert hub.forgotten == ["a"]
        await leave(wishes[3])  # has not begun
        assert hub.forgotten == ["a", "c"]
        assert [spec.name for spec in b.pool.catalog.models] == ["b"]
        b.node.autoload = False
        await begun(b, hub, "b")
        hub.gates["b"].set_result(None)
        await b.until(lambda: b.state("b") is State.LOADING)
        await leave(wishes[2])
        assert hub.forgotten == ["a", "c"], "its files are here"
        assert [spec.name for spec in b.pool.catalog.models] == ["b"]


async def test_the_end_takes_the_downloads_along() -> None:
    async with hub_bench("a", "b", limits=Limits(downloads_max=1)) as (b, hub):
        wishes = [asyncio.create_task(b.lease(name)) for name in "ab"]
        await begun(b, hub, "a")
        await b.pool.close()
        for wish in wishes:
            await refused(wish, errors.Cancelled)
        assert (hub.gates["a"].cancelled(), hub.begun, hub.ended) == (True, ["a"], True)
        with pytest.raises(errors.Cancelled):
            b.pool.pull("a")


async def test_settings_for_a_model_that_is_not_here_yet() -> None:  # B-L1
    async with hub_bench("a") as (b, hub):
        load = asyncio.create_task(b.pool.load("a", Wish({"ctx_size": 512})))
        await begun(b, hub, "a")
        hub.gates["a"].set_result(None)
        assert (await load).status == "loaded"
        assert "--ctx-size" in b.node.of("a").launch.args
        assert hub.begun == ["a"]
        assert b.pool.asked("a").as_json()["ctx_size"] == 512
