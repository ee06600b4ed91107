"""What time adds to a plan: drains that end, models that stay for a while, and what refusals say about both."""

from __future__ import annotations

import pytest

from router.scheduling import timing
from router.scheduling.books import Books, ModelRecord
from router.scheduling.causes import Cause, Why
from router.scheduling.effects import Refusal, Refuse, Stop
from router.scheduling.limits import Limits
from router.scheduling.reasons import Obstacle, waits_for, why_timed_out
from router.scheduling.resources import Demand
from router.scheduling.snapshot import Phase
from router.scheduling.states import State
from router.scheduling.waiting_line import Entry
from tests.scheduling.bench import Bench
from tests.scheduling.machines import RAM, on, snapshot
from tests.scheduling.records import Request


def told(bench: Bench) -> tuple[str, str]:
    """Which model was stopped last, and why."""
    stop = bench.last(Stop)
    assert isinstance(stop, Stop)
    return stop.model, stop.why.text


def what_is_waited_for(bench: Bench, model: str) -> str | None:
    why = bench.scheduler.why(model, bench.now)
    return why.text if why else None


def reason_of(request: Request) -> str:
    assert isinstance(request.answer, Refuse)
    return request.answer.reason


# The drain timeout


def test_requests_are_cut_when_a_drain_has_lasted_for_its_time() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=10, drain_timeout=20, poll=1000)
    for _ in range(2):
        bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b", serve=1)
    bench.run(29.9)
    assert (waiter.waits, bench.stops) == (True, [])
    bench.run(0.2)
    assert told(bench) == ("a", "room for b, which waited 20 s for 2 requests to end")
    bench.run(3)
    assert waiter.ended


@pytest.mark.parametrize("waits", [5.0, 25.0], ids=["before", "while it drains"])
def test_a_request_that_ends_by_itself_is_not_cut(waits: float) -> None:  # B-S19
    bench = Bench(room=9, drain_grace=10, drain_timeout=20)
    running = bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b", serve=1)
    bench.run(waits)
    bench.end(running)
    bench.run(3)
    assert waiter.ended
    assert told(bench) == ("a", "room for b")


def test_a_waiter_that_leaves_ends_the_time_of_its_drain() -> None:  # B-S19 B-S8
    bench = Bench(room=9, drain_grace=0, drain_timeout=20)
    bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(15)
    bench.leave(first)
    bench.run(1)
    second = bench.ask("b")
    bench.run(19)
    assert (second.waits, bench.stops) == (True, [])
    bench.run(1.5)
    assert bench.stops == ["a"]


def test_a_later_waiter_has_a_time_of_its_own() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=0, drain_timeout=20)
    bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(15)
    bench.ask("c")
    bench.leave(first)
    bench.run(19)
    assert bench.stops == []
    bench.run(1.5)
    assert bench.stops == ["a"]


def test_several_victims_are_cut_together() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=0, drain_timeout=20)
    for model in "ab":
        bench.ask(model, 4)
        bench.run(2)
    waiter = bench.ask("c", 9, serve=1)
    bench.run(19)
    assert bench.stops == []
    bench.run(5)
    assert sorted(bench.stops) == ["a", "b"]
    assert waiter.ended


def test_without_the_timeout_nothing_is_cut() -> None:  # B-S19 B-S3
    bench = Bench(room=9, drain_grace=0, queue_timeout=0)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(10_000)
    assert (waiter.waits, bench.stops) == (True, [])


def test_a_request_in_the_background_never_cuts_another() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=0, drain_timeout=20, task_grace=0, queue_timeout=0)
    running = bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b", background=True, serve=1)
    bench.run(200)
    assert (waiter.waits, bench.stops) == (True, [])
    bench.end(running)
    bench.run(5)
    assert waiter.ended
    # Among themselves they are equals.
    bench.ask("c", background=True)
    bench.run(5)
    bench.ask("d", background=True)
    bench.run(21)
    assert bench.stops[-1] == "c"


def test_the_wait_of_a_request_in_the_background_does_not_count_for_one_that_joins_it() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=0, drain_timeout=20, task_grace=0)
    bench.ask("a")
    bench.run(2)
    bench.ask("b", background=True)
    bench.run(100)
    bench.ask("b")
    bench.run(19)
    assert bench.stops == []
    bench.run(1.5)
    assert bench.stops == ["a"]


def test_a_model_that_must_end_for_its_own_next_process_is_cut_too() -> None:  # B-S19
    bench = Bench(room=9, drain_timeout=20)
    bench.ask("a")
    bench.run(2)
    load = bench.load_with_settings("a", 6, 5)
    bench.run(19)
    assert (load.waits, bench.stops) == (True, [])
    bench.run(1.1)
    assert told(bench) == ("a", "its next process waited 20 s for 1 request to end")
    bench.run(3)
    assert load.ended


def test_an_unload_that_nobody_waits_behind_cuts_nothing() -> None:  # B-S19
    bench = Bench(room=9, drain_timeout=20)
    running = bench.ask("a")
    bench.run(2)
    bench.unload("a")
    bench.run(1000)
    assert bench.stops == []
    bench.end(running)
    assert bench.stops == ["a"]


# Who is in the way


def test_a_refusal_says_who_is_in_the_way_and_since_when() -> None:  # B-S19
    bench = Bench(room=9, drain_grace=10, queue_timeout=60)
    for _ in range(3):
        bench.ask("coder")
    bench.run(11)
    waiter = bench.ask("b")
    bench.run(1)
    assert what_is_waited_for(bench, "b") == (
        "waits for coder to finish 3 requests; new ones are still let in (--models-drain-grace)"
    )
    bench.run(60)
    assert waiter.refused is Refusal.QUEUE_TIMEOUT
    assert reason_of(waiter) == (
        "it waited 60 s for memory or a free slot, and still waits for coder to finish 3 requests; "
        "coder has been busy for 70 s"
    )
    assert what_is_waited_for(bench, "b") is None


def test_a_refusal_says_what_else_is_in_the_way() -> None:
    bench = Bench(room=9, queue_timeout=60)
    bench.ask("a", pinned=True, serve=1)
    bench.run(3)
    waiter = bench.ask("b")
    bench.run(61)
    assert "free slot: pinned models, other programs or" in reason_of(waiter)


def test_a_model_may_stand_in_its_own_way() -> None:
    bench = Bench(room=9, queue_timeout=60)
    bench.ask("a")
    bench.run(2)
    load = bench.load_with_settings("a", 6, 5)
    bench.run(61)
    assert "still waits for a to finish 1 request" in reason_of(load)


def test_the_words() -> None:
    obstacles = [Obstacle("a", 1, 2.4), Obstacle("b", 2, 70.0)]
    assert waits_for([]) == ""
    assert waits_for(obstacles) == "a to finish 1 request and b to finish 2 requests"
    assert why_timed_out(5.0, obstacles, "x").endswith("a has been busy for 2 s and b has been busy for 70 s")
    assert why_timed_out(5.0, [], "") == "it waited 5 s for memory or a free slot"


# The least time loaded


def test_a_young_model_stays_until_its_time_is_over() -> None:  # B-S22
    bench = Bench(room=9, poll=1000)
    bench.ask("a", serve=0.5, min_loaded=30)
    bench.run(2)  # it was ready after 1 s
    waiter = bench.ask("b", serve=1)
    bench.run(28.9)
    assert (waiter.waits, bench.stops) == (True, [])
    bench.run(0.2)
    assert bench.stops == ["a"]
    bench.run(3)
    assert waiter.ended


def test_an_older_model_goes_in_its_place() -> None:  # B-S22
    bench = Bench(room=9)
    bench.ask("old", 4, serve=5)
    bench.run(3)
    bench.ask("young", 4, serve=0.5, min_loaded=30)
    bench.run(5)  # the young one is the least recently used one
    waiter = bench.ask("b", 4, serve=1)
    bench.run(3)
    assert waiter.ended
    assert bench.stops == ["old"]


def test_a_busy_older_model_is_drained_before_a_young_one_goes() -> None:  # B-S22
    bench = Bench(room=9, drain_grace=0)
    running = bench.ask("old", 4)
    bench.run(3)
    bench.ask("young", 4, serve=0.5, min_loaded=30)
    bench.run(3)
    waiter = bench.ask("b", 4, serve=1)
    bench.run(3)
    assert what_is_waited_for(bench, "b") == "waits for old to finish 1 request"
    bench.end(running)
    bench.run(3)
    assert waiter.ended
    assert bench.stops == ["old"]


@pytest.mark.parametrize(("timeout", "at"), [(100, 90), (8, 4)])
def test_a_young_model_goes_when_the_wait_is_nearly_over(timeout: float, at: float) -> None:  # B-S22
    bench = Bench(room=9, poll=1000, queue_timeout=timeout)
    bench.ask("a", serve=0.5, min_loaded=3000)
    bench.run(2)
    waiter = bench.ask("b", serve=1)
    bench.run(at - 0.1)
    assert (waiter.waits, bench.stops) == (True, [])
    bench.run(0.2)
    assert bench.stops == ["a"]
    bench.run(3)
    assert waiter.ended


def test_a_young_model_ends_by_idleness_and_by_hand() -> None:  # B-S22
    bench = Bench(room=9)
    bench.ask("a", serve=0.5, min_loaded=3000, ttl=5)
    bench.run(8)
    assert bench.state("a") is State.UNLOADED
    bench.ask("a", serve=0.5, min_loaded=3000)
    bench.run(3)
    bench.unload("a")
    bench.run(1)
    assert bench.state("a") is State.UNLOADED


def test_the_newest_request_says_how_long_a_model_stays() -> None:  # B-S22
    bench = Bench(room=9)
    bench.ask("a", serve=0.5, min_loaded=3000)
    bench.run(2)
    bench.ask("a", serve=0.5, min_loaded=0)
    bench.run(1)
    waiter = bench.ask("b", serve=1)
    bench.run(3)
    assert waiter.ended


def test_a_retry_after_too_little_memory_spares_the_young() -> None:  # B-S22 B-S13
    bench = Bench(room=20)
    bench.ask("young", serve=0.5, min_loaded=3000)
    bench.ask("old", serve=0.5)
    bench.run(4)
    bench.starved["c"] = 1
    request = bench.ask("c", serve=1)
    bench.run(10)
    assert bench.stops == ["old"]
    assert request.ended


# A swap under the count limit


def test_the_next_model_starts_beside_the_one_that_ends() -> None:  # B-S21
    bench = Bench(room=100, models_max=1)
    bench.stop_seconds = lambda model: 50.0
    bench.ask("a", serve=0.5)
    bench.run(3)
    waiter = bench.ask("b", serve=1)
    bench.run(2.5)
    assert waiter.ended
    assert bench.state("a") is State.STOPPING
    # A third one waits: ends that hang do not pile up.
    third = bench.ask("c", serve=1)
    bench.run(10)
    assert third.waits
    bench.run(50)
    assert third.ended


def test_a_model_that_ends_is_waited_for_before_it_starts_again() -> None:  # B-S21 B-L9
    bench = Bench(room=100, models_max=1)
    bench.stop_seconds = lambda model: 50.0
    bench.ask("a", serve=0.5)
    bench.run(3)
    bench.ask("b", serve=1)
    bench.run(3)
    again = bench.ask("a", serve=1)
    bench.run(40)
    assert again.waits
    bench.run(60)
    assert again.ended


# A process that hangs


def test_the_requests_on_a_process_that_hangs_end_and_the_next_one_starts_another() -> None:  # B-S20
    bench = Bench(room=9)
    running = [bench.ask("a") for _ in range(2)]
    bench.run(2)
    bench.hang("a")
    why = Why(Cause.HUNG, requests=2, seconds=30.0)
    assert bench.last(Stop) == Stop("a", why, at_once=True)
    assert why.text == "its process showed no sign of life for 30 s"
    waiter = bench.ask("a", serve=1)
    bench.run(5)
    assert all(request.ended for request in [*running, waiter])
    assert bench.spawns == ["a", "a"]


def test_news_of_a_hang_may_come_too_late() -> None:  # B-S20
    bench = Bench(room=9)
    running = bench.ask("a")
    bench.run(2)
    run = bench.scheduler.model("a").run
    bench.end(running)
    assert bench.scheduler.hung("a", run, 30.0, bench.now) == []  # no request runs on it
    bench.ask("a")
    assert bench.scheduler.hung("a", run - 1, 30.0, bench.now) == []


def test_an_entry_that_has_left_is_passed_over() -> None:
    """Between two passes whoever asks what others wait for goes by the entries of the first."""
    gone = Entry(ModelRecord("gone"), 0.0, Demand(host=40))
    machine = snapshot([RAM], on(Phase.BUSY, "busy", RAM=60))
    assert list(timing.decisions([gone], machine, Books(), Limits(), 0.0)) == []
