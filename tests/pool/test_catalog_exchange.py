"""A new catalog: what it drains, what it leaves alone, what it starts."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router import errors
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.fakes import GIB, FakeChild, FakeNode
from tests.pool.bench import HUGE, ODD, SettingsBench, bench, model, need_of, refused, settings_bench, spec
from tests.waiting import eventually


async def test_a_new_catalog_stops_only_what_changed() -> None:  # B-L13
    async with bench("a", "b", need=10 * GIB) as b:
        await b.use("a")
        await b.use("b")
        changed = spec("b", env=(("X", "1"),))
        changes = await b.pool.exchange.replace(Catalog((b.specs["a"], changed, spec("c"))))
        assert (changes.added, changes.changed, changes.kept) == (("c",), ("b",), ("a",))
        await eventually(lambda: b.state("b") is State.UNLOADED)
        assert b.state("a") is State.LOADED


async def test_a_request_that_waits_for_a_changed_model_gets_the_new_one() -> None:  # B-L13
    async with bench("a", "b", need=60 * GIB) as b:
        lease = await b.lease("a")
        request = asyncio.create_task(b.lease("b"))
        await eventually(lambda: b.pool.status("b").waiting == 1)
        changed = spec("b", env=(("X", "1"),))
        await b.pool.exchange.replace(Catalog((b.specs["a"], changed)))
        assert not request.done()
        lease.release()
        (await request).release()
        assert b.node.of("b").launch.env == changed.env


async def test_a_catalog_that_is_replaced_during_an_estimate_counts() -> None:  # B-L13
    old, new, kept = spec("a"), spec("a", env=(("X", "1"),)), spec("b")
    estimating, answer = threading.Event(), threading.Event()

    def need(which: ModelSpec) -> Need:
        if which is old or which is kept:
            estimating.set()
            answer.wait(5)
            return Need(Demand(), ("--old",))
        return Need(Demand(), ("--new",))

    node = FakeNode()
    pool = Pool(Catalog((old, kept)), [node], Limits(), need)
    request = asyncio.create_task(pool.lease(old))
    await asyncio.to_thread(estimating.wait, 5)
    await pool.exchange.replace(Catalog((new,)))
    (await pool.lease(new)).release()
    answer.set()
    (await request).release()
    assert [(child.launch.args, child.launch.env) for child in node.children] == [(("--new",), new.env)]
    await refused(pool.lease(kept), errors.UnknownModel)
    await pool.close()


async def test_startup_loads_go_as_far_as_the_count_limit() -> None:  # B-L13
    limits = Limits(models_max=1)
    async with bench(*(spec(name, load_on_startup=True) for name in "ab"), limits=limits) as b:
        await b.pool.exchange.load_on_startup()
        assert [child.launch.model for child in b.node.alive] == ["a"]


async def test_a_new_preset_keeps_the_settings_requested_over_it() -> None:  # B-L13
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.load(ctx_size=8192)
        child = b.node.of("a")
        changes = await b.pool.exchange.replace(Catalog([model("a", "--ctx-size", "1024")]))
        assert (changes.kept, child.is_alive) == (("a",), True)
        changes = await b.pool.exchange.replace(Catalog([model("a", "--seed", "1")]))
        assert changes.changed == ("a",)
        await b.use()
        assert b.argv() == ["--seed", "1", "--ctx-size", "8192"]


async def test_a_new_preset_cancels_the_load_it_changes_and_serves_the_others() -> None:  # B-L13
    async with settings_bench() as b:
        await b.use()
        load = await b.begin_load(ctx_size=8192)
        request = asyncio.create_task(b.use())
        await eventually(lambda: b.pool.status("a").waiting == 2)
        b.node.autoload = True
        await b.pool.exchange.replace(Catalog([model("a", "--seed", "1")]))
        with pytest.raises(errors.Cancelled, match="changed meanwhile"):
            await load
        assert (await request).launch.args[2:] == ("--seed", "1")


async def test_what_a_new_preset_wants_at_startup_is_started() -> None:  # B-L13
    async with settings_bench(model("a", load_on_startup=True), model("b")) as b:
        await b.pool.exchange.load_on_startup()
        await b.use("b")
        after = [
            model("a", "--seed", "1", load_on_startup=True),
            model("b", "--seed", "1"),
            model("c", load_on_startup=True),
        ]
        await b.pool.exchange.replace(Catalog(after))
        await eventually(lambda: [b.pool.state(name) for name in "ac"] == [State.LOADED] * 2)
        await eventually(lambda: b.pool.state("b") is State.UNLOADED)


async def test_a_new_preset_cancels_a_load_that_returns_to_the_old_one() -> None:  # B-L13
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.load(ctx_size=8192)
        load = await b.begin_load(ctx_size=None)
        b.node.autoload = True
        await b.pool.exchange.replace(Catalog([model("a", "--ctx-size", "1024")]))
        with pytest.raises(errors.Cancelled, match="changed meanwhile"):
            await load
        await b.use()
        assert b.argv() == ["--ctx-size", "8192"]


async def test_a_load_that_changes_nothing_is_compared_again_after_a_new_preset() -> None:  # B-L13
    async with settings_bench() as b:
        load = await b.begin_load(ctx_size=0)  # as it is, but requested
        b.node.autoload = True
        await b.pool.exchange.replace(Catalog([model("a", "--ctx-size", "1024")]))
        await load
        assert b.pool.settings.requested("a").ctx_size == 0
        assert b.argv() == []


async def test_a_new_preset_is_booked_with_the_settings_requested_meanwhile() -> None:  # B-L13
    async with settings_bench() as b:
        await b.use()
        release = b.slow_estimates()
        replaced = asyncio.create_task(b.pool.exchange.replace(Catalog([model("a", "--seed", "1")])))
        await eventually(lambda: b.estimating == 1)
        b.fast_estimates()
        await b.load(ctx_size=4096)
        lease = await b.lease("a")
        release.set()
        await replaced
        assert b.pool.need("a") == need_of(b.pool.effective("a"))
        lease.release()


@pytest.mark.parametrize("context", [ODD, HUGE])
async def test_a_change_that_can_never_be_loaded_ends_nothing(context: int) -> None:  # B-L15
    async with settings_bench() as b:
        child = await b.use()
        bad = model("a", "--ctx-size", str(context))
        changes = await b.pool.exchange.replace(Catalog([bad]))
        assert changes.changed == ("a",)
        assert await b.use() is child  # requests are served by what runs
        with pytest.raises(errors.RouterError):
            await b.load()
        assert child.is_alive
        await b.pool.exchange.replace(Catalog([model("a")]))  # the preset is mended
        assert await b.use() is child
        await b.pool.exchange.replace(Catalog([model("a", "--ctx-size", "4096")]))
        assert await b.use() is not child
        assert b.argv() == ["--ctx-size", "4096"]


async def test_a_change_is_compared_with_what_a_pending_load_would_leave() -> None:  # B-L13
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        load = await b.begin_load(ctx_size=8192)
        request = asyncio.create_task(b.use())
        await eventually(lambda: b.pool.status("a").waiting == 2)
        b.node.autoload = True
        await b.pool.exchange.replace(Catalog([model("a", "--ctx-size", "1024")]))
        b.node.of("a").die()
        with pytest.raises(errors.RouterError):
            await load
        assert (await request).launch.args[2:] == b.pool.effective("a").argv[2:]


CHANGED = model("a", "--seed", "7")


async def change(b: SettingsBench, changed: ModelSpec = CHANGED) -> tuple[asyncio.Task[FakeChild], FakeChild]:
    """Change the preset of `a`, which serves. A request, and the process that is loaded for it."""
    b.node.autoload = False
    before = b.node.loads()
    await b.pool.exchange.replace(Catalog([changed]))
    request = asyncio.create_task(b.use())
    await eventually(lambda: b.node.loads() == before + 1)
    return request, b.node.of("a")


@pytest.mark.parametrize("fails_twice", [False, True], ids=["refused", "out of memory"])
async def test_a_change_that_fails_while_it_loads_brings_the_settings_before_it_back(fails_twice: bool) -> None:
    # B-L15
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        need = b.pool.need("a")
        request, first = await change(b)
        assert first.launch.args[2:] == ("--seed", "7")
        first.die(1, "unknown flag", out_of_memory=fails_twice)
        if fails_twice:
            await eventually(lambda: b.node.loads() == 3)
            assert b.argv() == ["--seed", "7"], "what runs out of memory is tried once more"
            b.node.of("a").die(1, "unknown flag", out_of_memory=True)
        b.node.autoload = True
        assert (await request).launch.args[2:] == ("--ctx-size", "2048"), "the client never notices"
        status = b.pool.status("a")
        assert (status.warning, status.failed) == ("unknown flag", False)
        assert b.pool.need("a") == need
        # It stays so.
        loads = b.node.loads()
        await b.pool.exchange.replace(Catalog([CHANGED]))
        b.pool.unload("a")
        await eventually(lambda: b.state("a") is State.UNLOADED)
        await b.use()
        assert (b.argv(), b.node.loads()) == (["--ctx-size", "2048"], loads + 1)


async def test_the_next_change_is_tried_anew() -> None:  # B-L15
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        request, first = await change(b)
        first.die()
        b.node.autoload = True
        await request
        # Another change, one that is made before it is known whether that works, and at last the first one again.
        request, second = await change(b, model("a", "--seed", "8"))
        assert second.launch.args[2:] == ("--seed", "8")
        await b.pool.exchange.replace(Catalog([CHANGED]))
        await eventually(lambda: b.node.loads() == 5)
        assert b.argv() == ["--seed", "7"]
        b.node.of("a").die(1, "unknown flag")
        b.node.autoload = True
        assert (await request).launch.args[2:] == ("--ctx-size", "2048")
        request, _ = await change(b, model("a", "--seed", "9"))
        b.node.autoload = True
        b.node.of("a").load()
        assert (await request).launch.args[2:] == ("--seed", "9")
        assert b.pool.status("a").warning == ""


async def test_an_explicit_load_tries_a_failed_change_again() -> None:  # B-L15
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        request, first = await change(b)
        first.die()
        b.node.autoload = True
        await request
        assert (await b.load()).status == "loaded"
        assert (b.argv(), b.pool.status("a").warning) == (["--seed", "7"], "")
        assert (await b.use()).launch.args[2:] == ("--seed", "7")


async def test_what_fails_after_it_has_served_is_no_failed_change() -> None:  # B-L15
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        request, first = await change(b)
        b.node.autoload = True
        first.load()
        (await request).die()
        await eventually(lambda: b.state("a") is not State.LOADED)
        await b.use()
        assert (b.argv(), b.pool.status("a").warning) == (["--seed", "7"], "")


async def test_a_gpu_that_is_lost_is_no_fault_of_a_change() -> None:  # B-L15
    async with settings_bench(model("a", "--ctx-size", "2048")) as b:
        await b.use()
        request, first = await change(b)
        first.die(device_lost=True)
        await eventually(lambda: b.node.loads() == 3)
        b.node.of("a").die(device_lost=True)
        with pytest.raises(errors.RouterError):
            await request
        b.node.autoload = True
        await b.use()
        assert (b.argv(), b.pool.status("a").warning) == (["--seed", "7"], "")
