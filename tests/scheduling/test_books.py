"""What is remembered of a model, above all its failures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from router.scheduling.books import STEADY_S, Books, ModelRecord
from router.scheduling.causes import Cause, Why
from router.scheduling.effects import Refusal, Refuse, Spawn, Stop
from router.scheduling.limits import Limits
from router.scheduling.resources import Allocation, Demand
from router.scheduling.scheduler import Scheduler
from router.scheduling.snapshot import Phase, Resident
from router.scheduling.states import Event, State
from router.scheduling.waiting_line import Ticket
from tests.scheduling.bench import RAM, Bench

WHY = Why(Cause.UNLOAD)


def test_policy_sees_a_model_as_it_is_now() -> None:
    model = ModelRecord("a", State.LOADED, held={RAM: 5}, ready_at=1.0)
    first = model.resident()
    assert first == Resident("a", {RAM: 5}, Phase.IDLE)
    changes: list[tuple[str, object, dict[str, object]]] = [
        ("leases", {1}, {"phase": Phase.BUSY}),
        ("draining", True, {"draining": True}),
        ("held", {RAM: 4}, {"held": {RAM: 4}}),
        ("pinned", True, {"pinned": True}),
        ("ttl", math.inf, {"goes_last": True}),
        ("finished", 2.0, {"finished": 2.0}),
        ("leases", set(), {"phase": Phase.IDLE}),
        ("state", State.SLEEPING, {"sleeping": True}),
        ("state", State.STOPPING, {"sleeping": False, "phase": Phase.STOPPING}),
        ("ready_at", 0.0, {"stopped_while_loading": True}),
    ]
    expected = first
    for name, value, seen in changes:
        setattr(model, name, value)
        expected = replace(expected, **seen)  # type: ignore[arg-type]
        assert model.resident() == expected
    model.state = State.UNLOADED
    assert model.resident() is None


def test_after_a_crash_the_next_request_loads_again() -> None:  # B-S14
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    assert bench.state("a") is State.FAILED
    request = bench.ask("a")
    bench.run(2)
    assert request.granted
    assert bench.spawns == ["a", "a"]


def test_failed_load_refuses_all_its_requests_with_the_reason() -> None:  # B-S14
    bench = Bench()
    bench.broken = {"a"}
    requests = [bench.ask("a") for _ in range(3)]
    bench.run(2)
    assert {request.refused for request in requests} == {Refusal.LOAD_FAILED}
    assert all(isinstance(r.answer, Refuse) and r.answer.reason == "it is broken" for r in requests)


def test_repeated_failures_back_off_and_say_why() -> None:  # B-S14
    bench = Bench(backoff_max=5)
    bench.broken = {"a"}
    pauses: list[float] = []
    for _ in range(6):
        assert bench.ask("a").waits
        bench.run(0.5)  # it fails
        refused = bench.ask("a")
        if not pauses and refused.waits:
            bench.run(0.5)  # the first failure is forgiven: this was a load again
            refused = bench.ask("a")
        assert refused.refused is Refusal.BACKING_OFF
        assert isinstance(refused.answer, Refuse)
        assert "last: it is broken" in refused.answer.reason
        assert refused.answer.retry_after is not None
        pauses.append(refused.answer.retry_after)
        bench.run(refused.answer.retry_after)
    assert pauses == [1, 2, 4, 5, 5, 5]


def test_no_number_of_failures_breaks_the_books() -> None:
    bench = Bench(backoff_max=1)
    bench.broken = {"a"}
    for _ in range(1100):
        bench.ask("a")
        bench.run(2)
    assert bench.scheduler.model("a").failures == 1100


def test_crash_after_steady_service_counts_as_first_failure() -> None:  # B-S14
    bench = Bench()
    for _ in range(4):
        request = bench.ask("a")
        bench.run(2)
        assert request.granted
        bench.run(STEADY_S)
        bench.crash("a")


def test_crashes_soon_after_the_load_back_off() -> None:  # B-S14
    bench = Bench()
    for _ in range(2):
        bench.ask("a")
        bench.run(2)
        bench.crash("a")
    assert bench.ask("a").refused is Refusal.BACKING_OFF
    bench.run(1)
    assert bench.ask("a").waits


def test_request_for_a_drained_crashing_model_is_refused() -> None:  # B-S14
    bench = Bench(room=9, drain_grace=0)
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    bench.ask("a")
    bench.run(2)
    other = bench.ask("b")
    bench.run(0)
    waiter = bench.ask("a")
    assert waiter.waits
    bench.crash("a")
    assert waiter.refused is Refusal.BACKING_OFF
    bench.run(2)
    assert other.granted


def test_unload_clears_the_failures() -> None:  # B-S14
    bench = Bench()
    bench.broken = {"a"}
    for _ in range(2):
        bench.ask("a")
        bench.run(1)
    assert bench.ask("a").refused is Refusal.BACKING_OFF
    bench.broken = set()
    bench.unload("a")
    request = bench.ask("a")
    bench.run(2)
    assert request.granted


def test_cancelled_load_keeps_the_failure_count() -> None:  # B-S14
    bench = Bench(finish_loads=False)
    bench.broken = {"a"}
    bench.ask("a")
    bench.run(1)
    left = bench.ask("a")
    bench.run(0.1)
    bench.leave(left)
    bench.run(5)
    assert bench.stops == ["a"]
    bench.ask("a")
    bench.run(0.6)
    assert bench.ask("a").refused is Refusal.BACKING_OFF


def test_an_orderly_stop_after_service_forgets_the_failures() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.crash("a")
    bench.ask("a", serve=1, ttl=1)
    bench.run(10)
    assert bench.stops == ["a"]
    assert bench.scheduler.model("a").failures == 0


# The books alone


def test_run_numbers_go_on_after_a_model_was_forgotten() -> None:
    books = Books()
    model = books.open("a")
    assert books.spawn(model, Allocation({RAM: 5})) == Spawn("a", 1, Allocation({RAM: 5}))
    assert (model.held, books.alive) == ({RAM: 5}, {"a": model})
    assert books.stop(model, WHY) == Stop("a", WHY)
    books.transit(model, Event.EXIT)
    assert books.alive == {}
    books.forget(model)
    assert books.find("a").run == 0  # not kept, so it is not numbered
    assert books.spawn(books.open("b"), Allocation()).run == 2


@pytest.mark.parametrize(
    ("state", "leases", "force", "stops", "closing"),
    [
        (State.UNLOADED, set(), True, False, None),
        (State.LOADING, set(), False, True, None),
        (State.LOADED, set(), False, True, None),
        (State.LOADED, {1}, False, False, WHY),
        (State.SLEEPING, {1}, True, True, None),
        (State.STOPPING, set(), True, False, None),
    ],
)
def test_close_waits_for_leases_unless_forced(
    state: State, leases: set[int], force: bool, stops: bool, closing: Why | None
) -> None:
    books = Books()
    model = books.open("a")
    model.state, model.leases = state, leases
    assert books.close(model, WHY, 0.0, force=force) == ([Stop("a", WHY)] if stops else [])
    assert (model.state is State.STOPPING, model.closing) == (stops or state is State.STOPPING, closing)


def test_spared_are_models_in_recent_foreground_use() -> None:
    books = Books()
    for name in "abc":
        model = books.open(name)
        books.spawn(model, Allocation())
        books.transit(model, Event.READY)
    books.lease(1, books.open("a"), 0.0, background=False)
    books.lease(2, books.open("b"), 0.0, background=True)
    books.open("c").foreground_finished = 10.0
    assert books.spared({}, 15.0, 6.0) == {"a", "c"}
    assert books.spared({}, 16.0, 6.0) == {"a"}
    assert books.spared({}, 15.0, 0.0) == frozenset()
    assert books.spared({3: 1.0}, 15.0, 6.0) == frozenset()  # a foreground request spares none
    assert [model.name for model in books.evictable()] == ["c"]


def test_a_repr_tells_the_state() -> None:
    scheduler = Scheduler(Limits())
    scheduler.acquire(Ticket(1, "a", Demand(host=5), missing=True), 0.0)
    for words in ("1 models, 0 processes, 0 leases", "1 tickets for 1 models", "is_probing=False", "downloads: a"):
        assert words in repr(scheduler).replace("WantedDownloads", "downloads").replace("self.", "")
