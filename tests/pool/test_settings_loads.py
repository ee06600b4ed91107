"""Explicit loads, with and without settings: what is kept, rolled back, started anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from router import errors
from router.engine import flags
from router.models.catalog import Catalog
from router.models.spec import Info, ModelSpec
from router.node.interface import Launch
from router.pool.settings_patch import read_patch
from router.scheduling.states import State
from tests.fakes import GIB, FakeChild
from tests.pool.bench import BAD, HUGE, ODD, TABLE, bench, hub_bench, model, refused, settings_bench
from tests.waiting import eventually


async def test_an_explicit_load_and_unload() -> None:
    async with bench("a") as b:
        await b.pool.settings.load("a")
        assert b.pool.is_running("a")
        b.pool.unload("a")
        await eventually(lambda: b.state("a") is State.UNLOADED)


async def test_a_failed_load_raises_its_error() -> None:
    async with bench("a", need=64 * GIB) as b:
        await refused(b.pool.settings.load("a"), errors.ModelTooLarge)


async def test_an_explicit_load_clears_the_failures() -> None:  # B-S14
    async with bench("a") as b:
        for _ in range(3):
            await b.pool.settings.load("a")
            b.node.of("a").die()
            await eventually(lambda: b.state("a") is State.FAILED)
        assert b.node.loads() == 3


async def test_the_same_settings_are_the_same_process() -> None:  # B-L1 B-L5
    async with settings_bench() as b:
        assert (await b.load(ctx_size=8192, cache_type_k="q8_0")).status == "loaded"
        for _ in range(10):
            assert (await b.load(ctx_size=8192, cache_type_k="q8_0")).status == "already_loaded"
            assert (await b.load()).status == "already_loaded"
        assert b.node.loads() == 1
        assert b.argv() == ["--ctx-size", "8192", "--cache-type-k", "q8_0"]


async def test_other_settings_restart_the_process_and_keep_earlier_ones() -> None:  # B-L1 B-L3 B-L5
    async with settings_bench() as b:
        await b.load(extra_args=["--top-k", "20", "--seed", "42"])
        answer = await b.load(ctx_size=4096, cache_type_k="q8_0", cache_type_v="q8_0")
        assert answer.status == "loaded"
        assert answer.changed == {
            "--ctx-size": (None, "--ctx-size 4096"),
            "--cache-type-k": (None, "--cache-type-k q8_0"),
            "--cache-type-v": (None, "--cache-type-v q8_0"),
        }
        assert b.argv() == [
            *("--ctx-size", "4096", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--top-k", "20", "--seed", "42")
        ]
        assert (b.node.loads(), len(b.node.alive)) == (2, 1)


async def test_extra_arguments_are_kept_cleared_and_replaced_over_an_unload() -> None:  # B-L3
    async with settings_bench() as b:
        await b.load(extra_args=["--top-k", "20"])
        for body, expected in (
            ({}, ["--top-k", "20"]),
            ({"extra_args": None}, ["--top-k", "20"]),
            ({"extra_args": []}, []),
            ({}, []),
            ({"extra_args": ["--seed", 7]}, ["--seed", "7"]),
        ):
            b.pool.unload("a")
            await eventually(lambda: b.pool.state("a") is State.UNLOADED)
            assert (await b.load(**body)).status == "loaded"
            assert b.argv() == expected
        assert await b.use() is b.node.of("a")
        assert b.argv() == ["--seed", "7"]


async def test_a_request_is_served_with_the_settings_of_a_load() -> None:  # B-L3
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        b.pool.unload("a")
        await eventually(lambda: b.pool.state("a") is State.UNLOADED)
        await b.use()
        assert b.argv() == ["--ctx-size", "4096"]


async def test_settings_are_compared_as_requested() -> None:  # B-L2
    async with settings_bench() as b:
        await b.load(ctx_size=8192)
        first = b.node.of("a")
        assert (await b.load(ctx_size=0)).status == "loaded"
        assert b.node.of("a") is not first
        assert b.argv() == []


async def test_a_null_setting_is_the_models_own_again() -> None:
    async with settings_bench(model("a", "--ctx-size", "2048", "--seed", "1")) as b:
        await b.load(ctx_size=8192)
        assert b.argv() == ["--seed", "1", "--ctx-size", "8192"]
        await b.load(ctx_size=0)
        assert b.argv() == ["--seed", "1"]
        await b.load(ctx_size=None)
        assert b.argv() == ["--ctx-size", "2048", "--seed", "1"]


async def test_an_inherited_context_and_ten_bare_loads_are_one_process() -> None:  # B-L5
    async with settings_bench() as b:
        await b.load(extra_args=["-c", "4096"])
        answers = await asyncio.gather(*(b.load() for _ in range(10)))
        assert {answer.status for answer in answers} == {"already_loaded"}
        assert b.node.loads() == 1


async def test_extra_arguments_replace_the_field_that_set_the_same() -> None:  # B-L5
    async with settings_bench() as b:
        await b.load(ctx_size=8192, cache_type_k="q8_0")
        await b.load(extra_args=["-c", "4096"])
        assert b.argv() == ["--cache-type-k", "q8_0", "--ctx-size", "4096"]
        assert b.pool.settings.requested("a").ctx_size is None


async def test_settings_stay_with_their_model() -> None:  # B-L4
    async with settings_bench(model("a"), model("b")) as b:
        await b.load("a", extra_args=["--top-k", "20"], ctx_size=4096)
        await b.load("b")
        assert b.argv("b") == []


async def test_a_name_that_means_another_file_now_inherits_nothing() -> None:  # B-L4
    def cached(revision: str) -> ModelSpec:
        path = f"/hub/models--u--r/snapshots/{revision}/x-Q4_K_M.gguf"
        args = flags.parse(("--model", path), TABLE)
        return ModelSpec("u/r:Q4_K_M", "cache", args, model_path=Path(path))

    async with settings_bench(cached("1")) as b:
        await b.load("u/r", ctx_size=4096)
        await b.pool.exchange.replace(Catalog([cached("2")]))  # another revision of the same
        assert b.pool.settings.requested("u/r").ctx_size == 4096
        other = ModelSpec("u/r:Q4_K_M", "preset", flags.parse(("--model", "other.gguf"), TABLE))
        await b.pool.exchange.replace(Catalog([other]))
        assert b.pool.settings.requested("u/r").ctx_size is None


async def test_a_name_without_its_quant_means_the_loaded_model() -> None:  # B-L4
    async with settings_bench(model("u/r:Q4_K_M")) as b:
        await b.load("u/r:Q4_K_M", ctx_size=4096)
        assert (await b.load("u/r")).status == "already_loaded"


async def test_a_failed_load_leaves_the_old_settings() -> None:  # B-L8
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        load = await b.begin_load(ctx_size=8192)
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed, match="it ended with code 1"):
            await load
        assert b.pool.settings.requested("a").ctx_size == 4096
        b.node.autoload = True
        await b.use()
        assert b.argv() == ["--ctx-size", "4096"]


async def test_a_failed_load_fails_no_other_request() -> None:  # B-L8
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        load = await b.begin_load(ctx_size=8192)
        request = asyncio.create_task(b.use())
        await eventually(lambda: b.pool.status("a").waiting == 2)
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed):
            await load
        assert (await request).launch.args[2:] == ("--ctx-size", "4096")


async def test_settings_that_never_fit_stop_nothing() -> None:  # B-L8 B-S12
    async with settings_bench() as b:
        child = await b.use()
        with pytest.raises(errors.ModelTooLarge, match="it needs"):
            await b.load(ctx_size=HUGE)
        assert child.is_alive
        assert (await b.load()).status == "already_loaded"


async def test_running_requests_end_before_new_settings_begin() -> None:  # B-L9
    async with settings_bench() as b:
        lease = await b.lease("a")
        first = b.node.of("a")
        load = asyncio.create_task(b.load(ctx_size=4096))
        await eventually(lambda: b.pool.status("a").waiting == 1)
        late = asyncio.create_task(b.use())
        await eventually(lambda: b.pool.status("a").waiting == 2)
        assert first.is_alive
        lease.release()
        assert (await load).status == "loaded"
        assert await late is b.node.of("a")
        assert b.node.loads() == 2


async def test_parallel_loads_take_turns() -> None:  # B-L9
    async with settings_bench() as b:
        sizes = [4096, 4096, 8192, 8192, 4096]
        answers = await asyncio.gather(*(b.load(ctx_size=size) for size in sizes))
        assert [answer.status for answer in answers] == [
            "loaded",
            "already_loaded",
            "loaded",
            "already_loaded",
            "loaded",
        ]
        assert (b.node.loads(), b.node.most_alive) == (3, 1)


async def test_an_unload_and_two_parallel_loads_are_one_process() -> None:  # B-L9
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        loads = [asyncio.create_task(b.load()) for _ in range(2)]
        await eventually(lambda: b.pool.status("a").waiting)
        b.node.of("a").may_stop.set()
        assert sorted([(await load).status for load in loads]) == ["already_loaded", "loaded"]
        assert (b.node.loads(), b.node.most_alive) == (2, 1)


async def test_an_unload_cancels_every_load_before_it() -> None:  # B-L10
    async with settings_bench() as b:
        b.node.autoload = False
        loads = [asyncio.create_task(b.load(ctx_size=size)) for size in (4096, 8192, 16384)]
        await eventually(lambda: b.node.loads() == 1)
        b.pool.unload("a")
        for load in loads:
            with pytest.raises(errors.Cancelled):
                await load
        await eventually(lambda: b.pool.state("a") is State.UNLOADED)
        b.node.autoload = True
        assert (await b.load()).status == "loaded"
        assert b.argv() == []


async def test_speculation_of_a_vision_model_is_off_on_both_sides() -> None:  # B-L11
    async with settings_bench(model("a", "--mmproj", "eyes.gguf")) as b:
        child = await b.use()
        for speculation in ("ngram-mod", "default", "off", "", None):
            assert (await b.load(speculative_type=speculation)).status == "already_loaded"
        assert await b.use() is child


async def test_no_speculation_has_three_names() -> None:  # B-L11
    async with settings_bench() as b:
        child = await b.use()
        for speculation in ("off", "", None, "none"):
            assert (await b.load(speculative_type=speculation)).status == "already_loaded"
        assert await b.use() is child
        await b.load(speculative_type="ngram-mod")
        assert "--spec-ngram-mod-n-match" in b.argv()
        await b.load(speculative_type="off")
        assert b.argv() == []


async def test_a_template_is_part_of_the_launch() -> None:  # B-L12
    async with settings_bench(model("a", "--chat-template", "chatml")) as b:
        await b.load(chat_template="{{ messages }}")
        assert (b.argv(), b.node.of("a").launch.template) == ([], "{{ messages }}")
        await b.load(chat_template="llama3")
        assert (b.argv(), b.node.of("a").launch.template) == (["--chat-template", "llama3"], None)
        await b.load(chat_template="")
        assert b.argv() == []
        await b.load(chat_template=None)
        assert b.argv() == ["--chat-template", "chatml"]


async def test_a_load_that_is_refused_a_place_in_the_queue_leaves_the_process_open() -> None:  # B-L8
    async with settings_bench(queue_max=0) as b:
        lease = await b.lease("a")
        with pytest.raises(errors.QueueFull):
            await b.load(ctx_size=4096)
        assert await b.use() is b.node.of("a")
        lease.release()
        assert await b.use() is b.node.of("a")
        assert b.node.loads() == 1


async def test_an_unload_closes_what_a_load_that_it_cancels_would_have_left_open() -> None:  # B-L10
    async with settings_bench() as b:
        lease = await b.lease("a")
        load = asyncio.create_task(b.load(ctx_size=4096))
        await eventually(lambda: b.pool.status("a").waiting == 1)
        b.pool.unload("a")
        with pytest.raises(errors.Cancelled):
            await load
        lease.release()
        await eventually(lambda: b.pool.state("a") is State.UNLOADED)


async def test_failed_settings_are_served_to_no_request_even_if_the_old_need_is_unknown() -> None:  # B-L8
    async with settings_bench(model("a", "--ctx-size", str(BAD)), queue_timeout=0.6, poll=0.05) as b:
        b.node.foreign["local/RAM"] = 60 * GIB
        load = asyncio.create_task(b.load(ctx_size=4096))
        await eventually(lambda: len(b.node.probes) > 6)
        request = asyncio.create_task(b.use())
        with pytest.raises(errors.QueueTimeout):
            await load
        b.node.foreign.clear()
        with pytest.raises(errors.RouterError):
            await request
        assert b.node.loads() == 0


async def test_settings_that_served_for_a_moment_are_remembered() -> None:  # B-L8
    async with settings_bench() as b:
        b.node.brief = True
        assert (await b.load(ctx_size=4096)).status == "loaded"
        assert b.pool.settings.requested("a").ctx_size == 4096


async def test_a_process_that_dies_as_a_load_joins_it_is_no_defect() -> None:
    async with settings_bench() as b:
        b.node.brief = True
        assert (await b.load()).status == "loaded"


async def test_a_failed_load_is_rolled_back_after_models_were_described_meanwhile() -> None:  # B-L8
    async with settings_bench() as b:
        first = await b.use()
        first.may_stop.clear()
        b.node.autoload = False
        load = asyncio.create_task(b.load(ctx_size=4096))
        await eventually(lambda: b.pool.status("a").waiting == 1)
        described = Catalog([replace(model("a"), info=Info(architecture="llama"))])
        b.pool.exchange.adopt_descriptions(described, of=b.pool.catalog)
        request = asyncio.create_task(b.use())
        await eventually(lambda: b.pool.status("a").waiting == 2)
        first.may_stop.set()
        await eventually(lambda: b.node.loads() == 2)
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed):
            await load
        assert (await request).launch.args[2:] == ()


async def test_settings_of_another_file_are_gone_after_the_next_load() -> None:  # B-L4
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        here, there = model("a"), ModelSpec("a", "models_dir", flags.parse(("--model", "other.gguf"), TABLE))
        await b.pool.exchange.replace(Catalog([there]))
        await b.load()
        await b.pool.exchange.replace(Catalog([here]))
        assert b.pool.settings.requested("a").ctx_size is None


async def test_a_load_whose_name_became_an_alias_waits_for_that_model() -> None:  # B-L9
    async with settings_bench(model("a"), model("b")) as b:
        release = b.slow_estimates()
        late = asyncio.create_task(b.load("a", ctx_size=4096))
        await eventually(lambda: b.estimating == 1)
        await b.pool.exchange.replace(Catalog([model("b", aliases=("a",))]))
        b.fast_estimates()
        load = await b.begin_load("b", ctx_size=8192)
        first = b.node.of("b")
        release.set()
        await eventually(lambda: not b.estimating)
        for _ in range(20):
            await asyncio.sleep(0)
        assert first.stops == 0
        b.node.autoload = True
        first.load()
        assert [(await load).status, (await late).status] == ["loaded", "loaded"]
        assert b.pool.settings.requested("b").ctx_size == 4096


async def test_a_failure_that_no_client_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with settings_bench() as b:
        release = b.slow_estimates()
        loaded = await b.pool.settings.load("a", read_patch({"ctx_size": HUGE}, TABLE), wait=False)
        assert loaded.status == "loading"
        left = asyncio.create_task(b.pool.settings.load("a", read_patch({"ctx_size": HUGE + 1}, TABLE)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
        release.set()
        await eventually(
            lambda: len([r for r in caplog.records if "could not load a: 'a' does not fit" in r.message]) == 2
        )


ENDS: list[tuple[str, dict[str, object]]] = [
    ("it ended with code 1", {"code": 1}),
    ("it was killed by signal 9", {}),
    ("it ended: out of memory", {"code": 1, "out_of_memory": True}),
]


@pytest.mark.parametrize(("sentence", "how"), ENDS, ids=["bad flag", "killed", "out of memory"])
async def test_what_ran_before_a_failed_load_runs_again(sentence: str, how: dict[str, object]) -> None:  # B-L15
    async with settings_bench() as b:
        await b.load(extra_args=["--top-k", "20"])
        load = await b.begin_load(ctx_size=8192)
        b.node.of("a").die(sentence=sentence, **how)  # type: ignore[arg-type]
        if "out_of_memory" in how:  # it is tried once more
            await eventually(lambda: b.node.loads() == 3)
            b.node.of("a").die(sentence=sentence, **how)  # type: ignore[arg-type]
        b.node.autoload = True
        with pytest.raises(errors.LoadFailed, match=sentence):
            await load
        await eventually(lambda: [child.launch.args[2:] for child in b.node.alive] == [("--top-k", "20")])
        await eventually(lambda: b.state("a") is State.LOADED)
        assert (await b.load()).status == "already_loaded"


async def test_what_ran_before_runs_again_when_no_process_can_be_created() -> None:  # B-L15
    async with settings_bench() as b:
        await b.use()
        spawn = b.node.spawn

        async def fail(launch: Launch) -> FakeChild:
            if "--ctx-size" in launch.args:
                raise errors.LoadFailed("the engine is not there")
            return await spawn(launch)

        b.node.spawn = fail  # type: ignore[method-assign]
        with pytest.raises(errors.LoadFailed, match="not there"):
            await b.load(ctx_size=8192)
        await eventually(lambda: b.state("a") is State.LOADED)
        assert b.argv() == []


async def test_requests_that_waited_for_the_failed_load_are_served_as_before() -> None:  # B-L15
    async with settings_bench() as b:
        await b.load(ctx_size=4096)
        load = await b.begin_load(ctx_size=8192)
        requests = [asyncio.create_task(b.use()) for _ in range(3)]
        await eventually(lambda: b.pool.status("a").waiting == 4)
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed):
            await load
        assert {(await request).pid for request in requests} == {b.node.of("a").pid}
        assert (b.argv(), b.node.loads()) == (["--ctx-size", "4096"], 3)


async def test_a_load_that_no_client_waits_for_brings_back_too() -> None:  # B-L15
    async with settings_bench() as b:
        await b.use()
        load = await b.begin_load(ctx_size=8192)
        load.cancel()  # the client has left
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        await eventually(lambda: b.state("a") is State.LOADED)
        assert b.argv() == []


async def test_nothing_is_brought_back_that_did_not_run_or_was_unloaded() -> None:  # B-L15
    async with settings_bench() as b:
        for ran in (False, True):
            if ran:
                await b.use()
            load = await b.begin_load(ctx_size=8192)
            if ran:
                b.pool.unload("a")
            else:
                b.node.of("a").die(1, "it ended with code 1")
            with pytest.raises(errors.RouterError):
                await load
            await eventually(lambda: not b.node.alive)
            b.node.autoload = True
        await b.pool._core.tasks.wait_until_empty()
        assert not b.node.alive
        assert b.node.loads() == 3


async def test_settings_that_the_engine_would_refuse_are_a_bad_request_and_end_nothing() -> None:  # B-L15
    async with settings_bench() as b:
        child = await b.use()
        with pytest.raises(errors.InvalidRequest, match="'a' cannot have these settings: too odd") as caught:
            await b.load(ctx_size=ODD)
        assert caught.value.status == 400
        assert child.is_alive
        assert (await b.load()).status == "already_loaded"


async def test_a_load_that_downloaded_says_loaded() -> None:  # B-L17
    for body in ({}, {"ctx_size": 4096}):
        async with hub_bench("a") as (b, hub):
            load = asyncio.create_task(b.pool.settings.load("a", read_patch(body, TABLE)))
            await hub.until_begun("a")
            hub.gates["a"].set_result(None)
            assert (await load).status == "loaded"
            assert (await b.pool.settings.load("a")).status == "already_loaded"
