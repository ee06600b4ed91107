"""One model from request to exit: loads, leases, unloads, new settings, late news."""

from __future__ import annotations

import pytest

from router.scheduling.effects import Grant, Refusal, Refuse, Spawn, Stop
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.scheduling.bench import RAM, Bench

# One model


def test_a_request_loads_its_model_and_is_served() -> None:  # B-S1
    bench = Bench()
    request = bench.ask("a")
    bench.run(0.9)
    assert request.waits
    assert bench.state("a") is State.LOADING
    bench.run(0.2)
    assert request.granted
    assert bench.state("a") is State.LOADED
    assert bench.ask("a").granted  # at once


def test_six_at_once_load_once() -> None:  # B-S6 B-L9
    bench = Bench()
    requests = [bench.ask("a") for _ in range(6)]
    bench.run(2)
    assert all(request.granted for request in requests)
    assert bench.spawns == ["a"]
    assert bench.grants == ["a"] * 6
    assert [e.ticket for e in bench.effects if isinstance(e, Grant)] == [r.ticket.id for r in requests]


def test_a_duplicate_that_comes_during_the_load_starts_nothing() -> None:  # B-L9
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    second = bench.ask("a")
    bench.run(1)
    assert second.granted
    assert bench.spawns == ["a"]


def test_leases_are_counted_until_the_last_is_released() -> None:  # B-S2
    bench = Bench(room=9)
    first, second = bench.ask("a"), bench.ask("a")
    bench.run(2)
    bench.ask("b")
    bench.end(first)
    bench.run(5)
    assert bench.stops == []
    assert not bench.is_idle
    bench.end(second)
    bench.run(5)
    assert bench.stops == ["a"]


def test_a_lease_on_a_process_that_died_is_released_without_a_trace() -> None:  # B-S2
    bench = Bench()
    old = bench.ask("a")
    bench.run(2)
    bench.crash("a")
    new = bench.ask("a")
    bench.run(2)
    assert new.granted
    before = bench.scheduler.model("a").finished
    bench.end(old)
    assert bench.scheduler.model("a").leases == {new.ticket.id}
    assert bench.scheduler.model("a").finished == before
    assert bench.stops == []


# Failures


def test_repeated_or_late_sleep_report_is_ignored() -> None:
    bench = Bench()
    bench.ask("a", serve=0.1)
    bench.run(0.5)
    run = bench.scheduler.model("a").run
    bench.scheduler.slept("a", run)
    assert bench.state("a") is State.LOADING
    bench.run(2)
    bench.scheduler.woke("a", run)
    assert bench.state("a") is State.LOADED
    for _ in range(2):
        bench.scheduler.slept("a", run)
    assert bench.state("a") is State.SLEEPING


def test_a_load_out_of_memory_is_tried_once_more_when_the_idle_ones_have_gone() -> None:  # B-S13
    bench = Bench(room=9)
    for name in ("a", "b"):
        bench.ask(name, 2, serve=0.1)
    busy = bench.ask("c", 1)
    bench.run(5)
    bench.starved["d"] = 1
    requests = [bench.ask("d", 3) for _ in range(2)]
    bench.run(5)
    assert all(request.granted for request in requests)
    assert bench.spawns[-2:] == ["d", "d"]
    assert sorted(bench.stops) == ["a", "b"]
    assert busy.granted
    assert bench.effects.index(bench.last(Spawn)) > bench.effects.index(bench.last(Stop))


def test_after_running_out_of_memory_only_those_go_that_can_help() -> None:  # B-S5 B-S13
    bench = Bench(gpus=[40, 40], room=50)
    names = {"here": ("GPU0",), "both": ("GPU0", "GPU1"), "there": ("GPU1",)}
    for model in ("here", "there"):
        bench.ask(model, Demand(split=10, host=1, names=names[model]), serve=0.1)
        bench.run(5)
    bench.ask("both", Demand(split=40, host=1, names=names["both"]), serve=0.1)
    bench.run(5)
    bench.ask("ram", Demand(host=1), serve=0.1)
    bench.run(5)
    bench.starved["d"] = 1
    request = bench.ask("d", Demand(split=5, host=1, names=names["here"]))
    bench.run(5)
    assert request.granted
    assert sorted(bench.stops) == ["both", "here", "ram"]


def test_the_second_try_waits_until_the_room_is_free() -> None:  # B-S13
    bench = Bench(room=9)
    bench.stop_seconds = lambda model: 5.0
    bench.ask("a", 2, serve=0.1)
    bench.run(2)
    bench.starved["d"] = 1
    request = bench.ask("d", 3)
    bench.run(3)  # `a` is going; what the books know would do for `d`
    assert bench.spawns == ["a", "d"]
    bench.run(10)
    assert request.granted


def test_a_load_that_runs_out_of_memory_again_has_failed() -> None:  # B-S13
    bench = Bench(room=9)
    bench.starved["d"] = 2
    request = bench.ask("d", 3)
    bench.run(5)
    assert request.refused is Refusal.LOAD_FAILED
    assert isinstance(request.answer, Refuse)
    assert request.answer.reason == "out of memory"
    assert bench.spawns == ["d", "d"]
    bench.starved["d"] = 1
    again = bench.ask("d", 3)  # a new request is tried twice again
    bench.run(5)
    assert again.granted


def test_out_of_memory_load_without_waiters_is_not_retried() -> None:  # B-S13 B-S8
    bench = Bench(room=9)
    bench.ask("a", 2, serve=0.1)
    bench.run(2)
    bench.starved["d"] = 1
    bench.leave(bench.ask("d", 3))
    request = bench.ask("d", 3)
    bench.run(0.1)
    bench.leave(request)
    bench.run(5)
    assert bench.spawns == ["a", "d"]
    assert bench.stops == []


def test_a_load_that_is_being_stopped_may_hold_more_than_the_reading_showed() -> None:  # B-S11
    bench = Bench(room=9)
    bench.stop_seconds = lambda model: 5.0
    bench.probe_seconds = lambda: 0.1
    loading = bench.ask("a", 5)
    bench.run(0.2)
    bench.others["here/RAM"] = 2
    wanted = bench.ask("b", 4)  # the reading on its way shows nothing of `a` yet
    bench.unload("a")
    bench.run(2)
    assert loading.refused is Refusal.CANCELLED
    assert wanted.waits
    bench.run(10)
    assert wanted.granted


# Clients that leave during a load


def test_a_load_that_others_wait_for_goes_on() -> None:  # B-S16
    for finish_loads in (True, False):
        bench = Bench(finish_loads=finish_loads)
        one, other = bench.ask("a"), bench.ask("a")
        bench.run(0.5)
        bench.leave(one)
        bench.run(1)
        assert other.granted
        assert bench.stops == []


def test_a_load_with_no_waiter_left_goes_on() -> None:  # B-S16
    bench = Bench()
    request = bench.ask("a")
    bench.run(0.5)
    bench.leave(request)
    bench.run(1)
    assert bench.loaded == {"a"}
    assert bench.is_idle


def test_load_with_no_waiter_left_is_stopped_without_finish_loads() -> None:  # B-S16
    bench = Bench(finish_loads=False)
    request = bench.ask("a")
    bench.run(0.5)
    bench.leave(request)
    assert bench.stops == ["a"]
    again = bench.ask("a")  # comes too late to save it, and is served by the next
    bench.run(5)
    assert again.granted
    assert bench.spawns == ["a", "a"]


# Unload


def test_an_unload_cancels_a_load_and_those_who_waited_for_it() -> None:  # B-L10
    bench = Bench()
    before = [bench.ask("a"), bench.ask("a")]
    bench.run(0.5)
    bench.unload("a")
    after = bench.ask("a")
    assert {request.refused for request in before} == {Refusal.CANCELLED}
    assert bench.stops == ["a"]
    bench.run(5)
    assert after.granted
    assert bench.spawns == ["a", "a"]


def test_an_unload_cancels_what_is_queued() -> None:  # B-L10
    bench = Bench(room=9)
    bench.ask("a")
    bench.run(2)
    queued = bench.ask("b")
    bench.run(1)
    bench.unload("b")
    assert queued.refused is Refusal.CANCELLED
    bench.run(60)
    assert bench.spawns == ["a"]
    assert bench.stops == []


def test_unload_waits_for_running_requests_and_takes_no_new_ones() -> None:  # B-L10
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a")
    late = bench.ask("a")
    bench.run(20)
    assert late.waits
    assert bench.stops == []
    bench.end(running)
    assert bench.stops == ["a"]
    bench.run(5)
    assert late.granted
    assert bench.spawns == ["a", "a"]


def test_a_forced_unload_does_not_wait() -> None:
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a", force=True)
    assert bench.stops == ["a"]
    bench.run(1)
    assert bench.state("a") is State.UNLOADED
    bench.end(running)
    assert bench.is_idle


def test_second_unload_may_force_the_first() -> None:
    bench = Bench()
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a")
    bench.unload("a", force=True)
    bench.end(running)
    assert bench.stops == ["a"]
    bench.unload("a", force=True)  # while it stops: nothing more to do
    bench.run(1)
    bench.unload("a")  # nor now
    bench.unload("never heard of")
    assert bench.stops == ["a"]


def test_crash_completes_a_pending_unload() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.unload("a")
    waiter = bench.ask("a")
    bench.crash("a")
    bench.run(2)
    assert waiter.granted
    assert bench.ask("a").granted
    bench.end(waiter)
    assert bench.stops == []


def test_a_storm_of_unloads_and_loads_keeps_to_one_process() -> None:  # B-L9
    bench = Bench()
    for step in range(60):
        bench.ask("a")
        bench.run(0.35)
        bench.unload("a", force=step % 2 == 0)  # the bench would see a second process
    request = bench.ask("a")
    bench.run(5)
    assert request.granted


def test_an_unload_frees_room_for_those_who_wait() -> None:
    bench = Bench(room=9, drain_grace=1000)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(5)
    bench.unload("a", force=True)
    bench.run(3)
    assert waiter.granted


# Settings


@pytest.mark.parametrize(
    ("seconds", "busy", "before", "after", "spawns"),
    [
        (0.5, False, State.LOADING, State.STOPPING, 2),
        (2.0, False, State.LOADED, State.STOPPING, 2),
        (2.0, True, State.LOADED, State.LOADED, 2),
    ],
)
def test_renew_serves_waiting_requests_with_the_next_process(
    seconds: float, busy: bool, before: State, after: State, spawns: int
) -> None:  # B-L9
    bench = Bench()
    first = bench.ask("a", serve=None if busy else 0.1)
    bench.run(seconds)
    assert bench.state("a") is before
    bench.renew("a")
    assert bench.state("a") is after
    late = bench.ask("a")
    assert late.waits
    bench.renew("a")  # once more is no more
    if busy:
        bench.end(first)
    bench.run(5)
    assert (first.granted, late.granted, len(bench.spawns)) == (True, True, spawns)


def test_renew_stops_a_sleeping_model_and_ignores_an_unloaded_one() -> None:
    bench = Bench()
    bench.ask("a", serve=0.1)
    bench.run(2)
    bench.sleep("a")
    bench.renew("a")
    assert bench.state("a") is State.STOPPING
    bench.renew("a")
    bench.run(2)
    for name in ("a", "never heard of"):
        bench.renew(name)
        bench.cancel_renew(name)
    assert (bench.stops, bench.state("a")) == (["a"], State.UNLOADED)


def test_cancelled_renew_serves_waiting_requests_but_keeps_an_unload() -> None:  # B-L8
    bench = Bench()
    bench.ask("a")
    bench.run(2)
    bench.renew("a")
    waiter = bench.ask("a")
    bench.cancel_renew("a")
    assert waiter.granted
    bench.unload("a")
    bench.renew("a")
    bench.cancel_renew("a")
    assert bench.ask("a").waits


def test_timed_out_load_keeps_the_process_for_requests_behind_it() -> None:  # B-L8 B-S9
    bench = Bench(queue_timeout=10)
    bench.ask("a", 5)
    bench.run(2)
    pending = bench.load_with_settings("a", 6, 5)
    bench.run(5)
    late = bench.ask("a", 6)
    bench.run(6)
    assert (pending.refused, late.granted, bench.spawns) == (Refusal.QUEUE_TIMEOUT, True, ["a"])


@pytest.mark.parametrize(("starved", "spawns"), [(0, 2), (1, 2), (2, 3)])
def test_failed_load_with_settings_fails_only_its_own_request(starved: int, spawns: int) -> None:  # B-L8 B-S13
    bench = Bench()
    bench.starved["a"] = starved
    if not starved:
        bench.broken.add("a")
    pending = bench.load_with_settings("a", 6, 5)
    other = bench.ask("a", 6)
    bench.run(0.1)
    bench.broken.clear()  # for the next process
    bench.run(5)
    assert (pending.refused, other.granted) == ((None, True) if starved == 1 else (Refusal.LOAD_FAILED, True))
    assert len(bench.spawns) == spawns
    assert bench.scheduler.model("a").failures == 0
    assert other.ticket.demand == Demand(host=6 if starved == 1 else 5)


# News


def test_news_of_a_process_that_is_gone_is_ignored() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    bench.unload("a")
    old = bench.processes["a"].spawn.run
    bench.run(0.5)
    assert bench.state("a") is State.UNLOADED
    request = bench.ask("a")
    bench.run(0)
    assert bench.processes["a"].spawn.run > old
    scheduler, now = bench.scheduler, bench.now
    for effects in (scheduler.ready("a", old, now), scheduler.exited("a", old, "late", now)):
        assert effects == []
    scheduler.slept("a", old)
    scheduler.woke("a", old)
    assert bench.state("a") is State.LOADING
    bench.run(5)
    assert request.granted


def test_news_that_crosses_the_end_of_its_process_is_ignored() -> None:
    bench = Bench()
    bench.ask("a")
    bench.run(0.5)
    bench.crash("a")
    assert bench.scheduler.ready("a", 1, bench.now) == []
    bench.scheduler.slept("a", 1)
    bench.scheduler.woke("a", 1)
    assert bench.state("a") is State.FAILED


def test_sleeping_model_is_served_and_stays_booked() -> None:
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(3)
    bench.sleep("a")
    assert bench.state("a") is State.SLEEPING
    assert bench.scheduler.model("a").held == {RAM: 5}
    bench.others[RAM] = 2
    waiter = bench.ask("b", 3)
    bench.run(0)
    assert bench.stops == ["a"]  # it goes, rather than being robbed of what it will want back
    bench.run(3)
    assert waiter.granted
    bench.end(waiter)
    again = bench.ask("a", serve=1)
    bench.run(5)
    bench.sleep("a")
    assert again.ended
    assert bench.ask("a").granted
    bench.run(1)
    assert bench.state("a") is State.LOADED


# Probes


def test_no_wakeup_without_waiting_requests() -> None:
    bench = Bench()
    assert bench.scheduler.wakeup() is None
    bench.ask("a", serve=1)
    bench.run(5)
    assert bench.scheduler.wakeup() is None
    assert bench.is_idle
