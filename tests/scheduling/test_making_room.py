"""Which models go, when, and what is served instead: evictions, drains, loads side by side."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from router.scheduling.effects import Refusal, Refuse
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.scheduling.bench import RAM, Bench
from tests.scheduling.records import Request


def test_a_loading_model_is_no_victim_and_a_busy_one_is_not_cut_off() -> None:  # B-S3
    bench = Bench(room=9, drain_grace=0)
    bench.load_seconds = lambda model: 60.0
    a = bench.ask("a", serve=50)
    bench.run(1)
    b = bench.ask("b")
    bench.run(58)
    assert bench.stops == []
    assert b.waits
    bench.run(50)  # "a" serves
    assert a.granted
    assert bench.stops == []
    bench.run(62)
    assert bench.stops == ["a"]
    assert b.granted


def test_the_number_of_processes_is_limited_whatever_the_memory() -> None:  # B-S4
    bench = Bench(room=1000, models_max=2)
    for model in "abcd":
        bench.ask(model, 1, serve=0.1)
        bench.run(5)
    assert bench.spawns == ["a", "b", "c", "d"]
    assert bench.stops == ["a", "b"]


def test_no_limit_and_no_checks_let_everything_run() -> None:  # B-S4
    bench = Bench(room=1, checked=False)
    requests = [bench.ask(f"m{i}", 500) for i in range(40)]
    bench.run(5)
    assert all(request.granted for request in requests)
    assert bench.stops == []


def test_several_victims_go_in_one_step_and_no_more_than_needed() -> None:  # B-S5
    bench = Bench(room=12)
    for model in "abcd":
        bench.ask(model, 3, serve=0.1)
        bench.run(5)
    big = bench.ask("big", 6)
    bench.run(0.1)
    assert bench.stops == ["a", "b"]
    bench.run(5)
    assert big.granted
    assert bench.stops == ["a", "b"]


def test_only_on_the_device_where_room_is_needed() -> None:  # B-S5
    bench = Bench(gpus=[9, 19])
    for model, need in [("small", 9), ("large", 19)]:
        bench.ask(model, need, serve=0.1)
        bench.run(5)
    assert bench.ask("other", 15).waits
    bench.run(5)
    assert bench.stops == ["large"]


def test_the_least_recently_finished_goes_not_the_first_started() -> None:  # B-S10
    bench = Bench(room=10)
    long = bench.ask("a", serve=100)
    bench.run(2)
    bench.ask("b", serve=1)
    bench.run(150)
    assert long.ended
    bench.ask("c")
    bench.run(5)
    assert bench.stops == ["b"]


def test_unused_model_counts_from_when_it_was_ready() -> None:  # B-S10
    bench = Bench(room=10)
    bench.ask("a", serve=1)
    bench.run(3)
    unused = bench.ask("b")
    bench.run(0.5)
    bench.leave(unused)
    bench.run(3)
    assert bench.loaded == {"a", "b"}
    bench.ask("c")
    bench.run(3)
    assert bench.stops == ["a"]


def test_a_pinned_model_is_never_evicted() -> None:  # B-S10
    bench = Bench(room=9, drain_grace=0, queue_timeout=30)
    pinned = bench.ask("a", pinned=True, ttl=1)
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(10)
    bench.end(pinned)
    bench.run(50)
    assert waiter.refused is Refusal.QUEUE_TIMEOUT
    assert bench.stops == []
    bench.unload("a")  # an explicit unload still works
    bench.run(2)
    assert bench.stops == ["a"]


def test_a_pin_that_is_set_or_lifted_counts_at_once() -> None:  # B-S10
    bench = Bench(room=9, drain_grace=1, poll=1000)
    bench.ask("a", serve=1)
    bench.run(5)
    bench.pin("a", True)
    waiter = bench.ask("b", serve=1)
    bench.run(5)
    assert bench.stops == []
    bench.pin("a", False)
    bench.run(2)
    assert (bench.stops, waiter.granted) == (["a"], True)
    busy = bench.ask("b")
    other = bench.ask("c")
    bench.run(5)
    assert not bench.scheduler.model("b").is_open  # it drains for c
    bench.pin("b", True)
    bench.run(0.1)
    assert bench.scheduler.model("b").is_open
    bench.end(busy)
    bench.run(5)
    assert not other.granted


def test_an_idle_model_ends_after_its_time_to_live() -> None:  # B-S10
    bench = Bench()
    request = bench.ask("a", ttl=20)
    bench.run(100)
    assert bench.stops == []  # it is in use
    bench.end(request)
    bench.run(19)
    assert bench.stops == []
    bench.ask("a", serve=5, ttl=20)
    bench.run(24)
    assert bench.stops == []
    bench.run(2)
    assert bench.stops == ["a"]
    assert bench.state("a") is State.UNLOADED


def test_ttl_zero_stops_the_model_after_its_last_request() -> None:  # B-S10
    bench = Bench()
    bench.ask("a", serve=5, ttl=0)
    bench.run(5.9)
    assert bench.stops == []
    bench.run(1)
    assert bench.stops == ["a"]


def test_the_capacity_is_checked_again_at_the_moment_of_the_spawn() -> None:  # B-S11
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.run(0.1)
    assert bench.stops == ["a"]  # decided while no other program held memory
    bench.others[RAM] = 5
    bench.run(30)
    assert waiter.waits
    assert bench.spawns == ["a"]
    bench.others[RAM] = 4
    bench.run(3)
    assert waiter.granted


def test_memory_taken_while_the_probe_is_out_is_not_given_away() -> None:  # B-S11
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    waiter = bench.ask("a")
    bench.others[RAM] = 5
    bench.run(10)
    assert waiter.waits
    assert bench.spawns == []


def test_too_large_is_refused_at_once_and_costs_nothing() -> None:  # B-S12
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(5)
    request = bench.ask("b", 10)
    bench.run(0)
    assert request.refused is Refusal.TOO_LARGE
    assert isinstance(request.answer, Refuse)
    assert "of RAM; this machine has" in request.answer.reason
    assert request.answer.retry_after is None
    assert bench.stops == []


def test_loads_run_in_parallel_on_two_devices_and_one_by_one_on_one() -> None:  # B-S15
    for gpus, at_once, seconds in [([9, 9], 2, 1.5), ([19], 1, 2.5)]:
        bench = Bench(gpus=gpus)
        a, b = bench.ask("a", 8), bench.ask("b", 8)
        bench.run(0.5)
        assert len(bench.processes) == at_once
        bench.run(seconds - 0.5)
        assert a.granted
        assert b.granted


def test_loads_that_do_not_fit_together_are_not_both_begun() -> None:  # B-S15
    bench = Bench(room=9, gpus=[9, 9])
    a, b = bench.ask("a", Demand(split=5, host=6)), bench.ask("b", Demand(split=5, host=6))
    bench.run(1.5)
    assert bench.spawns == ["a"]
    bench.end(a)
    bench.run(5)
    assert b.granted


def test_two_models_with_room_for_one_are_both_served_in_two_loads() -> None:  # B-S6
    bench = Bench(room=9)
    requests = [bench.ask(model, serve=2) for model in "ababab"]
    bench.run(30)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b"]


def test_three_models_with_room_for_two_are_all_served() -> None:  # B-S6
    bench = Bench(room=10)
    requests = [bench.ask(model, serve=2) for model in "abcabc"]
    bench.run(30)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b", "c"]


def test_alternating_requests_are_all_served() -> None:  # B-S6
    bench = Bench(room=9)
    for model in "abab":
        request = bench.ask(model, serve=1)
        bench.run(10)
        assert request.ended
    assert bench.spawns == ["a", "b", "a", "b"]


def test_concurrent_load_does_not_thrash() -> None:  # B-S6 B-S7
    """Three clients for each of two models, each asking again as soon as it was served, for 200 s."""
    bench = Bench(room=9, drain_grace=10)
    clients = {client: bench.ask("ab"[client % 2], serve=1 + client / 10) for client in range(6)}
    served: Counter[str] = Counter()
    end = bench.now + 200
    while bench.step(end):
        for client, request in clients.items():
            if request.ended:
                served[request.ticket.model] += 1
                clients[client] = bench.ask("ab"[client % 2], serve=1 + client / 10)
    assert len(bench.spawns) <= 200 / 10 + 1
    assert min(served.values()) > 100
    loads = bench.spawns
    assert all(one != other for one, other in pairwise(loads))


def test_steady_traffic_cannot_starve_a_waiter() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=10)
    waiter: Request | None = None
    traffic: list[Request] = []
    start = bench.now
    for second in range(40):
        traffic.append(bench.ask("a", serve=1.7))
        if second == 5:
            waiter = bench.ask("b", serve=1)
        bench.run(1)
    assert waiter is not None
    assert waiter.ended
    # Ten seconds of grace, what was running ends, one stop, one load.
    assert 15 <= waiter.answered - start <= 15 + 1.7 + 0.5 + 1 + 0.5
    during = [r for r in traffic if start + 15 < r.asked < waiter.answered]
    assert during
    assert all(r.granted and r.answered > waiter.answered for r in during)
    order = [(r.answered, r.ticket.id) for r in traffic if r.granted]
    assert order == sorted(order)
    assert bench.spawns == ["a", "b", "a"]


def test_a_drain_begins_when_the_grace_ends() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=10, poll=1000)
    bench.ask("a")
    bench.run(2)
    bench.ask("b")
    bench.run(9.9)
    assert bench.ask("a").granted
    bench.run(0.2)
    assert bench.ask("a").waits


def test_without_grace_a_drain_begins_at_once() -> None:  # B-S7
    bench = Bench(room=9, drain_grace=0)
    running = bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(0)
    late = bench.ask("a")
    assert late.waits
    bench.end(running)
    bench.run(2)
    assert first.granted
    bench.end(first)
    bench.run(3)
    assert late.granted


def test_a_waiter_that_leaves_costs_nobody_an_eviction() -> None:  # B-S8
    bench = Bench(room=9)
    bench.probe_seconds = lambda: 0.2
    bench.ask("a", serve=0.1)
    bench.run(5)
    waiter = bench.ask("b")
    bench.leave(waiter)
    bench.run(5)
    assert bench.stops == []
    assert bench.loaded == {"a"}


def test_promised_room_of_a_leaving_request_goes_to_the_next() -> None:  # B-S8
    bench = Bench(room=12, drain_grace=1000, poll=1000)
    bench.ask("a", 6)
    bench.run(2)
    big, small = bench.ask("big", 12), bench.ask("small", 6)
    bench.run(5)
    assert small.waits
    bench.leave(big)
    bench.run(1)
    assert small.granted


def test_a_drain_ends_when_the_one_who_asked_leaves() -> None:  # B-S8
    bench = Bench(room=9, drain_grace=10)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(11)
    held_up = bench.ask("a")
    assert held_up.waits
    bench.leave(waiter)
    assert held_up.granted
    assert bench.spawns == ["a"]
    bench.run(60)
    assert bench.stops == []


def test_a_drain_goes_on_while_another_one_needs_it() -> None:  # B-S8
    bench = Bench(room=9, drain_grace=10)
    running = bench.ask("a")
    bench.run(2)
    one, other = bench.ask("b"), bench.ask("b")
    bench.run(11)
    bench.leave(one)
    bench.run(1)
    assert bench.ask("a").waits
    bench.end(running)
    bench.run(5)
    assert other.granted


def test_a_drained_model_stays_closed_until_the_others_have_ended_too() -> None:  # B-S7
    bench = Bench(room=10, drain_grace=0)
    a, b = bench.ask("a"), bench.ask("b")
    bench.run(5)
    big = bench.ask("big", 10)
    bench.run(1)
    bench.end(a)
    bench.run(1)
    late = bench.ask("a")
    assert late.waits
    bench.end(b)
    bench.run(5)
    assert big.granted
    assert bench.spawns == ["a", "b", "big"]


def test_an_idle_model_serves_while_a_drain_waits_for_another() -> None:  # B-S7
    bench = Bench(room=10, drain_grace=0)
    bench.ask("idle", serve=0)
    bench.ask("busy")
    bench.run(5)
    bench.ask("big", 10)
    bench.run(1)
    assert bench.ask("busy").waits
    assert bench.ask("idle").granted
