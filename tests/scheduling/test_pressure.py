"""Other programs take what is to stay free: it is noticed, and idle models go for it if the operator wishes."""

from __future__ import annotations

from typing import Any

import pytest

from router.scheduling.effects import Probe, Stop
from router.scheduling.pressure import BEGINS_AFTER_S, Pressure
from router.scheduling.resources import Demand, Device, Reading
from tests.scheduling.bench import RAM, Bench

GPU = "here/GPU0"
POLL = 5.0
HOST = Device("here", "RAM", "host", 1000)


def rig(*, stops: bool = True, **more: Any) -> Bench:
    return Bench(**{"room": 30, "pressure_poll": POLL, "stops_for_others": stops, **more})


def loaded(bench: Bench, *names: str, need: int | Demand = 5, **more: Any) -> None:
    """One after the other: the first was used the longest ago."""
    for name in names:
        bench.ask(name, need, serve=0.1, **more)
        bench.run(3)


def probes(bench: Bench) -> int:
    return sum(isinstance(effect, Probe) for effect in bench.effects)


def reasons(bench: Bench) -> list[str]:
    return [effect.why.text for effect in bench.effects if isinstance(effect, Stop)]


# B-D9
def test_it_is_told_and_nothing_goes_unless_the_operator_wishes() -> None:
    bench = rig(stops=False)
    loaded(bench, "a", "b")
    bench.others[RAM] = 25
    bench.run(3 * POLL)
    assert bench.scheduler.pressure.missing == {RAM: 5}
    assert bench.scheduler.pressure.episodes == 1
    assert bench.stops == []
    bench.others[RAM] = 0
    bench.run(2 * POLL)
    assert bench.scheduler.pressure.missing == {}


# B-D9
def test_idle_models_go_until_the_margin_is_free_the_least_recently_used_first() -> None:
    bench = rig()
    loaded(bench, "a", "b", "c")
    bench.others[RAM] = 21
    bench.run(4 * POLL)
    assert bench.stops == ["a", "b"]  # 15 and 21 of 30
    assert reasons(bench)[0].startswith("memory pressure on here/RAM")
    assert bench.scheduler.pressure.missing == {}


def test_one_that_is_not_needed_stays() -> None:
    bench = rig()
    loaded(bench, "small", need=1)
    loaded(bench, "large", need=9)
    bench.others[RAM] = 25  # 5 are missing
    bench.run(4 * POLL)
    assert bench.stops == ["large"]


def test_busy_pinned_and_young_models_never_go() -> None:
    bench = rig()
    loaded(bench, "pinned", pinned=True)
    loaded(bench, "young", min_loaded=1000.0)
    bench.ask("busy")
    bench.run(3)
    bench.others[RAM] = 29
    bench.run(10 * POLL)
    assert bench.stops == []
    assert bench.scheduler.pressure.missing


def test_a_model_that_a_client_wants_to_stay_goes_last() -> None:
    bench = rig()
    loaded(bench, "stays", ttl=float("inf"))
    loaded(bench, "other")
    bench.others[RAM] = 25
    bench.run(4 * POLL)
    assert bench.stops == ["other"]


def test_each_device_counts_by_itself() -> None:
    bench = rig(gpus=[20])
    loaded(bench, "on_ram", need=Demand(host=8))
    loaded(bench, "on_gpu", need=Demand(split=8))
    bench.others[GPU] = 15
    bench.run(4 * POLL)
    assert bench.stops == ["on_gpu"]
    assert bench.scheduler.pressure.missing == {}


def test_one_that_sleeps_holds_nothing_and_stays() -> None:
    bench = rig()
    loaded(bench, "asleep", "awake")
    bench.sleep("asleep")
    bench.others[RAM] = 26
    bench.run(4 * POLL)
    assert bench.stops == ["awake"]


def test_a_device_that_is_not_checked_is_never_short() -> None:
    bench = rig(checked=False)
    loaded(bench, "a")
    bench.others[RAM] = 31
    bench.run(4 * POLL)
    assert bench.stops == []
    assert bench.scheduler.pressure.missing == {}


# B-D9
def test_without_processes_nobody_looks_and_with_them_not_too_often() -> None:
    bench = rig()
    bench.run(100 * POLL)
    assert probes(bench) == 0
    assert bench.scheduler.wakeup() is None
    loaded(bench, "a")
    before = probes(bench)
    bench.run(10 * POLL)
    assert probes(bench) - before in range(8, 12)
    bench.unload("a")
    bench.run(30)
    before = probes(bench)
    bench.run(100 * POLL)
    assert probes(bench) == before
    assert bench.scheduler.wakeup() is None


def test_a_request_is_served_as_ever_while_memory_is_short() -> None:
    bench = rig()
    loaded(bench, "a", "b")
    bench.others[RAM] = 25
    request = bench.ask("b")
    assert request.granted  # at once
    bench.run(4 * POLL)
    assert bench.stops == ["a"]
    assert not request.ended


def read(pressure: Pressure, now: float, free: int | None, margin: int = 160, returning: Any = ()) -> dict[str, int]:
    pressure.read([Reading(HOST, free)], [_Alive()], {RAM: margin}, returning, now)  # type: ignore[list-item]
    return pressure.missing


class _Alive:
    """A process that holds nothing."""

    held: dict[str, int] = {}  # noqa: RUF012
    state = None
    is_asleep = False


def test_an_episode_begins_and_ends_a_little_away_from_the_margin() -> None:
    pressure = Pressure()
    assert read(pressure, 0, 100) == {}  # the first time
    assert read(pressure, BEGINS_AFTER_S / 2, 100) == {}
    assert read(pressure, BEGINS_AFTER_S, 100) == {RAM: 70}
    for now, free in enumerate((159, 161, 169, 151), start=2):
        assert read(pressure, now, free) == {RAM: 170 - free}
    assert read(pressure, 6, 170) == {}
    for now, free in enumerate((155, 160, 151, 155), start=7):
        assert read(pressure, now, free) == {}
    assert pressure.episodes == 1


def test_a_short_moment_is_no_episode() -> None:
    pressure = Pressure()
    for now in range(10):
        assert read(pressure, now, 100 if now % 2 else 200) == {}
    assert pressure.episodes == 0


@pytest.mark.parametrize("free", [None, 100])
def test_a_reading_that_says_nothing_begins_nothing(free: int | None) -> None:
    pressure = Pressure()
    for now in range(10):
        assert read(pressure, now, free, returning=[RAM]) == {}
