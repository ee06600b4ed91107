"""Those who are named as being in the way of an entry are exactly those whose end lets it start.

The scheduler is told that the models end, in all combinations, and what it plans next is looked at. Each combination
begins with a machine of its own, made by the same recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduling.effects import Grant, Spawn, Stop
from router.scheduling.reasons import Kind, Waiting
from router.scheduling.replanning import TRIED_AGAIN, smallest
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.scheduling.bench import Bench
from tests.scheduling.records import Request
from tests.scheduling.test_long_walk import SHAPES, Walk

FOREVER = 1e6
# Nothing of others has to end: the entry waits for its own model.
OWN = (Kind.OWN_LOAD, Kind.DOWNLOAD)


def freeze(bench: Bench) -> None:
    """From now on nothing happens by itself, and what is read is the truth of the moment."""
    bench.stop_seconds = bench.load_seconds = bench.download_seconds = lambda model: FOREVER
    bench.probe_seconds = bench.reclaim_seconds = lambda: 0.0
    bench.reclaim_steps = lambda: 1
    bench._agenda.clear()
    bench.scheduler._levels.is_probing = False  # the answer was on the agenda


def plan(bench: Bench) -> None:
    """The queue is planned for, in this moment, until nothing more follows."""
    bench.scheduler._needs_plan = True
    bench._perform(bench.scheduler._advance(bench.now))
    while bench.scheduler._levels.is_probing:
        assert bench.step(bench.now)


def end(bench: Bench, names: Collection[str]) -> None:
    """These models end, all in one moment: no request runs on them or waits for them, and their processes are gone."""
    bench.scheduler._levels.is_probing = True  # no plan is made between two of them
    for name in names:
        bench.unload(name, force=True)
        if name in bench.processes:
            bench._exit(bench.processes[name], "stopped")
    while bench._agenda and bench._agenda[0][0] <= bench.now:
        bench.step(bench.now)
    bench.scheduler._levels.is_probing = False


def end_requests(bench: Bench, names: Collection[str]) -> None:
    """The requests that run on these models end."""
    bench.scheduler._levels.is_probing = True
    for name in names:
        for ticket in [*bench.leases[name]]:
            bench.end(bench.requests[ticket])
    bench.scheduler._levels.is_probing = False


def starts(bench: Bench, name: str, effects_before: int) -> bool:
    """It is started, is served, or idle models are stopped for it."""
    for effect in bench.effects[effects_before:]:
        match effect:
            case Spawn(model) | Grant(_, model) if model == name:
                return True
            case Stop(_, why) if why.model == name:
                return True
    return False


def is_blurred(bench: Bench) -> bool:
    levels = bench.scheduler._levels
    if levels.last_snapshot is None:
        return False
    totals = bench.scheduler.snapshot(levels.last_snapshot.readings).totals
    return bool(totals.counted_twice or totals.counted_early)


def judge(make: Callable[[], Bench], met: Counter[object]) -> None:
    """Each entry of the queue of such a machine."""
    bench = make()
    queue, is_clear = bench.scheduler.queue(bench.now), not is_blurred(bench)
    is_certain = is_clear or not any(bench.others.values())
    for waiting in queue:
        names = [blocker.model for blocker in waiting.why.blockers]
        if waiting.why.kind in OWN or waiting.model in names or len(names) > TRIED_AGAIN or not is_certain:
            continue
        met[waiting.why.kind] += 1
        met[waiting.why.kind, len(names)] += 1
        for count in range(len(names) + 1):
            for some in combinations(names, count):
                met["combinations"] += 1
                judge_end(make(), waiting, some, is_enough=bool(names) and count == len(names))
        if waiting.position == 1 and waiting.why.kind in (Kind.DRAINING, Kind.DRAIN_GRACE):
            check_requests(make(), waiting, names, met)


def judge_end(bench: Bench, waiting: Waiting, some: Collection[str], *, is_enough: bool) -> None:
    before = len(bench.effects)
    end(bench, some)
    plan(bench)
    assert starts(bench, waiting.model, before) == is_enough, (waiting, some)


def check_requests(bench: Bench, waiting: Waiting, names: Collection[str], met: Counter[object]) -> None:
    """Where requests alone are in the way, it is enough that these end."""
    models = [bench.scheduler.model(name) for name in names]
    if waiting.background or any(not m.leases or m.closing or m.stays_until > bench.now for m in models):
        return
    before = len(bench.effects)
    end_requests(bench, names)
    plan(bench)
    assert starts(bench, waiting.model, before), waiting
    met["requests"] += 1


# Machines that are made for it


@dataclass(frozen=True)
class There:
    """A model that is there. `state`: `idle`, `busy`, `asleep`, `loading`, `stopping` or `closing`."""

    need: Demand
    state: str
    pinned: bool
    min_loaded: float


@dataclass(frozen=True)
class Asked:
    need: Demand
    background: bool
    priority: int
    requests: int


@dataclass(frozen=True)
class Recipe:
    """`since` is for how long the requests have waited, in seconds."""

    gpus: tuple[int, ...]
    room: int
    there: tuple[There, ...]
    asked: tuple[Asked, ...]
    others: tuple[int, ...]
    models_max: int
    drain_grace: float
    since: float

    def make(self) -> Bench:
        bench = Bench(
            self.room,
            gpus=self.gpus,
            models_max=self.models_max,
            queue_timeout=0,
            drain_grace=FOREVER,
            poll=FOREVER,
        )
        requests: dict[str, Request] = {}
        for number, there in enumerate(self.there):
            name = f"there-{number}"
            seconds = FOREVER if there.state == "loading" else 1.0
            bench.load_seconds = lambda model, seconds=seconds: seconds  # type: ignore[misc]
            request = bench.ask(name, there.need, pinned=there.pinned, min_loaded=there.min_loaded)
            bench.run(3)
            if request.granted or bench.state(name) is State.LOADING:
                requests[name] = request
            elif request.waits:  # it does not fit beside those before
                bench.leave(request)
        freeze(bench)
        for name, request in requests.items():
            there = self.there[int(name.rpartition("-")[2])]
            if there.state in ("idle", "asleep"):
                bench.end(request)
            if there.state == "asleep":
                bench.sleep(name)
            if there.state in ("stopping", "closing"):
                bench.unload(name, force=there.state == "stopping")
        for device, held in zip(bench.devices, self.others, strict=False):
            bench.others[device.key] = min(held, bench.free(device))
        bench.scheduler.limits = replace(bench.scheduler.limits, drain_grace=self.drain_grace)
        for number, asked in enumerate(self.asked):
            for _ in range(asked.requests):
                bench.ask(f"asked-{number}", asked.need, background=asked.background, priority=asked.priority)
        plan(bench)
        bench.now += self.since
        plan(bench)
        return bench


NEEDS = st.builds(
    lambda split, fixed, host, names: Demand(split, fixed, host, names),
    st.sampled_from([0, 2, 4, 6, 8, 12, 18]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 2, 6]),
    st.sampled_from([(), (), (), ("GPU0",)]),
)
RECIPES = st.builds(
    Recipe,
    gpus=st.sampled_from([(10,), (20,), (10, 10), (8, 16)]),
    room=st.sampled_from([10, 20]),
    there=st.lists(
        st.builds(
            There,
            need=NEEDS,
            state=st.sampled_from(["idle", "busy", "busy", "busy", "asleep", "loading", "stopping", "closing"]),
            pinned=st.sampled_from([False, False, False, True]),
            min_loaded=st.sampled_from([0.0, 0.0, 0.0, 100.0]),
        ),
        max_size=5,
    ).map(tuple),
    asked=st.lists(
        st.builds(
            Asked,
            need=NEEDS,
            background=st.sampled_from([False, False, True]),
            priority=st.sampled_from([0, 0, 1]),
            requests=st.integers(1, 3),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    others=st.sampled_from([(), (), (3,), (0, 5), (2, 2, 2)]),
    models_max=st.sampled_from([0, 0, 1, 2, 3]),
    drain_grace=st.sampled_from([0.0, 10.0]),
    since=st.sampled_from([0.0, 5.0, 30.0]),
)


@pytest.mark.usefixtures("unmeasured")
def test_the_end_of_those_who_are_named_is_exactly_what_it_takes() -> None:  # B-O2
    met: Counter[object] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(RECIPES)
    def on_each(recipe: Recipe) -> None:
        judge(recipe.make, met)

    on_each()
    assert all(met[kind] for kind in set(Kind) - set(OWN)), met
    assert met["requests"]
    assert sum(met[kind, 2] for kind in Kind)


# Machines after a long walk


def walked(shape: str, seed: int) -> Bench:
    """So that readings are clear, or at least what is booked is held."""
    walk = Walk(shape, seed)
    bench = walk.bench
    bench.probe_seconds = bench.reclaim_seconds = bench.measure_seconds = lambda: 0.0
    bench.takes_less = lambda: False
    walk.luck[walk.lose] = walk.luck[walk.breakage] = 0
    walk.luck[walk.others] = 2 * (seed % 2)
    walk.act()
    while bench.events < 60 + 37 * seed % 240:
        bench.step(float("inf"))
    freeze(bench)
    plan(bench)
    return bench


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("shape", ["cpu", "one gpu", "two unequal gpus", "four unequal gpus"])
def test_after_a_walk_too(shape: str) -> None:  # B-O2
    assert shape in SHAPES
    met: Counter[object] = Counter()
    for seed in range(8):
        judge(lambda seed=seed: walked(shape, seed), met)  # type: ignore[misc]
    assert met["combinations"]


# The fewest that are enough


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=1), min_size=1))
def test_of_fewer_none_are_enough(enough: list[set[str]]) -> None:
    """Whatever is enough: more need not be better."""

    def is_enough(some: Collection[str]) -> bool:
        return set(some) in enough or len(some) == 5

    found = smallest("abcde", is_enough)
    assert is_enough(found)
    assert not any(is_enough(some) for count in range(1, len(found)) for some in combinations(found, count))


def test_the_first_ones_are_kept() -> None:
    assert smallest("abcdef", lambda some: len(some) >= 2) == ("a", "b")
    assert smallest("a", lambda some: True) == ("a",)


def test_few_of_many_are_found_without_trying_each() -> None:
    asked = 0

    def is_enough(some: Collection[str]) -> bool:
        nonlocal asked
        asked += 1
        return "m40" in some

    assert smallest([f"m{number}" for number in range(64)], is_enough) == ("m40",)
    assert asked < 20
