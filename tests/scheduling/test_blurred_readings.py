"""What is decided upon a reading from the middle of a load, a wake-up, a stop or a return of memory.

The properties of random machines in `test_policy` hold for such readings too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from router.scheduling.effects import Probe
from router.scheduling.policy import Drain, Evict, Place, Wait, after_plan, plan
from router.scheduling.resources import Allocation, Demand
from router.scheduling.snapshot import Phase, Resident
from tests.scheduling.bench import RAM as RAM_KEY
from tests.scheduling.bench import Bench
from tests.scheduling.machines import RAM, gpus, on, snapshot, where

# One plan


A, B = on(Phase.IDLE, "a", GPU0=139), on(Phase.LOADING, "b", GPU1=139)
C = on(Phase.LOADING, "c", GPU0=73)
WAKING = replace(on(Phase.BUSY, "b", GPU1=139), sleeping=True)
DRAINING = replace(on(Phase.BUSY, "a", GPU0=139), draining=True)


def on_one(need: int) -> Demand:
    """On two GPUs it would need nearly twice as much."""
    return Demand(split=1, fixed=need - 1)


@pytest.mark.parametrize("others", [0, 8, 18])
@pytest.mark.parametrize("shown", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("loading", [B, WAKING], ids=["loads", "wakes up"])
@pytest.mark.parametrize("a", [A, replace(A, phase=Phase.BUSY), DRAINING], ids=["idle", "busy", "draining"])
def test_a_load_that_shows_in_part_is_waited_for(a: Resident, loading: Resident, shown: float, others: int) -> None:
    """Two GPUs of 24 GiB, less a margin of 1 each; in tenths of a GiB."""  # B-S17
    machine = snapshot(
        [*gpus(240, 240), RAM], a, loading, C, margin=10, shown={"b": shown, "c": 0.5}, others={"GPU1": others}
    )
    outcome = plan(machine, Demand(split=73))
    assert isinstance(outcome, Place if loading is WAKING and others + 139 * shown <= 18 else Wait)
    assert where(outcome) == {"GPU1": 73}


@pytest.mark.parametrize("shown", [0.0, 0.3, 1.0])
def test_a_load_that_leaves_too_little_whatever_it_shows_is_not_waited_for(shown: float) -> None:  # B-S17
    machine = snapshot([*gpus(240, 240), RAM], A, B, C, margin=10, shown={"b": shown})
    assert plan(machine, on_one(92)) == Evict(("a",), Allocation({"here/GPU0": 92}, gpus(240)))
    busy = snapshot([*gpus(240, 240), RAM], replace(A, phase=Phase.BUSY), B, C, margin=10, shown={"b": shown})
    assert plan(busy, on_one(92)) == Drain(("a",), Allocation({"here/GPU0": 92}, gpus(240)))


def test_what_other_programs_surely_hold_is_not_waited_for() -> None:  # B-S17
    """Of the 199 that are used, the load holds 139 at most."""
    machine = snapshot([*gpus(240, 240), RAM], A, B, C, margin=10, shown={"b": 1}, others={"GPU1": 60})
    assert isinstance(plan(machine, on_one(31)), Wait)
    assert isinstance(plan(machine, on_one(32)), Evict)


def test_a_load_that_took_more_than_it_was_promised() -> None:  # B-S17
    machine = snapshot([*gpus(240, 240), RAM], A, B, C, margin=10, shown={"b": 1.1})
    assert isinstance(plan(machine, on_one(78)), Wait)  # the reading alone leaves 78
    assert isinstance(plan(machine, on_one(79)), Evict)


@pytest.mark.parametrize("back", [0, 0.5, 1])
def test_what_an_ended_model_has_not_given_back_is_waited_for(back: float) -> None:  # B-S17
    missing = int(139 * (1 - back))
    machine = snapshot([*gpus(240, 240), RAM], A, margin=10, returning={"GPU1": missing})
    outcome = plan(machine, on_one(200))
    assert isinstance(outcome, Wait if missing else Place)
    assert where(outcome) == {"GPU1": 200}


def test_victims_are_enough_whatever_a_stopping_model_has_given_back() -> None:  # B-S17
    """One GPU with room for 230: other programs hold 60, of the 100 of a stopping model nothing shows any more. Once it
    is gone there are 170, and 190 without the idle one: so nobody goes for 200, nor for 195."""
    idle, stopping = on(Phase.IDLE, "idle", GPU0=20), on(Phase.STOPPING, "s", GPU0=100)
    machine = snapshot([*gpus(240), RAM], idle, stopping, margin=10, shown={"s": 0}, others={"GPU0": 40})
    outcome = plan(machine, Demand(split=225))
    assert isinstance(outcome, Wait)
    assert outcome.undecided == ("idle",)
    ended = snapshot([*gpus(240), RAM], idle, margin=10, others={"GPU0": 40})
    assert plan(ended, Demand(split=225)) == Wait(
        "pinned models, other programs or requests further ahead hold the memory or the slots"
    )
    assert isinstance(plan(ended, Demand(split=185)), Evict)
    alone = snapshot([*gpus(240), RAM], idle, stopping, margin=10, shown={"s": 1})
    assert isinstance(plan(alone, Demand(split=225)), Wait)  # it shows all: those may be other programs too


def test_a_load_that_this_pass_began_shows_nothing() -> None:  # B-S17
    machine = snapshot([*gpus(100, 100), RAM], on(Phase.IDLE, "idle", GPU1=60), others={"GPU0": 30})
    behind = after_plan(machine, plan(machine, Demand(split=60)), "first")
    assert isinstance(plan(behind, Demand(split=39)), Evict | Wait | Place)
    assert where(plan(behind, Demand(split=50))) == {"GPU1": 50}
    assert isinstance(plan(behind, Demand(split=50)), Evict)


# The scheduler


def test_a_load_in_steps_costs_no_idle_model() -> None:  # B-S17
    """Two GPUs: the first holds an idle model and a small load, the second one a large load that takes its time."""
    bench = Bench(gpus=[23, 23])
    bench.ask("a", Demand(split=13, names=("GPU0",)), serve=0.1)
    bench.run(5)
    bench.others["here/GPU1"] = 1
    bench.load_seconds = lambda model: 30.0 if model == "b" else 5.0
    bench.load_steps = lambda: 10
    bench.ask("b", Demand(split=13, names=("GPU1",)))
    bench.ask("c", Demand(split=7, names=("GPU0",)))
    bench.run(15)
    waiter = bench.ask("d", Demand(split=1, fixed=6))
    bench.run(10)
    assert waiter.waits
    assert bench.stops == []
    bench.run(15)
    assert waiter.granted
    assert bench.stops == []


def test_a_load_that_hangs_is_waited_for_until_it_ends_and_no_longer() -> None:  # B-S17
    bench = Bench(gpus=[23])
    bench.ask("a", 5, serve=0.1)
    bench.run(5)
    bench.others["here/GPU0"] = 4
    bench.load_seconds = lambda model: 1000.0 if model == "hangs" else 1.0
    bench.load_steps = lambda: 1
    bench.ask("hangs", 10)
    bench.run(1)
    bench.processes["hangs"].shown = 0.5
    waiter = bench.ask("b", 9)
    bench.run(100)
    assert waiter.waits
    assert bench.stops == []
    bench.crash("hangs")  # its time is over
    bench.run(3)
    assert waiter.granted
    assert bench.stops == []  # there was room all along


def test_a_load_that_dies_half_way_gives_back_late() -> None:  # B-S17
    bench = Bench(gpus=[23])
    bench.ask("a", 8, serve=0.1)
    bench.run(5)
    bench.broken.add("b")
    bench.reclaim_seconds, bench.reclaim_steps = lambda: 5.0, lambda: 2
    bench.others["here/GPU0"] = 3
    bench.ask("b", 11)
    bench.run(0.6)
    waiter = bench.ask("c", 11)
    bench.run(4)
    assert waiter.waits
    assert bench.stops == []
    bench.run(4)
    assert waiter.granted
    assert bench.stops == []


@pytest.mark.parametrize(("returns", "evicted"), [(14.0, []), (1000.0, ["a"])])
def test_memory_that_is_owed_is_waited_for_for_a_while(returns: float, evicted: list[str]) -> None:  # B-S17
    bench = Bench(gpus=[23])
    for model in ("b", "a"):
        bench.ask(model, 8, serve=0.1)
        bench.run(5)
    bench.reclaim_seconds = lambda: returns
    bench.unload("b")
    bench.run(1)
    bench.reclaim_seconds = lambda: 0.0
    waiter = bench.ask("c", 10)
    bench.run(18)
    assert waiter.granted
    assert bench.stops == ["b", *evicted]


def test_memory_that_another_program_took_is_not_waited_for_again_and_again() -> None:  # B-S17
    """It looks as if the first model had not given back; models that come and go do not make that wait longer."""
    bench = Bench(gpus=[23])
    for model in ("gone", "a", "b"):
        bench.ask(model, 7, serve=0.1)
        bench.run(5)
    bench.reclaim_seconds = lambda: 1.0
    bench.unload("gone")
    bench.others["here/GPU0"] = 5
    waiter = bench.ask("c", 7)
    for _ in range(20):
        bench.ask("small", 1, serve=0.1, priority=9)
        bench.run(0.5)
        bench.unload("small")
        bench.run(0.5)
    assert waiter.granted
    assert bench.stops.count("a") + bench.stops.count("b") == 1


def test_a_reading_from_before_a_model_fell_asleep_is_thrown_away() -> None:  # B-S17
    bench = Bench(room=20)
    bench.ask("a", 5, serve=0)
    bench.ask("b", 5, serve=0)
    bench.run(5)
    bench.others[RAM_KEY] = 4
    bench.probe_seconds = lambda: 1.0
    waiter = bench.ask("c", 5)
    bench.sleep("a")  # it holds nothing any more; the reading that is on its way shows it still
    bench.run(5)
    assert waiter.granted
    assert bench.stops == []


def test_a_begun_drain_goes_on_while_small_models_load() -> None:  # B-S7 B-S17
    bench = Bench(gpus=[40], drain_grace=0)
    bench.ask("busy", 20, serve=30)
    bench.run(2)
    bench.others["here/GPU0"] = 7
    big = bench.ask("big", 30)
    bench.load_seconds, bench.load_steps = lambda model: 8.0, lambda: 4
    bench.ask("small", 3)
    bench.run(2)
    for _ in range(10):
        assert bench.ask("busy").waits
        bench.run(1)
    assert big.waits


# Settling: what is needed


def expectations(bench: Bench) -> list[tuple[Mapping[str, int], Mapping[str, int]]]:
    return [(effect.expected, effect.enough) for effect in bench.effects if isinstance(effect, Probe)]


def test_a_probe_says_what_is_enough_for_the_first_in_the_queue() -> None:  # B-D6
    bench = Bench(gpus=[40, 20], room=50)
    for model, need in (("a", 30), ("b", Demand(split=15, names=("GPU1",), host=7))):
        bench.ask(model, need, serve=0.1)
        bench.run(5)
    bench.unload("a")
    bench.run(1)
    bench.ask("c", Demand(split=21, fixed=1, host=2))
    # 37 of the 41 should be free; the model needs 22 and the margin. Host: 2, and the margin.
    assert expectations(bench)[-1] == ({"here/GPU0": 38}, {"here/GPU0": 23, RAM_KEY: 3})


def test_after_running_out_of_memory_only_what_is_needed_is_waited_for() -> None:  # B-D6 B-S13
    bench = Bench(gpus=[40])
    for model in ("a", "b"):
        bench.ask(model, 10, serve=0.1)
        bench.run(5)
    bench.starved["c"] = 1
    stops = iter([0.5, 1.5])
    bench.stop_seconds = lambda model: next(stops)
    waiter = bench.ask("c", 10)
    bench.run(1)
    bench.others["here/GPU0"] = 20  # another program was faster
    assert bench.stops == ["a", "b"]
    before = len(expectations(bench))
    bench.run(5)
    assert waiter.granted
    first, *more = expectations(bench)[before - 1 :]
    assert first == ({}, {})  # two stops are pending: nothing can start yet
    assert more[-1][1] == {"here/GPU0": 11}


def test_a_start_that_waits_for_a_load_waits_for_no_memory() -> None:  # B-D6
    bench = Bench(gpus=[40])
    bench.ask("a", 10, serve=0.1)
    bench.run(5)
    bench.load_seconds = lambda model: 30.0
    bench.ask("slow", 10)
    bench.run(1)
    bench.unload("a")
    bench.run(1)
    waiter = bench.ask("c", 5)
    bench.run(1)
    assert expectations(bench)[-1] == ({}, {})
    bench.load_seconds = lambda model: 1.0
    bench.run(33)
    assert waiter.granted


def test_a_model_that_sleeps_owes_nothing_when_it_ends() -> None:  # B-D6
    bench = Bench(gpus=[40])
    bench.ask("a", 30, serve=0)
    bench.run(5)
    bench.sleep("a")
    bench.ask("b", 5, serve=0)
    bench.run(5)
    bench.unload("a")
    bench.run(1)
    bench.others["here/GPU0"] = 20
    assert bench.ask("c", 15).waits
    expected, _ = expectations(bench)[-1]
    assert expected == {"here/GPU0": 36}
    assert bench.scheduler._levels.returning == {}
