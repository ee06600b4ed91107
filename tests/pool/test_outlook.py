"""What a load would meet is what it meets then: each case is looked at, and then done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from router.engine import flags
from router.node.interface import Slept
from router.pool.settings_patch import read_patch
from router.scheduling import policy
from router.scheduling.policy import Drain, Evict, Place, Reject
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.fakes import GIB
from tests.pool.bench import TABLE, SettingsBench, model, settings_bench
from tests.waiting import eventually

NAMES = ("a", "b", "c")


async def unloaded(b: SettingsBench) -> None:
    pass


async def loaded(b: SettingsBench) -> None:
    await b.use("a")


async def asleep(b: SettingsBench) -> None:
    (await b.use("a")).launch.on_event(Slept())
    b.node.held["a"] = {}  # it has freed its weights


async def loading(b: SettingsBench) -> None:
    b.node.autoload = False
    b.node.footprints["a"] = b.node.held["a"]
    b.requests.append(asyncio.create_task(b.use("a")))
    await eventually(lambda: b.state("a") is State.LOADING and b.node.loads("a"))
    b.node.autoload = True


async def failed(b: SettingsBench) -> None:
    (await b.use("a")).die()
    await eventually(lambda: b.state("a") is State.FAILED)


async def unloaded_with_settings(b: SettingsBench) -> None:
    await b.load("a", extra_args=["--top-k", "20"])
    b.pool.unload("a")
    await eventually(lambda: b.state("a") is State.UNLOADED)


# GiB of a context of so many thousand tokens; a model has 10 more. The machine has 63 for models.
@pytest.mark.parametrize("arrange", [unloaded, loaded, asleep, loading, failed, unloaded_with_settings])
@pytest.mark.parametrize("others", [(), ("b",), ("b", "c")])
@pytest.mark.parametrize("context", [0, 20, 40, 60])
async def test_what_a_load_would_evict_is_what_it_evicts(
    arrange: Callable[[SettingsBench], Awaitable[None]], others: tuple[str, ...], context: int
) -> None:  # B-D10
    async with settings_bench(*map(model, NAMES)) as b:
        b.need = lambda spec: 10 * GIB + int(flags.value_of(spec.args, "--ctx-size") or 0) * GIB
        for other in others:
            await b.use(other)
        await arrange(b)
        body = {"ctx_size": context} if context else {}
        before = b.node.loads(), [child.pid for child in b.node.alive], b.pool.status("a")
        seen = await b.pool.settings.outlook("a", read_patch(body, TABLE))
        assert (b.node.loads(), [child.pid for child in b.node.alive], b.pool.status("a")) == before
        plan = policy.plan(seen.machine, Demand(host=b.need(seen.spec)))
        alive = {child.launch.model for child in b.node.alive} - {"a"}
        load = asyncio.create_task(b.load("a", **body))
        if arrange is loading and not context:
            b.node.of("a").load()
        if context == 60:
            assert isinstance(plan, Reject)
            with pytest.raises(Exception, match="it needs"):
                await load
            assert {child.launch.model for child in b.node.alive} - {"a"} == alive
            b.node.of("a").load() if arrange is loading else None
            return
        assert (await load).status == ("already_loaded" if seen.running else "loaded")
        gone = alive - {child.launch.model for child in b.node.alive}
        if seen.running:
            assert not gone
        else:
            assert isinstance(plan, Place | Evict)
            assert gone == set(plan.victims if isinstance(plan, Evict) else ())
        assert bool(seen.running) == (not context and arrange in (loaded, asleep, loading))
        assert bool(seen.ending) == (bool(context) and arrange in (loaded, asleep, loading))


async def test_settings_that_hold_count_and_those_of_the_question_come_over_them() -> None:  # B-D10
    async with settings_bench() as b:
        await b.load(extra_args=["--top-k", "20"], cache_type_k="q8_0")
        pid = b.node.of("a").pid
        for body, argv in (
            ({}, ["--cache-type-k", "q8_0", "--top-k", "20"]),
            ({"ctx_size": 4096}, ["--ctx-size", "4096", "--cache-type-k", "q8_0", "--top-k", "20"]),
            ({"cache_type_k": None, "extra_args": []}, []),
        ):
            seen = await b.pool.settings.outlook("a", read_patch(body, TABLE))
            assert list(seen.spec.argv[2:]) == argv
            assert bool(seen.running) == (not body)
        assert b.node.of("a").pid == pid
        assert b.pool.settings.requested("a").cache_type_k == "q8_0"


async def test_a_busy_process_ends_when_its_requests_have_ended() -> None:  # B-D10
    async with settings_bench() as b:
        lease = await b.lease("a")
        seen = await b.pool.settings.outlook("a", read_patch({"ctx_size": 4096}, TABLE))
        assert seen.ending == "Its process ends once its requests have ended."
        assert not isinstance(policy.plan(seen.machine, Demand(host=50 * GIB)), Drain)
        lease.release()
