"""Which processes get a prompt cache of the plan, which have their own, and which none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from router import demo
from router.engine import flags
from router.engine.flags import FlagTable, default_table
from router.memory import prompt_cache
from router.memory.estimator import Estimator
from router.memory.footprints import Footprint, Footprints
from router.models.spec import Info, ModelSpec
from router.scheduling.resources import Device
from tests.memory.rig import MIB, TABLE, Silent, gpus

Specs = Callable[..., ModelSpec]
Estimators = Callable[..., Estimator]
MOST = 8192 * MIB
OLDER = FlagTable([flag for flag in default_table().flags if flag.name != "--cache-ram"])


def chat(*words: str, table: FlagTable = TABLE, capabilities: Sequence[str] = ("completion",)) -> ModelSpec:
    info = Info(capabilities=tuple(capabilities))
    return ModelSpec("a", "preset", flags.parse(words, table), info=info)


# B-D9
@pytest.mark.parametrize(
    ("spec", "table", "most", "words"),
    [
        (chat(), TABLE, MOST, ()),
        (chat("--cache-ram", "100"), TABLE, 0, ()),
        (chat("--cache-ram", "0"), TABLE, 0, ()),
        (chat("--cache-ram", "-1"), TABLE, 0, ()),
        (chat("-cram", "100"), TABLE, 0, ()),
        (chat(table=OLDER), OLDER, 0, ()),
        (chat(capabilities=["embedding"]), TABLE, 0, ("--cache-ram", "0")),
        (chat("--cache-ram", "9", capabilities=["embedding"]), TABLE, 0, ()),
        (chat(table=OLDER, capabilities=["embedding"]), OLDER, 0, ()),
    ],
)
def test_what_the_plan_may_give(spec: ModelSpec, table: FlagTable, most: int, words: tuple[str, ...]) -> None:
    assert prompt_cache.most(spec, table) == most
    assert prompt_cache.args_without(spec, table) == words


def test_a_need_says_what_its_cache_could_use(estimator: Estimators, spec: Specs) -> None:
    assert estimator(gpus()).need(spec()).demand.prompt_cache == MOST
    assert estimator(gpus(100)).need(spec()).demand.prompt_cache == MOST
    bounded = estimator(gpus()).need(spec("--cache-ram", "300"))
    assert bounded.demand.prompt_cache == 0
    assert bounded.demand.host == estimator(gpus()).need(spec()).demand.host + 300 * MIB
    by_variable = estimator(gpus(), None, LLAMA_ARG_CACHE_RAM="300").need(spec())
    assert (by_variable.demand.prompt_cache, by_variable.demand.host) == (0, bounded.demand.host)
    far = ModelSpec("far", "preset", flags.parse(["--hf-repo", "a/b"], TABLE))
    assert estimator(gpus()).need(far).demand.prompt_cache == MOST


def test_a_footprint_does_not_take_the_cache_away(estimator: Estimators, spec: Specs) -> None:
    one = estimator(gpus())
    before = one.need(spec())
    one._footprints.put(one._key(spec()), Footprint(0, 0, before.demand.host + MIB))
    after = one.need(spec())
    assert (after.source, after.demand.prompt_cache) == ("footprint", MOST)


def test_a_model_that_embeds_gets_none(tmp_path: Path) -> None:
    path = demo.write_tiny(tmp_path / "x.gguf")
    args = flags.parse(["--model", str(path), "--embedding"], TABLE)
    spec = ModelSpec("x", "models_dir", args, model_path=path)
    ram = Device("local", "RAM", "host", 1 << 40)
    one = Estimator(Silent("silent", ("none",)), TABLE, [ram], {ram.key: MIB}, Footprints(tmp_path / "f.json"), {})
    need = one.need(spec)
    assert need.demand.prompt_cache == 0
    assert need.args[-2:] == ("--cache-ram", "0")
