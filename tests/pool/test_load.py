"""Loads with settings, on a machine without processes: what is kept, what is taken back, what starts anew."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from router import errors
from router.engine import flags
from router.memory.estimate import Need
from router.models.catalog import Catalog
from router.models.spec import Info, ModelSpec
from router.pool.overrides import read
from router.pool.pool import Loaded, Pool
from router.pool.trials import differences
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.fakes import GIB, FakeChild, FakeNode

TABLE = flags.default_table()
HUGE = 2**30
BAD = 2**20


def spec(name: str, *argv: str, **more: Any) -> ModelSpec:
    return ModelSpec(name, "models_dir", flags.parse(("--model", f"{name}.gguf", *argv), TABLE), **more)


def need_of(model: ModelSpec) -> Need:
    """A model whose context is huge does not fit at all; of a bad one nothing is known."""
    context = int(flags.value_of(model.args, "--ctx-size") or 0)
    if context == BAD:
        raise errors.LoadFailed("nobody knows")
    return Need(Demand(host=100 * GIB if context >= HUGE else 10 * GIB + context))


class Bench:
    def __init__(self, *models: ModelSpec, **limits: Any) -> None:
        self.node = FakeNode(held={model.name: {"local/RAM": 10 * GIB} for model in models})
        bounds = Limits(**{"margins": {"local/RAM": GIB}, "drain_grace": 0.05, **limits})
        self.pool = Pool(Catalog(models), [self.node], bounds, self._need)
        self.estimating = 0  # that many estimates are made to wait
        self._estimates = threading.Event()
        self._estimates.set()

    def _need(self, model: ModelSpec) -> Need:
        if not (estimates := self._estimates).is_set():
            self.estimating += 1
            estimates.wait(5)
            self.estimating -= 1
        return need_of(model)

    def slow_estimates(self) -> threading.Event:
        """From now on they wait for this event."""
        self._estimates = threading.Event()
        return self._estimates

    def fast_estimates(self) -> None:
        """From now on; those that wait go on waiting."""
        self.slow_estimates().set()

    async def load(self, name: str = "a", **body: Any) -> Loaded:
        return await self.pool.load(name, read(body, TABLE))

    def argv(self, name: str = "a") -> list[str]:
        """Of the youngest process, without what says which model it is."""
        return list(self.node.of(name).launch.args[2:])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def use(self, name: str = "a") -> FakeChild:
        (await self.pool.lease(self.pool.catalog.resolve(name))).release()
        return self.node.of(name)


@contextlib.asynccontextmanager
async def bench(*models: ModelSpec, **limits: Any) -> AsyncIterator[Bench]:
    made = Bench(*(models or (spec("a"),)), **limits)
    try:
        yield made
    finally:
        for child in made.node.alive:
            child.load()
            child.may_stop.set()
        await made.pool.close()
        assert not made.node.alive


async def test_the_same_settings_are_the_same_process() -> None:  # B-L1 B-L5
    async with bench() as b:
        assert (await b.load(ctx_size=8192, cache_type_k="q8_0")).status == "loaded"
        for _ in range(10):
            assert (await b.load(ctx_size=8192, cache_type_k="q8_0")).status == "already_loaded"
            assert (await b.load()).status == "already_loaded"
        assert b.node.loads() == 1
        assert b.argv() == ["--ctx-size", "8192", "--cache-type-k", "q8_0"]


async def test_other_settings_start_it_anew_with_what_was_set_before() -> None:  # B-L1 B-L3 B-L5
    async with bench() as b:
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
    async with bench() as b:
        await b.load(extra_args=["--top-k", "20"])
        for body, expected in (
            ({}, ["--top-k", "20"]),
            ({"extra_args": None}, ["--top-k", "20"]),
            ({"extra_args": []}, []),
            ({}, []),
            ({"extra_args": ["--seed", 7]}, ["--seed", "7"]),
        ):
            b.pool.unload("a")
            await b.until(lambda: b.pool.state("a") is State.UNLOADED)
            assert (await b.load(**body)).status == "loaded"
            assert b.argv() == expected
        assert await b.use() is b.node.of("a")
        assert b.argv() == ["--seed", "7"]


async def test_a_request_gets_what_a_load_has_set() -> None:  # B-L3
    async with bench() as b:
        await b.load(ctx_size=4096)
        b.pool.unload("a")
        await b.until(lambda: b.pool.state("a") is State.UNLOADED)
        await b.use()
        assert b.argv() == ["--ctx-size", "4096"]


async def test_what_was_asked_is_compared_and_not_what_came_of_it() -> None:  # B-L2
    async with bench() as b:
        await b.load(ctx_size=8192)
        first = b.node.of("a")
        assert (await b.load(ctx_size=0)).status == "loaded"
        assert b.node.of("a") is not first
        assert b.argv() == []


async def test_a_setting_taken_back_is_the_models_own_again() -> None:
    async with bench(spec("a", "--ctx-size", "2048", "--seed", "1")) as b:
        await b.load(ctx_size=8192)
        assert b.argv() == ["--seed", "1", "--ctx-size", "8192"]
        await b.load(ctx_size=0)
        assert b.argv() == ["--seed", "1"]
        await b.load(ctx_size=None)
        assert b.argv() == ["--ctx-size", "2048", "--seed", "1"]


@pytest.mark.parametrize(
    ("before", "now", "left"),
    [
        (["-c", "4096", "--top-k", "20"], {"ctx_size": 0}, ["--top-k", "20"]),
        (["-ctk", "q8_0", "-ctv", "q4_0", "--jinja"], {"cache_type_k": "f16"}, ["-ctv", "q4_0", "--jinja"]),
        (["--spec-type", "ngram-mod", "--spec-ngram-mod-n-min", "2", "-n", "9"], {"speculative_type": ""}, ["-n", "9"]),
        (["--chat-template", "chatml", "--no-warmup"], {"chat_template": "{{ messages }}"}, ["--no-warmup"]),
        (["--model-draft", "d.gguf", "-np", "2"], {"n_parallel": 0, "speculative_type": None}, []),
    ],
)
async def test_inherited_arguments_lose_only_what_is_set_anew(
    before: list[str], now: dict[str, Any], left: list[str]
) -> None:  # B-L5
    asked = read({"extra_args": before}, TABLE, load_args="any")
    kept = b"".join(word.encode() for word in flags.render(flags.parse(left, TABLE)))
    async with bench() as b:
        overrides = b.pool.asked("a").patched(asked).patched(read(now, TABLE))
        assert b"".join(word.encode() for word in flags.render(overrides.extra_args)) == kept
        assert overrides.patched(read({}, TABLE)) == overrides


async def test_an_inherited_context_and_ten_bare_loads_are_one_process() -> None:  # B-L5
    async with bench() as b:
        await b.load(extra_args=["-c", "4096"])
        answers = await asyncio.gather(*(b.load() for _ in range(10)))
        assert {answer.status for answer in answers} == {"already_loaded"}
        assert b.node.loads() == 1


async def test_extra_arguments_replace_the_field_that_set_the_same() -> None:  # B-L5
    async with bench() as b:
        await b.load(ctx_size=8192, cache_type_k="q8_0")
        await b.load(extra_args=["-c", "4096"])
        assert b.argv() == ["--cache-type-k", "q8_0", "--ctx-size", "4096"]
        assert b.pool.asked("a").ctx_size is None


async def test_settings_stay_with_their_model() -> None:  # B-L4
    async with bench(spec("a"), spec("b")) as b:
        await b.load("a", extra_args=["--top-k", "20"], ctx_size=4096)
        await b.load("b")
        assert b.argv("b") == []


async def test_a_name_that_means_another_file_now_inherits_nothing() -> None:  # B-L4
    def cached(revision: str) -> ModelSpec:
        path = f"/hub/models--u--r/snapshots/{revision}/x-Q4_K_M.gguf"
        args = flags.parse(("--model", path), TABLE)
        return ModelSpec("u/r:Q4_K_M", "cache", args, model_path=Path(path))

    async with bench(cached("1")) as b:
        await b.load("u/r", ctx_size=4096)
        await b.pool.replace(Catalog([cached("2")]))  # another revision of the same
        assert b.pool.asked("u/r").ctx_size == 4096
        other = ModelSpec("u/r:Q4_K_M", "preset", flags.parse(("--model", "other.gguf"), TABLE))
        await b.pool.replace(Catalog([other]))
        assert b.pool.asked("u/r").ctx_size is None


async def test_an_omitted_quantization_that_means_the_loaded_one_is_the_same() -> None:  # B-L4
    async with bench(spec("u/r:Q4_K_M")) as b:
        await b.load("u/r:Q4_K_M", ctx_size=4096)
        assert (await b.load("u/r")).status == "already_loaded"


async def test_a_failed_load_leaves_the_old_settings() -> None:  # B-L8
    async with bench() as b:
        await b.load(ctx_size=4096)
        b.node.autoload = False
        trial = asyncio.create_task(b.load(ctx_size=8192))
        await b.until(lambda: b.node.loads() == 2)
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed, match="it ended with code 1"):
            await trial
        assert b.pool.asked("a").ctx_size == 4096
        b.node.autoload = True
        await b.use()
        assert b.argv() == ["--ctx-size", "4096"]


async def test_a_failed_load_fails_nobody_else() -> None:  # B-L8
    async with bench() as b:
        await b.load(ctx_size=4096)
        b.node.autoload = False
        trial = asyncio.create_task(b.load(ctx_size=8192))
        await b.until(lambda: b.node.loads() == 2)
        request = asyncio.create_task(b.use())
        await b.until(lambda: b.pool.status("a").waiting == 2)
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed):
            await trial
        assert (await request).launch.args[2:] == ("--ctx-size", "4096")


async def test_what_could_never_fit_ends_nothing() -> None:  # B-L8 B-S12
    async with bench() as b:
        child = await b.use()
        with pytest.raises(errors.ModelTooLarge, match="it needs"):
            await b.load(ctx_size=HUGE)
        assert child.is_alive
        assert (await b.load()).status == "already_loaded"


async def test_running_requests_end_before_new_settings_begin() -> None:  # B-L9
    async with bench() as b:
        lease = await b.pool.lease(b.pool.catalog.resolve("a"))
        first = b.node.of("a")
        load = asyncio.create_task(b.load(ctx_size=4096))
        await b.until(lambda: b.pool.status("a").waiting == 1)
        late = asyncio.create_task(b.use())
        await b.until(lambda: b.pool.status("a").waiting == 2)
        assert first.is_alive
        lease.release()
        assert (await load).status == "loaded"
        assert await late is b.node.of("a")
        assert b.node.loads() == 2


async def test_parallel_loads_take_turns() -> None:  # B-L9
    async with bench() as b:
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
    async with bench() as b:
        await b.load(ctx_size=4096)
        b.node.of("a").may_stop.clear()
        b.pool.unload("a")
        loads = [asyncio.create_task(b.load()) for _ in range(2)]
        await b.until(lambda: b.pool.status("a").waiting)
        b.node.of("a").may_stop.set()
        assert sorted([(await load).status for load in loads]) == ["already_loaded", "loaded"]
        assert (b.node.loads(), b.node.most_alive) == (2, 1)


async def test_an_unload_cancels_every_load_before_it() -> None:  # B-L10
    async with bench() as b:
        b.node.autoload = False
        loads = [asyncio.create_task(b.load(ctx_size=size)) for size in (4096, 8192, 16384)]
        await b.until(lambda: b.node.loads() == 1)
        b.pool.unload("a")
        for load in loads:
            with pytest.raises(errors.Cancelled):
                await load
        await b.until(lambda: b.pool.state("a") is State.UNLOADED)
        b.node.autoload = True
        assert (await b.load()).status == "loaded"
        assert b.argv() == []


async def test_speculation_of_a_vision_model_is_off_on_both_sides() -> None:  # B-L11
    async with bench(spec("a", "--mmproj", "eyes.gguf")) as b:
        child = await b.use()
        for asked in ("ngram-mod", "default", "off", "", None):
            assert (await b.load(speculative_type=asked)).status == "already_loaded"
        assert await b.use() is child


async def test_no_speculation_has_three_names() -> None:  # B-L11
    async with bench() as b:
        child = await b.use()
        for asked in ("off", "", None, "none"):
            assert (await b.load(speculative_type=asked)).status == "already_loaded"
        assert await b.use() is child
        await b.load(speculative_type="ngram-mod")
        assert "--spec-ngram-mod-n-match" in b.argv()
        await b.load(speculative_type="off")
        assert b.argv() == []


async def test_a_template_goes_along_with_the_launch() -> None:  # B-L12
    async with bench(spec("a", "--chat-template", "chatml")) as b:
        await b.load(chat_template="{{ messages }}")
        assert (b.argv(), b.node.of("a").launch.template) == ([], "{{ messages }}")
        await b.load(chat_template="llama3")
        assert (b.argv(), b.node.of("a").launch.template) == (["--chat-template", "llama3"], None)
        await b.load(chat_template="")
        assert b.argv() == []
        await b.load(chat_template=None)
        assert b.argv() == ["--chat-template", "chatml"]


async def test_a_new_preset_keeps_what_was_asked_over_it() -> None:  # B-L13
    async with bench(spec("a", "--ctx-size", "2048")) as b:
        await b.load(ctx_size=8192)
        child = b.node.of("a")
        changes = await b.pool.replace(Catalog([spec("a", "--ctx-size", "1024")]))
        assert (changes.kept, child.is_alive) == (("a",), True)
        changes = await b.pool.replace(Catalog([spec("a", "--seed", "1")]))
        assert changes.changed == ("a",)
        await b.use()
        assert b.argv() == ["--seed", "1", "--ctx-size", "8192"]


async def test_a_new_preset_cancels_the_load_it_changes_and_serves_the_others() -> None:  # B-L13
    async with bench() as b:
        await b.use()
        b.node.autoload = False
        load = asyncio.create_task(b.load(ctx_size=8192))
        await b.until(lambda: b.node.loads() == 2)
        request = asyncio.create_task(b.use())
        await b.until(lambda: b.pool.status("a").waiting == 2)
        b.node.autoload = True
        await b.pool.replace(Catalog([spec("a", "--seed", "1")]))
        with pytest.raises(errors.Cancelled, match="changed meanwhile"):
            await load
        assert (await request).launch.args[2:] == ("--seed", "1")


async def test_what_a_new_preset_wants_at_startup_is_started() -> None:  # B-L13
    async with bench(spec("a", load_on_startup=True), spec("b")) as b:
        await b.pool.start()
        await b.use("b")
        after = [
            spec("a", "--seed", "1", load_on_startup=True),
            spec("b", "--seed", "1"),
            spec("c", load_on_startup=True),
        ]
        await b.pool.replace(Catalog(after))
        await b.until(lambda: [b.pool.state(name) for name in "ac"] == [State.LOADED] * 2)
        await b.until(lambda: b.pool.state("b") is State.UNLOADED)


async def test_an_unload_cancels_a_request_whose_model_is_still_being_estimated() -> None:  # B-L10
    async with bench() as b:
        release = b.slow_estimates()
        request = asyncio.create_task(b.use())
        load = asyncio.create_task(b.load())
        await b.until(lambda: b.estimating == 1)
        b.pool.unload("a")
        release.set()
        for wish in (request, load):
            with pytest.raises(errors.Cancelled, match="it was unloaded"):
                await wish
        assert b.node.loads() == 0


async def test_a_load_that_is_refused_a_place_in_the_queue_leaves_the_process_open() -> None:  # B-L8
    async with bench(queue_max=0) as b:
        lease = await b.pool.lease(b.pool.catalog.resolve("a"))
        with pytest.raises(errors.QueueFull):
            await b.load(ctx_size=4096)
        assert await b.use() is b.node.of("a")
        lease.release()
        assert await b.use() is b.node.of("a")
        assert b.node.loads() == 1


async def test_an_unload_closes_what_a_load_that_it_cancels_would_have_left_open() -> None:  # B-L10
    async with bench() as b:
        lease = await b.pool.lease(b.pool.catalog.resolve("a"))
        load = asyncio.create_task(b.load(ctx_size=4096))
        await b.until(lambda: b.pool.status("a").waiting == 1)
        b.pool.unload("a")
        with pytest.raises(errors.Cancelled):
            await load
        lease.release()
        await b.until(lambda: b.pool.state("a") is State.UNLOADED)


async def test_nobody_gets_settings_that_failed_even_where_nobody_knows_the_old_ones() -> None:  # B-L8
    async with bench(spec("a", "--ctx-size", str(BAD)), queue_timeout=0.6, poll=0.05) as b:
        b.node.foreign["local/RAM"] = 60 * GIB
        load = asyncio.create_task(b.load(ctx_size=4096))
        await b.until(lambda: len(b.node.probes) > 6)
        request = asyncio.create_task(b.use())
        with pytest.raises(errors.QueueTimeout):
            await load
        b.node.foreign.clear()
        with pytest.raises(errors.RouterError):
            await request
        assert b.node.loads() == 0


async def test_settings_that_served_for_a_moment_are_remembered() -> None:  # B-L8
    async with bench() as b:
        b.node.brief = True
        assert (await b.load(ctx_size=4096)).status == "loaded"
        assert b.pool.asked("a").ctx_size == 4096


async def test_a_process_that_dies_as_a_load_joins_it_is_no_defect() -> None:
    async with bench() as b:
        b.node.brief = True
        assert (await b.load()).status == "loaded"


async def test_a_failed_trial_stays_one_when_the_models_were_described_meanwhile() -> None:  # B-L8
    async with bench() as b:
        first = await b.use()
        first.may_stop.clear()
        b.node.autoload = False
        load = asyncio.create_task(b.load(ctx_size=4096))
        await b.until(lambda: b.pool.status("a").waiting == 1)
        b.pool.catalog = Catalog([replace(spec("a"), info=Info(architecture="llama"))])
        request = asyncio.create_task(b.use())
        await b.until(lambda: b.pool.status("a").waiting == 2)
        first.may_stop.set()
        await b.until(lambda: b.node.loads() == 2)
        b.node.autoload = True
        b.node.of("a").die(1, "it ended with code 1")
        with pytest.raises(errors.LoadFailed):
            await load
        assert (await request).launch.args[2:] == ()


async def test_a_new_preset_counts_for_what_a_load_takes_back() -> None:  # B-L13
    async with bench(spec("a", "--ctx-size", "2048")) as b:
        await b.load(ctx_size=8192)
        b.node.autoload = False
        load = asyncio.create_task(b.load(ctx_size=None))
        await b.until(lambda: b.node.loads() == 2)
        b.node.autoload = True
        await b.pool.replace(Catalog([spec("a", "--ctx-size", "1024")]))
        with pytest.raises(errors.Cancelled, match="changed meanwhile"):
            await load
        await b.use()
        assert b.argv() == ["--ctx-size", "8192"]


async def test_a_new_preset_during_a_load_without_news_is_looked_at_again() -> None:  # B-L13
    async with bench() as b:
        b.node.autoload = False
        load = asyncio.create_task(b.load(ctx_size=0))  # as it is, but asked for
        await b.until(lambda: b.node.loads() == 1)
        b.node.autoload = True
        await b.pool.replace(Catalog([spec("a", "--ctx-size", "1024")]))
        await load
        assert b.pool.asked("a").ctx_size == 0
        assert b.argv() == []


async def test_a_new_preset_is_booked_with_what_was_asked_meanwhile() -> None:  # B-L13
    async with bench() as b:
        await b.use()
        release = b.slow_estimates()
        replaced = asyncio.create_task(b.pool.replace(Catalog([spec("a", "--seed", "1")])))
        await b.until(lambda: b.estimating == 1)
        b.fast_estimates()
        await b.load(ctx_size=4096)
        lease = await b.pool.lease(b.pool.catalog.resolve("a"))
        release.set()
        await replaced
        assert b.pool.need("a") == need_of(b.pool.effective("a"))
        lease.release()


async def test_what_a_load_asked_of_another_file_is_gone_with_the_next_load() -> None:  # B-L4
    async with bench() as b:
        await b.load(ctx_size=4096)
        here, there = spec("a"), ModelSpec("a", "models_dir", flags.parse(("--model", "other.gguf"), TABLE))
        await b.pool.replace(Catalog([there]))
        await b.load()
        await b.pool.replace(Catalog([here]))
        assert b.pool.asked("a").ctx_size is None


async def test_a_name_that_means_another_model_by_now_takes_the_turn_of_that() -> None:  # B-L9
    async with bench(spec("a"), spec("b")) as b:
        release = b.slow_estimates()
        late = asyncio.create_task(b.load("a", ctx_size=4096))
        await b.until(lambda: b.estimating == 1)
        await b.pool.replace(Catalog([spec("b", aliases=("a",))]))
        b.fast_estimates()
        b.node.autoload = False
        load = asyncio.create_task(b.load("b", ctx_size=8192))
        await b.until(lambda: b.node.loads() == 1)
        first = b.node.of("b")
        release.set()
        await b.until(lambda: not b.estimating)
        for _ in range(20):
            await asyncio.sleep(0)
        assert first.stops == 0
        b.node.autoload = True
        first.load()
        assert [(await load).status, (await late).status] == ["loaded", "loaded"]
        assert b.pool.asked("b").ctx_size == 4096


async def test_what_comes_of_a_load_that_nobody_waits_for_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        release = b.slow_estimates()
        loaded = await b.pool.load("a", read({"ctx_size": HUGE}, TABLE), wait=False)
        assert loaded.status == "loading"
        left = asyncio.create_task(b.pool.load("a", read({"ctx_size": HUGE + 1}, TABLE)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
        release.set()
        await b.until(
            lambda: len([r for r in caplog.records if "a was to be loaded: 'a' does not fit" in r.message]) == 2
        )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ctxsize": 1}, "did you mean ctx_size"),
        ({"ctx_size": "big"}, "ctx_size is a whole number"),
        ({"ctx_size": True}, "ctx_size"),
        ({"n_parallel": -3}, "n_parallel"),
        ({"cache_type_k": "q9"}, "cache_type_k is one of f32, f16"),
        ({"speculative_type": "magic"}, "speculative_type is one of off, default"),
        ({"chat_template": 5}, "chat_template"),
        ({"chat_template": "a\0b"}, "chat_template"),
        ({"extra_args": "--top-k 20"}, "extra_args is a list"),
        ({"extra_args": ["\ud800"]}, "extra_args is a list"),
        ({"extra_args": ["--tpo-k", "20"]}, "did you mean --top-k"),
        ({"extra_args": ["--top-k"]}, "--top-k needs a value"),
        ({"extra_args": ["20"]}, "unexpected argument"),
        ({"extra_args": ["-c", "4096"], "ctx_size": 1}, "ctx_size and --ctx-size in extra_args set the same"),
    ],
)
def test_bad_settings_are_told_by_name(body: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=words.replace("(", r"\(")):
        read(body, TABLE)


OWNED = """
    --host=x --port=1 --api-key=k --api-key-file=f --ssl-key-file=f --ssl-cert-file=f --alias=a -a=a --models-dir=d
    --ui --webui --no-ui --no-webui --ui-config={} --webui-config={} --ui-config-file=f --webui-config-file=f
    --ui-mcp-proxy --no-ui-mcp-proxy --models-preset=f --models-max=1 --models-autoload --no-models-autoload
    --api-prefix=p --reuse-port --version --help -h --list-devices --models-ttl=5 --engine=e
    --model=f -m=f --hf-repo=u/r -hf=u/r --hf-file=f --hf-token=t --model-url=u -mu=u --docker-repo=r
"""


@pytest.mark.parametrize("word", OWNED.split())
def test_flags_that_the_router_owns_are_refused(word: str) -> None:  # B-L7
    name, _, value = word.partition("=")
    with pytest.raises(errors.InvalidRequest, match=rf"(^| |'){name}\b") as caught:
        read({"extra_args": [name, value] if value else [name]}, TABLE)
    assert caught.value.status == 400


def test_a_switch_does_not_eat_the_next_word() -> None:  # B-L6
    words = ["--jinja", "--no-warmup", "--spec-default", "--temperature=-1", "--seed", "-1", "--no-jinja"]
    wish = read({"extra_args": words}, TABLE)
    assert wish.extra_args is not None
    assert flags.render(wish.extra_args) == [
        "--no-jinja",
        "--no-warmup",
        "--spec-default",
        "--temperature",
        "-1",
        "--seed",
        "-1",
    ]


class Walk:
    """Clients, loads with settings, operators, new catalogs and bad luck, at random."""

    WISHES: tuple[dict[str, Any], ...] = (
        {},
        {"ctx_size": 4096},
        {"ctx_size": 8192},
        {"ctx_size": 0},
        {"ctx_size": None},
        {"ctx_size": BAD},
        {"ctx_size": HUGE},
        {"extra_args": ["--seed", "7"]},
        {"extra_args": []},
    )
    OWN = ((), ("--ctx-size", "2048"), ("--seed", "1"), ("--ctx-size", str(BAD)))

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.random = bench, Random(seed)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.answers: Counter[str] = Counter()
        self.luck = {self.use: 30, self.load: 12, self.unload: 3, self.cancel: 4, self.replace: 3, self.describe: 1}
        self.luck |= {self.die: 6, self.ready: 20, self.may_stop: 20, self.pace: 4}

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.tasks.add(asyncio.create_task(coroutine))

    def name(self) -> str:
        return self.random.choice("abc")

    async def _used(self, name: str, turns: int) -> None:
        lease = await self.bench.pool.lease(self.bench.pool.catalog.resolve(name))
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            lease.release()

    def use(self) -> None:
        self.keep(self._used(self.name(), self.random.choice([0, 1, 30])))

    def load(self) -> None:
        wish = read(self.random.choice(self.WISHES), TABLE)
        self.keep(self.bench.pool.load(self.name(), wish, wait=self.random.random() < 0.8))

    def unload(self) -> None:
        self.bench.pool.unload(self.name(), force=self.random.random() < 0.3)

    def cancel(self) -> None:
        if open_ := [task for task in self.tasks if not task.done()]:
            self.random.choice(open_).cancel()

    def replace(self) -> None:
        self.keep(self._replaced([name for name in "abc" if self.random.random() < 0.9]))

    async def _replaced(self, names: Sequence[str]) -> None:
        models = [self._model(name) for name in names]
        if "c" not in names and models:
            models[-1] = replace(models[-1], aliases=("c",))
        await self.bench.pool.replace(Catalog(models))

    def _model(self, name: str) -> ModelSpec:
        file = self.random.choice([name, name, name, f"{name}2"])
        args = flags.parse(("--model", f"{file}.gguf", *self.random.choice(self.OWN)), TABLE)
        return ModelSpec(name, "models_dir", args)

    def describe(self) -> None:
        catalog = self.bench.pool.catalog
        described = [replace(model, info=Info(architecture="llama")) for model in catalog.models]
        self.bench.pool.catalog = Catalog(described)

    def die(self) -> None:
        if alive := self.bench.node.alive:
            child = self.random.choice(alive)
            child.die(1, "it ended", out_of_memory=self.random.random() < 0.3)

    def ready(self) -> None:
        for child in self.bench.node.alive:
            if self.random.random() < 0.5:
                child.load()

    def may_stop(self) -> None:
        for child in self.bench.node.children:
            child.may_stop.set()

    def pace(self) -> None:
        """How children begin, and end, from now on."""
        self.bench.node.autoload = self.random.random() < 0.5
        self.bench.node.brief = self.random.random() < 0.1
        for child in self.bench.node.alive:
            if self.random.random() < 0.3:
                child.may_stop.clear()

    async def go(self, steps: int) -> None:
        for _ in range(steps):
            [what] = self.random.choices(list(self.luck), list(self.luck.values()))
            what()
            for _ in range(self.random.choice([0, 1, 2, 5])):
                await asyncio.sleep(0)
            if self.random.random() < 0.05:
                await asyncio.sleep(0.001)  # threads come round
        await self.settle()

    async def settle(self) -> None:
        """All goes well, and everybody has an answer."""
        node = self.bench.node
        node.autoload, node.brief = True, False
        async with asyncio.timeout(20):
            while any(not task.done() for task in self.tasks) or not self.is_quiet():
                for child in node.children:
                    child.load()
                    child.may_stop.set()
                await asyncio.sleep(0.001)
        for task in self.tasks:
            if not task.cancelled():
                error = task.exception()
                if error and not isinstance(error, errors.RouterError):
                    raise error
                self.answers[type(error).__name__] += 1
        self.tasks.clear()
        self.check()
        await self.remember()
        self.check()

    async def remember(self) -> None:
        """What one load asks for is kept if it succeeds, and nothing else."""
        pool, node = self.bench.pool, self.bench.node
        for model in pool.catalog.models:
            wish = read(self.random.choice(self.WISHES), TABLE)
            asked = pool.asked(model.name)
            load = asyncio.create_task(pool.load(model.name, wish))
            while not load.done():
                for child in node.children:
                    child.may_stop.set()
                await asyncio.sleep(0.001)
            failed = load.exception()
            assert failed is None or isinstance(failed, errors.RouterError)
            assert pool.asked(model.name) == (asked if failed else asked.patched(wish))
        await self.bench.until(self.is_quiet)

    def is_quiet(self) -> bool:
        """Every process serves, and nothing else goes on."""
        pool, runs = self.bench.pool, self.bench.pool._runs
        alive = {child.launch.model for child in self.bench.node.alive}
        serve = all(pool.state(name) is State.LOADED for name in runs)
        return alive == runs.keys() and serve and len(pool._tasks) == len(runs) and not pool._estimates

    def check(self) -> None:
        pool = self.bench.pool
        assert not pool._trials._trials
        assert not pool._waiters
        assert not pool._scheduler._line.by_ticket
        assert not pool._scheduler._books.leased
        for name, run in pool._runs.items():
            want = pool.effective(name)
            assert sorted(run.args) == sorted(want.argv)
            assert not differences(run.spec, want)
            assert not pool._scheduler.model(name).closing


@pytest.mark.parametrize("seed", range(12))
async def test_a_long_walk(seed: int, caplog: pytest.LogCaptureFixture) -> None:  # B-L8 B-L9 B-L10 B-L13 B-S2
    async with bench(spec("a"), spec("b"), spec("c"), models_max=2, poll=0.002, queue_timeout=5.0) as b:
        walk = Walk(b, seed)
        for _ in range(10):
            await walk.go(60)
        assert walk.answers["NoneType"] > 50
    assert not [record for record in caplog.records if record.levelname == "CRITICAL"]
