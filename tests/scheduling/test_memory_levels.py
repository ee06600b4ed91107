"""What a Probe expects to be free, and which readings are decided upon."""

from __future__ import annotations

from collections.abc import Mapping

from router.scheduling.books import ModelRecord
from router.scheduling.effects import Probe
from router.scheduling.memory_levels import SETTLE_WINDOW_S, MemoryLevels
from router.scheduling.resources import Device, Reading
from router.scheduling.states import State
from tests.scheduling.bench import RAM, Bench


def probes(bench: Bench) -> list[Mapping[str, int]]:
    return [effect.expected for effect in bench.effects if isinstance(effect, Probe)]


def test_the_probe_after_an_exit_tells_what_should_come_back() -> None:  # B-D6
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    bench.ask("b")
    bench.run(5)
    assert probes(bench) == [{}, {}, {RAM: 10}]
    bench.ask("c", 4)
    assert probes(bench)[-1] == {}  # it was waited for


def test_several_exits_are_expected_together() -> None:  # B-D6
    bench = Bench(room=90)
    for model in "ab":
        bench.ask(model, 40, serve=1)
        bench.run(5)
    bench.reclaim_seconds = lambda: 1.0
    bench.ask("c", 90)
    bench.run(0.5)
    # The first reading may come before the second exit is reported. An estimate may be a tenth too high.
    assert probes(bench)[-2:] == [{RAM: 11 + 36}, {RAM: 11 + 36 + 36}]


def test_probe_does_not_expect_what_new_processes_took() -> None:  # B-D6
    bench = Bench(room=90)
    bench.ask("a", 40, serve=1)
    bench.run(5)
    bench.ask("b", 20, serve=1)
    bench.run(5)
    bench.unload("a")  # there was no reading since b was loaded
    bench.ask("c", 60)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91 - 40 - 20 + 36}


def test_a_load_that_ends_gives_back_what_it_took() -> None:  # B-D6
    bench = Bench(room=90)
    bench.broken.add("a")
    bench.ask("a", 40)
    bench.run(0.5)
    bench.ask("b", 60)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91}


def test_probe_expects_the_measured_memory_back() -> None:  # B-D6 B-D7
    bench = Bench(room=90)
    bench.takes_less = lambda: True
    bench.ask("a", 40, serve=1)
    bench.run(5)
    bench.ask("b", 80)
    bench.run(5)
    assert probes(bench)[-1] == {RAM: 91 - 36 + 33}


def test_probe_does_not_expect_what_new_processes_were_measured_to_hold() -> None:  # B-D6 B-D7
    bench = Bench(room=90)
    bench.takes_less = lambda: True
    for model in "ab":
        bench.ask(model, 40)
        bench.run(5)
    bench.crash("a")  # there was no reading since b was loaded
    bench.ask("a", 40)
    assert probes(bench)[-1] == {RAM: 91 - 36 + 33 - 36}


def test_exit_before_the_settle_window_is_not_expected() -> None:  # B-D6
    bench = Bench(room=9)
    bench.ask("a", serve=1, ttl=1)
    bench.run(10)
    assert bench.stops == ["a"]
    bench.run(SETTLE_WINDOW_S)
    bench.ask("b")
    assert probes(bench) == [{}, {}]


def test_reading_from_before_an_exit_is_thrown_away() -> None:  # B-S11
    bench = Bench(room=9)
    a = bench.ask("a", 4)
    bench.run(2)
    bench.probe_seconds = lambda: 0.2
    b = bench.ask("b", 9)
    bench.crash("a")
    bench.run(0.2)
    assert probes(bench)[-2:] == [{}, {RAM: 10}]
    assert bench.spawns == ["a"]
    bench.run(5)
    assert a.granted
    assert b.granted


def test_reading_from_before_a_wake_up_is_thrown_away() -> None:  # B-S11
    bench = Bench(room=9)
    bench.ask("a", serve=0)
    bench.run(2)
    bench.sleep("a")
    bench.others[RAM] = 4
    bench.ask("a")
    bench.probe_seconds = lambda: 1.0
    waiter = bench.ask("b", 2)  # the bench wakes "a" while the probe is out
    bench.run(5)
    assert waiter.waits


def test_memory_that_comes_back_late_is_waited_for() -> None:
    bench = Bench(room=9)
    bench.reclaim_seconds = lambda: 3.0
    bench.ask("a", serve=1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.run(3)
    assert bench.spawns == ["a"]
    bench.run(3)
    assert waiter.granted


def test_one_probe_at_a_time() -> None:
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    for model in "abcdef":
        bench.ask(model, 1)
    assert probes(bench) == [{}]
    bench.run(0.2)
    assert bench.spawns == ["a"]


# The levels alone

MACHINE = Device("here", "RAM", "host", 100)


def levels_of(free: int, *models: ModelRecord) -> MemoryLevels:
    levels = MemoryLevels()
    levels.read([Reading(MACHINE, free)], models)
    return levels


def test_a_load_is_subtracted_until_a_reading_shows_it() -> None:
    model = ModelRecord("a", State.LOADING, held={RAM: 40})
    levels = levels_of(90, model)
    ended = ModelRecord("b", State.LOADED, held={RAM: 0})
    levels.give_back(ended, 1.0)
    assert levels.probe([model], 2.0) == Probe({RAM: 50})
    model.state = State.LOADED
    levels.read([Reading(MACHINE, 50)], [model])
    levels.give_back(ended, 3.0)
    assert levels.probe([model], 4.0) == Probe({RAM: 50})


def test_an_exit_gives_back_all_but_a_tenth() -> None:
    model = ModelRecord("a", State.LOADED, held={RAM: 40})
    levels = levels_of(60, model)
    levels.give_back(model, 1.0)
    assert levels.probe([], 1.0 + SETTLE_WINDOW_S) == Probe({RAM: 96})
    assert (levels.is_probing, levels.reading_outdated) == (True, False)
    assert levels.probe([], 2.0) == Probe({})  # it was expected once


def test_a_stopping_process_counts_once_its_exit_is_reported() -> None:
    model = ModelRecord("a", State.LOADED, held={RAM: 40})
    levels = levels_of(60, model)
    model.state = State.STOPPING
    levels.read([Reading(MACHINE, 90)], [model])  # most of its memory is back already
    assert levels.last_free == {RAM: 60}
    levels.give_back(model, 1.0)
    assert levels.probe([], 1.0) == Probe({RAM: 96})


def test_a_process_that_stops_while_its_device_cannot_be_read_may_have_given_all_of_it_back() -> None:
    model = ModelRecord("a", State.STOPPING, held={RAM: 40})
    levels = MemoryLevels()
    levels.read([Reading(MACHINE, None)], [model])
    levels.read([Reading(MACHINE, 80)], [model])  # the device is back, and so is half of the memory
    levels.give_back(model, 1.0)
    assert levels.probe([], 1.0) == Probe({RAM: 76})  # of 100 that will be free, and never more


def test_a_device_that_cannot_be_read_is_not_expected() -> None:
    model = ModelRecord("a", State.LOADED, held={RAM: 40})
    levels = MemoryLevels()
    levels.read([Reading(MACHINE, None)], [model])
    levels.give_back(model, 1.0)
    assert levels.probe([], 1.0) == Probe({})
