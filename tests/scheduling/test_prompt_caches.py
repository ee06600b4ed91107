"""What prompt caches are promised: within the RAM that is left, and never at the cost of models that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduling.effects import Spawn
from router.scheduling.prompt_caches import LEAST_BYTES, MIB, left_in_ram, promise
from router.scheduling.resources import Demand, Device, Reading
from tests.scheduling.bench import RAM, Bench
from tests.scheduling.machines import many

GIB = 1 << 30
MOST = 8 * GIB
HOST = Device("here", "RAM", "host", 16 * GIB)


def rig(room: int = 15, **more: Any) -> Bench:
    return Bench(room=room * GIB, **more)


def chat(host: float, split: float = 0) -> Demand:
    return Demand(split=int(split * GIB), host=int(host * GIB), prompt_cache=MOST)


def caches(bench: Bench) -> list[int]:
    return [effect.allocation.prompt_cache for effect in bench.effects if isinstance(effect, Spawn)]


def promised(bench: Bench) -> int:
    return sum(model.prompt_cache for model in bench.scheduler.models())


# B-D9
@pytest.mark.parametrize(
    ("more", "left"),
    [
        ({}, 15),
        ({"booked": 6 * GIB}, 9),
        ({"booked": 6 * GIB, "hidden": 2 * GIB}, 9),
        ({"hidden": 8 * GIB}, 5),  # of 13 free, as others hold 2
        ({"booked": 20 * GIB}, 0),
        ({"expected": [4 * GIB, 5 * GIB]}, 6),
        ({"expected": [4 * GIB, 12 * GIB, 5 * GIB]}, 6),  # the second does not fit beside the first
        ({"expected": [4 * GIB, 5 * GIB], "slots": 1}, 11),
        ({"expected": [4 * GIB], "slots": 0}, 15),
        ({"booked": 12 * GIB, "promised": 2 * GIB, "expected": [4 * GIB]}, 0),  # it fits beside the needs
        ({"booked": 12 * GIB, "promised": 2 * GIB, "expected": [6 * GIB]}, 3),
        ({"booked": 12 * GIB, "ending": 4 * GIB}, 3),  # no cache is promised what still ends
        ({"booked": 12 * GIB, "ending": 4 * GIB, "expected": [4 * GIB]}, 3),  # but the next models may have it
        ({"booked": 12 * GIB, "ending": 4 * GIB, "expected": [6 * GIB]}, 1),
        ({"booked": 12 * GIB, "ending": 4 * GIB, "expected": [8 * GIB]}, 3),  # it does not fit
    ],
)
def test_what_is_left_in_ram(more: Mapping[str, Any], left: int) -> None:
    free = 14 * GIB if "hidden" in more and "booked" not in more else None
    values = {"booked": 0, "hidden": 0, "promised": 0, "ending": 0, "expected": (), "slots": 9.0, **more}
    assert left_in_ram(Reading(HOST, free), GIB, **values) == left * GIB


@pytest.mark.parametrize(
    ("left", "most", "given"),
    [
        (40 * GIB, MOST, MOST),
        (8 * GIB, MOST, 2 * GIB),
        (8 * GIB, GIB, GIB),
        (8 * GIB + 5, MOST, 2 * GIB),
        (4 * LEAST_BYTES, MOST, LEAST_BYTES),
        (4 * LEAST_BYTES - 4, MOST, 0),
        (0, MOST, 0),
        (GIB, 0, 0),
    ],
)
def test_a_quarter_is_promised_in_mebibytes(left: int, most: int, given: int) -> None:
    assert promise(left, most) == given


def test_the_promise_is_booked_with_the_process_and_ends_with_it() -> None:
    bench = rig()
    request = bench.ask("a", chat(5), serve=0.1)
    bench.run(5)
    assert request.granted
    model = bench.scheduler.model("a")
    assert caches(bench) == [(10 * GIB // 4)]
    assert model.held == {RAM: 5 * GIB + 10 * GIB // 4}
    bench.unload("a")
    bench.run(5)
    assert (model.held, model.prompt_cache) == ({}, 0)


def test_a_model_without_use_for_a_cache_is_promised_none() -> None:
    bench = rig()
    bench.ask("a", Demand(host=5 * GIB))
    bench.run(5)
    assert caches(bench) == [0]
    assert bench.scheduler.model("a").held == {RAM: 5 * GIB}


def test_on_gpus_the_cache_is_in_the_ram_of_the_same_machine() -> None:
    bench = rig(16, gpus=[24 * GIB])
    bench.ask("a", chat(0, split=20))
    bench.run(5)
    assert bench.scheduler.model("a").held == {"here/GPU0": 20 * GIB, RAM: 4 * GIB}


def test_what_other_programs_hold_is_not_promised() -> None:
    bench = rig(16)
    bench.others[RAM] = 6 * GIB
    bench.ask("a", chat(2))
    bench.run(5)
    assert caches(bench) == [2 * GIB]


def test_a_promise_that_is_not_used_yet_is_not_promised_again() -> None:
    """The machine shows the first cache as free: its process is idle."""
    bench = rig(16)
    bench.others[RAM] = 4 * GIB
    bench.ask("a", chat(0.5), serve=0.1)
    bench.run(5)
    bench.ask("b", chat(0.5), serve=0.1)
    bench.run(5)
    first, second = caches(bench)
    assert 4 * second <= 12 * GIB - GIB - first


@pytest.mark.parametrize(("bound", "expected"), [(3, [2.5, 0.5]), (0, [0, 0]), (1, [1, 0])])
def test_the_operator_bounds_all_caches_together(bound: int, expected: list[float]) -> None:
    bench = rig(prompt_caches=bound * GIB)
    for name in "ab":
        bench.ask(name, chat(5 if name == "a" else 1), serve=0.1)
        bench.run(5)
    assert caches(bench) == [amount * GIB for amount in expected]


def test_models_that_start_together_have_their_memory_before_any_cache() -> None:
    bench = rig(15, gpus=[9 * GIB, 9 * GIB])
    for name in "ab":
        bench.ask(name, chat(7, split=8))
    bench.run(5)
    assert bench.grants == ["a", "b"]
    assert bench.stops == []
    assert promised(bench) <= GIB


# B-D9
def test_models_that_fit_beside_each_other_go_on_to_fit() -> None:
    """A model that was never seen may cost an eviction, once. Then all stay."""
    bench = rig(15)
    names = {"a": 7, "b": 7}
    for turn in range(8):
        for name, need in names.items():
            bench.ask(name, chat(need), serve=0.1)
            bench.run(20)
        if turn == 1:
            settled = len(bench.spawns)
    assert len(bench.spawns) == settled <= 3
    assert bench.scheduler.model("a").held
    assert bench.scheduler.model("b").held


# B-D9
@many
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(10, 64),
    st.sampled_from([0, 2, 4]),
    st.integers(0, 8),
)
def test_the_sum_stays_within_the_ram_and_swaps_come_to_an_end(
    needs: list[int], room: int, models_max: int, others: int
) -> None:
    """Whatever is asked for in turn: all that is booked fits, and a set that fits is not swapped for ever."""
    bench = rig(room, models_max=models_max)
    bench.others[RAM] = others * GIB if others < room // 4 else 0
    room -= bench.others[RAM] // GIB
    for turn in range(4):
        if turn == 3:
            spawns = len(bench.spawns)
        for name, need in zip("abcde", needs, strict=False):
            bench.ask(name, chat(need), serve=0.1)
            bench.run(20)
            booked = sum(model.held.get(RAM, 0) for model in bench.scheduler.models())
            assert booked <= room * GIB + bench.others[RAM]
            assert all(model.prompt_cache % MIB == 0 for model in bench.scheduler.models())
    if sum(needs) <= room and (not models_max or len(needs) <= models_max):
        assert len(bench.spawns) == spawns
        assert sum(bool(model.held) for model in bench.scheduler.models()) == len(needs)


# B-D9
@many
@given(st.data(), st.lists(st.integers(1, 24), min_size=2, max_size=6), st.integers(0, 8), st.booleans())
def test_models_that_fit_together_come_to_be_there_together(
    data: st.DataObject, needs: list[int], spare: int, kept: bool
) -> None:
    """In any order of requests, also of some at once. A cache costs one eviction at most: of its own process."""
    bench = rig(sum(needs) + spare)
    models = dict(zip("abcdef", needs, strict=False))
    for names in data.draw(st.lists(st.lists(st.sampled_from([*models]), min_size=1, max_size=2), max_size=24)):
        for name in names:
            bench.ask(name, chat(models[name]), serve=0.1, ttl=math.inf if kept else None)
        bench.run(20)
    for name, need in models.items():  # now each has been seen
        bench.ask(name, chat(need), serve=0.1)
        bench.run(20)
    holders, spawns = sum(model.prompt_cache > 0 for model in bench.scheduler.models()), len(bench.spawns)
    missing = sum(not model.held for model in bench.scheduler.models())
    for names in data.draw(st.lists(st.permutations([*models]), min_size=3, max_size=5)):
        for name in names:
            bench.ask(name, chat(models[name]), serve=0.1)
            bench.run(20)
    assert all(model.held for model in bench.scheduler.models())
    assert len(bench.spawns) - spawns <= missing + holders


# B-D9
def test_the_model_that_was_first_and_alone_gives_up_its_cache_once() -> None:
    bench = rig(22)
    for turn in range(4):
        for name, need in (("a", 1), ("b", 6), ("c", 15)):
            bench.ask("a", chat(1), serve=0.1)
            bench.run(5)
            bench.ask(name, chat(need), serve=0.1)
            bench.run(20)
        assert turn or caches(bench)[0] == 21 * GIB // 4
    assert bench.spawns == ["a", "b", "c", "b", "a"]  # what both were promised was too much
    assert promised(bench) == 0
