"""Why processes are stopped: what programs read, and what people read."""

from __future__ import annotations

import pytest

from router.scheduling.causes import Cause, Shortage, Why
from router.scheduling.effects import Stop
from tests.scheduling.bench import Bench


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("requests", [0, 2])
def test_each_cause_has_a_sentence(cause: Cause, requests: int) -> None:
    why = Why(cause, "b" if cause.is_eviction else "", requests, 20.0, Shortage({"h/G": 5}, {"h/G": 3}))
    assert why.text
    assert ("b" in why.text) == cause.is_eviction


def test_what_is_missing_is_told_by_device() -> None:
    assert Shortage({"a": 5, "b": 2, "c": 4}, {"a": 3, "b": 2, "c": -1}).missing == {"a": 2, "c": 5}
    assert Shortage({"a": 5}).missing == {}  # nobody knows


def test_an_eviction_says_what_was_missing() -> None:
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    bench.ask("b", serve=1)
    bench.run(5)
    stop = bench.last(Stop)
    assert isinstance(stop, Stop)
    assert (stop.model, stop.why.cause, stop.why.model) == ("a", Cause.MEMORY, "b")
    shortage = stop.why.shortage
    assert {key: need - shortage.free[key] for key, need in shortage.need.items()} == shortage.missing != {}


def test_an_eviction_for_a_slot_misses_no_memory() -> None:
    bench = Bench(room=99, models_max=1)
    bench.ask("a", serve=1)
    bench.run(5)
    bench.ask("b", serve=1)
    bench.run(5)
    stop = bench.last(Stop)
    assert isinstance(stop, Stop)
    assert (stop.why.cause, stop.why.model, stop.why.shortage.missing) == (Cause.COUNT, "b", {})
