"""Leases: granted, refused, cancelled and released; on a machine without processes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from router import errors
from router.pool.settings_patch import SettingsPatch
from router.scheduling.limits import Limits
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB
from tests.pool.bench import RAM, bench, refused, settings_bench
from tests.waiting import eventually


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
        assert b.pool.processes.evictions == b.node.loads() - 1


async def test_the_least_recently_finished_model_is_evicted() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        long = await b.lease("a")
        await b.use("b")
        long.release()  # a began before b and finished after it
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["a", "c"]


async def test_an_unused_lease_does_not_keep_its_model() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        await b.use("a")
        await b.use("b")
        (await b.pool.lease(b.specs["a"], used=False)).release()
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["b", "c"]


async def test_a_waiting_client_that_leaves_costs_nothing() -> None:  # B-S8
    async with bench("a", "b", need=40 * GIB) as b:
        lease = await b.lease("a")
        waiting = asyncio.create_task(b.lease("b"))
        await eventually(lambda: b.pool.status("b").waiting == 1)
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
        await eventually(lambda: bool(b.node.alive))
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
        assert (b.pool.status("a").waiting, b.node.of("a").stops) == (1, 0)
        b.node.of("a").load()
        (await second).release()
        assert b.node.loads() == 1


async def test_an_abandoned_load_is_stopped_without_finish_loads() -> None:  # B-S16
    limits = Limits(margins={RAM: GIB}, finish_loads=False)
    async with bench("a", limits=limits) as b:
        b.node.autoload = False
        only = asyncio.create_task(b.lease("a"))
        await eventually(lambda: bool(b.node.alive))
        only.cancel()
        await eventually(lambda: b.state("a") is State.UNLOADED)
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
        await eventually(lambda: b.pool.status("a").leases == 0)


async def test_a_cancel_at_the_moment_of_ready_leaks_no_lease() -> None:  # B-S2
    async with bench("a") as b:
        b.node.autoload = False
        task = asyncio.create_task(b.lease("a"))
        await eventually(lambda: bool(b.node.alive))
        b.node.of("a").load()
        while b.state("a") is not State.LOADED:  # the grant is out, but the task has not run yet
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await eventually(lambda: b.pool.status("a").leases == 0)


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


async def test_memory_that_another_program_frees_is_used() -> None:  # B-S12
    limits = Limits(margins={RAM: GIB}, poll=0.01)
    async with bench("a", need=40 * GIB, limits=limits) as b:
        b.node.foreign[RAM] = 40 * GIB
        request = asyncio.create_task(b.lease("a"))
        await eventually(lambda: len(b.node.probes) > 2)
        assert not request.done()
        b.node.foreign.clear()
        (await request).release()


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


async def test_a_steady_stream_on_one_model_does_not_starve_another() -> None:  # B-S7
    async with bench("a", "b", need=40 * GIB) as b:
        stop = asyncio.Event()

        async def traffic() -> None:
            while not stop.is_set():
                await b.use("a", 0.01)

        busy = [asyncio.create_task(traffic()) for _ in range(4)]
        await eventually(lambda: b.pool.status("a").leases == 4)
        async with asyncio.timeout(5):
            await b.use("b")
        stop.set()
        await asyncio.gather(*busy)


async def test_unload_lets_running_requests_end_and_refuses_waiting_ones() -> None:  # B-L10
    async with bench("a") as b:
        lease = await b.lease("a")
        b.pool.unload("a")
        assert b.node.of("a").stops == 0
        late = asyncio.create_task(b.lease("a"))
        await eventually(lambda: b.pool.status("a").waiting == 1)
        b.pool.unload("a")
        await refused(late, errors.Cancelled)
        lease.release()
        await eventually(lambda: b.state("a") is State.UNLOADED)


async def test_an_unload_cancels_a_request_whose_model_is_still_being_estimated() -> None:  # B-L10
    async with settings_bench() as b:
        release = b.slow_estimates()
        request = asyncio.create_task(b.use())
        load = asyncio.create_task(b.load())
        await eventually(lambda: b.estimating == 1)
        b.pool.unload("a")
        release.set()
        for waiting in (request, load):
            with pytest.raises(errors.Cancelled, match="it was unloaded"):
                await waiting
        assert b.node.loads() == 0


async def test_closing_refuses_waiting_requests() -> None:
    async with bench("a") as b:
        b.node.autoload = False
        request = asyncio.create_task(b.lease("a"))
        await eventually(lambda: bool(b.node.alive))
        closing = asyncio.create_task(b.pool.close())
        await refused(request, errors.Cancelled)
        await closing
        await refused(b.lease("a"), errors.Cancelled)


async def test_the_end_waits_for_running_requests_unless_forced() -> None:  # B-S3
    async with bench("a", "b", "c") as b:
        await b.use("a")
        lease = await b.lease("b")
        request = asyncio.create_task(b.lease("c"))
        await asyncio.sleep(0)
        b.pool.end()
        await refused(request, errors.Cancelled)
        await refused(b.lease("b"), errors.Cancelled)
        await eventually(lambda: b.state("a") is State.UNLOADED)
        assert b.state("b") is State.LOADED
        b.pool.end(force=True)
        await eventually(lambda: b.state("b") is State.UNLOADED)
        lease.release()


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


async def test_an_unused_lease_at_once_does_not_keep_its_model() -> None:  # B-S10
    async with bench("a", "b", "c") as b:
        await b.use("a")
        await b.use("b")
        lease = b.pool.lease_at_once(b.specs["a"], used=False)
        assert lease
        lease.release()
        await b.use("c")
        assert [child.launch.model for child in b.node.alive] == ["b", "c"]


async def test_a_lease_at_once_keeps_its_model_from_eviction() -> None:  # B-S3 B-S7
    async with bench("a", "b", need=40 * GIB) as b:
        await b.use("a")
        lease = b.pool.lease_at_once(b.specs["a"])
        assert lease
        other = asyncio.create_task(b.lease("b"))
        await eventually(lambda: not b.is_open("a"))
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


async def test_no_lease_at_once_of_a_model_that_does_not_serve() -> None:  # B-L10 B-S14
    async with bench("a") as b:
        b.node.autoload = False
        task = asyncio.create_task(b.lease("a"))
        await eventually(lambda: b.state("a") is State.LOADING and bool(b.node.children))
        assert not b.is_open("a"), "loading"
        b.node.of("a").load()
        lease = await task
        assert b.is_open("a")
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        assert b.state("a") is State.LOADED
        assert not b.is_open("a"), "closing"
        lease.release()
        await eventually(lambda: b.state("a") is State.STOPPING)
        assert not b.is_open("a"), "stopping"
        b.node.of("a").may_stop.set()
        await eventually(lambda: b.state("a") is State.UNLOADED)
        assert not b.is_open("a"), "gone"
        b.node.autoload = True
        await b.use("a")
        b.node.of("a").die()
        await eventually(lambda: b.state("a") is State.FAILED)
        assert not b.is_open("a"), "failed"
        assert b.node.loads() == 2


async def test_no_lease_at_once_after_the_end() -> None:
    async with bench("a") as b:
        lease = await b.lease("a")
        b.pool.end()
        assert not b.is_open("a")
        lease.release()


async def test_no_lease_at_once_while_new_settings_wait() -> None:  # B-L9
    """A request that comes while the old process ends gets the new one."""
    async with bench("a") as b:
        lease = await b.lease("a")
        load = asyncio.create_task(b.pool.settings.load("a", SettingsPatch({"ctx_size": 4096})))
        await eventually(lambda: not b.is_open("a"))
        waiting = asyncio.create_task(b.lease("a"))
        assert b.state("a") is State.LOADED
        lease.release()
        assert (await load).status == "loaded"
        lease = await waiting
        assert lease.address == b.node.of("a").address
        lease.release()
        assert b.node.loads() == 2


async def test_a_lease_of_a_dead_process_does_not_count_for_the_next() -> None:  # B-S2
    async with bench("a") as b:
        await b.use("a")
        old = b.pool.lease_at_once(b.specs["a"])
        assert old
        b.node.of("a").die()
        await eventually(lambda: b.state("a") is State.FAILED)
        new = await b.lease("a")
        old.release()
        assert b.pool.status("a").leases == 1
        new.release()
        assert b.pool.status("a").leases == 0


async def test_reprs_tell_the_state_and_no_key() -> None:
    async with bench("a") as b:
        lease = await b.lease("a")
        run = b.pool.processes.runs["a"]
        assert repr(b.pool) == "<Pool 1 models, <Processes a; 1 loads, 0 evictions>, 0 waiting>"
        assert repr(run) == f"<ChildRun 1 of a, pid {b.node.of('a').pid}>"
        assert repr(lease).endswith("held>")
        assert lease.key not in repr(lease)
        lease.release()
        assert repr(lease).endswith("released>")
        b.pool.unload("a")
        assert "stopping (unloaded)" in repr(run)
