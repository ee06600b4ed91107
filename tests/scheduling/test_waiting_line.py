"""The order of the queue, and its bounds in length and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduling.books import Books
from router.scheduling.effects import Fetch, Probe, Refusal, Refuse
from router.scheduling.limits import Limits
from router.scheduling.planning import Planning
from router.scheduling.resources import Demand
from router.scheduling.scheduler import Scheduler
from router.scheduling.states import State
from router.scheduling.waiting_line import Ticket, WaitingLine
from tests.scheduling.bench import RAM, Bench


def test_models_are_served_in_the_order_in_which_they_were_asked_for() -> None:  # B-S9
    bench = Bench(room=9)
    requests = [bench.ask(model, serve=1) for model in "abcdbea"]
    bench.run(60)
    assert all(request.ended for request in requests)
    assert bench.spawns == ["a", "b", "c", "d", "e"]


def test_priorities_come_first() -> None:  # B-S9
    bench = Bench(room=9)
    bench.ask("a", serve=1)
    bench.run(0.5)
    for model, priority in [("low", -1), ("one", 0), ("two", 0), ("high", 5)]:
        bench.ask(model, serve=1, priority=priority)
    bench.run(60)
    assert bench.spawns == ["a", "high", "one", "two", "low"]


def test_small_model_does_not_take_promised_room() -> None:  # B-S9
    bench = Bench(room=12, drain_grace=10)
    running = bench.ask("a", 6)
    bench.run(2)
    big = bench.ask("big", 12)
    small = bench.ask("small", 6)
    bench.run(5)
    assert small.waits  # although 6 are free
    bench.end(running)
    bench.run(5)
    assert big.granted
    bench.end(big)
    bench.run(5)
    assert small.granted


def test_small_model_goes_ahead_into_unpromised_room() -> None:  # B-S9
    bench = Bench(room=12)
    bench.ask("a", 6)
    bench.run(2)
    blocked = bench.ask("big", 8)
    small = bench.ask("small", 4)
    bench.run(2)
    assert blocked.waits
    assert small.granted


def test_wait_for_other_programs_does_not_block_small_models() -> None:  # B-S9
    bench = Bench(room=12)
    bench.others[RAM] = 6
    big, small = bench.ask("big", 10), bench.ask("small", 5)
    bench.run(3)
    assert big.waits
    assert small.granted
    bench.end(small)
    bench.others[RAM] = 0
    bench.run(3)
    assert big.granted
    assert bench.stops == ["small"]


def test_queue_max_zero_refuses_what_would_wait_for_others() -> None:  # B-S9
    bench = Bench(room=9, queue_max=0)
    running = bench.ask("a")
    bench.run(0.5)
    early = bench.ask("b")
    bench.run(0)
    assert early.refused is Refusal.QUEUE_FULL  # another model's load is in the way
    assert isinstance(early.answer, Refuse)
    assert early.answer.retry_after
    bench.run(1)
    assert running.granted  # an own load is no waiting in the queue
    late = bench.ask("b")
    bench.run(0)
    assert late.refused is Refusal.QUEUE_FULL
    bench.unload("a")
    closed = bench.ask("a")
    assert closed.refused is Refusal.QUEUE_FULL
    bench.end(running)
    bench.run(1)
    own = [bench.ask("b") for _ in range(50)]
    bench.run(2)
    assert all(request.granted for request in own)


def test_queue_max_zero_still_evicts_idle_models() -> None:  # B-S9
    bench = Bench(room=9, queue_max=0)
    bench.ask("a", serve=0.1)
    bench.run(5)
    request = bench.ask("b")
    bench.run(5)
    assert request.granted


@pytest.mark.parametrize("bound", [1, 3])
def test_the_newest_over_the_bound_are_refused(bound: int) -> None:  # B-S9
    bench = Bench(room=9, queue_max=bound)
    bench.ask("a", serve=5)
    bench.run(2)
    waiters = []
    for model in "bcbdcb":
        waiters.append(bench.ask(model, serve=1))
        bench.run(0)
    assert [request.waits for request in waiters] == [index < bound for index in range(6)]
    assert {request.refused for request in waiters[bound:]} == {Refusal.QUEUE_FULL}
    bench.run(30)
    assert all(request.granted for request in waiters[:bound])


def test_queue_bound_counts_requests_behind_a_drain() -> None:  # B-S9
    bench = Bench(room=9, queue_max=1)
    bench.ask("a", 9)
    bench.run(2)
    waiters = [bench.ask(model, 4) for model in "bcccc"]
    bench.run(1)
    assert [request.waits for request in waiters] == [True, False, False, False, False]


def test_wait_longer_than_the_queue_timeout_is_refused() -> None:  # B-S9
    bench = Bench(room=9, queue_timeout=30, drain_grace=100, poll=1000)
    bench.ask("a")
    bench.run(2)
    first = bench.ask("b")
    bench.run(20)
    second = bench.ask("b")
    bench.run(20)
    assert first.refused is Refusal.QUEUE_TIMEOUT
    assert first.answered - first.asked == 30
    assert isinstance(first.answer, Refuse)
    assert first.answer.retry_after
    assert second.waits
    bench.run(20)
    assert second.refused is Refusal.QUEUE_TIMEOUT


def test_long_load_does_not_count_as_queue_time() -> None:
    bench = Bench(queue_timeout=30)
    bench.load_seconds = lambda model: 300
    request = bench.ask("a")
    bench.run(301)
    assert request.granted


def test_retried_load_does_not_count_as_queue_time() -> None:  # B-S13
    bench = Bench(queue_timeout=30)
    bench.load_seconds = lambda model: 100
    bench.starved["a"] = 1
    request = bench.ask("a")
    bench.run(250)
    assert request.granted


def test_download_does_not_count_as_queue_time() -> None:
    scheduler = Scheduler(Limits(margins={}, queue_timeout=30))
    assert scheduler.acquire(Ticket(1, "a", Demand(), missing=True), 0.0) == [Fetch("a")]
    assert scheduler.tick(1000.0) == []
    assert scheduler.fetched("a", Demand(host=5), 1000.0) == [Probe({})]
    assert scheduler.tick(1029.0) == []
    assert [type(effect) for effect in scheduler.tick(1030.0)] == [Refuse]


def test_queue_timeout_zero_waits_without_bound() -> None:
    bench = Bench(room=9, queue_timeout=0, drain_grace=10_000)
    bench.ask("a")
    bench.run(2)
    waiter = bench.ask("b")
    bench.run(3 * Limits().queue_timeout)
    assert waiter.waits


def test_queue_longer_than_the_lookahead_is_served() -> None:
    bench = Bench(room=9, drain_grace=1)
    requests = [bench.ask(f"m{i}", serve=0.5) for i in range(3 * Planning.LOOKAHEAD)]
    bench.run(300)
    assert all(request.granted for request in requests)
    assert len(bench.spawns) == len(requests)


def test_last_entry_of_the_lookahead_may_be_refused() -> None:
    bench = Bench(9)
    bench.probe_seconds = lambda: 0.1
    many = Planning.LOOKAHEAD
    needs = [*[5] * (many - 1), 50, *[5] * many]
    requests = [bench.ask(f"m{i}", need, serve=0.5) for i, need in enumerate(needs)]
    bench.run(1.0)
    assert [i for i, request in enumerate(requests) if request.refused] == [many - 1]
    bench.run(300.0)
    assert all(request.granted for i, request in enumerate(requests) if i != many - 1)


# The line alone


def line_of(*tickets: Ticket) -> WaitingLine:
    """The tickets arrive one a second, from second 0 on."""
    line, records = WaitingLine(), Books()
    for now, ticket in enumerate(tickets):
        line.join(ticket, records.open(ticket.model), float(now))
    return line


def turns(line: WaitingLine) -> str:
    return "".join(entry.model.name for entry in line.by_turn)


def test_rank_is_foreground_then_priority_then_arrival() -> None:
    line = line_of(
        Ticket(1, "a", Demand(), background=True),
        Ticket(2, "b", Demand(), priority=-1),
        Ticket(3, "c", Demand()),
        Ticket(4, "d", Demand()),
        Ticket(5, "e", Demand(), priority=2),
    )
    assert turns(line) == "ecdba"
    assert [*line.by_arrival] == [*"abcde"]
    assert [entry.model.name for entry in line.behind(line.by_turn[2])] == ["b", "a"]


def test_foreground_ticket_lifts_its_entry_while_it_waits() -> None:
    line = line_of(
        Ticket(1, "a", Demand(), background=True), Ticket(2, "b", Demand()), Ticket(3, "a", Demand(), priority=1)
    )
    assert turns(line) == "ab"
    line.leave(3)
    assert turns(line) == "ba"


def test_entry_leaves_with_its_last_ticket() -> None:
    line = line_of(Ticket(1, "a", Demand(host=1)), Ticket(2, "a", Demand(host=2)))
    entry = line.by_turn[0]
    assert entry.demand == Demand(host=2)  # the latest demand holds
    assert line.leave(1) is entry
    assert (entry.since, entry.began, turns(line)) == (1.0, 0.0, "a")
    assert line.leave(2) is entry
    assert (line.by_arrival, line.by_turn, line.by_ticket, entry.rank) == ({}, [], {}, None)


def test_overflow_is_the_newest_background_first_without_own_loads() -> None:
    line = line_of(
        Ticket(1, "a", Demand(), background=True),
        Ticket(2, "b", Demand()),
        Ticket(3, "b", Demand()),
        Ticket(4, "c", Demand()),
    )
    for entry in line.by_turn:
        entry.needs_room = True
    assert [line.overflow(limit) for limit in range(5)] == [[2, 3, 4, 1], [3, 4, 1], [4, 1], [1], []]
    line.by_arrival["b"].model.state = State.LOADING
    line.by_arrival["c"].needs_room = False
    assert line.overflow(0) == [1]


def test_overdue_counts_from_the_end_of_the_own_load() -> None:
    line = line_of(Ticket(1, "a", Demand()), Ticket(2, "b", Demand()), Ticket(3, "a", Demand()))
    assert line.longest_wait() == 0.0
    assert line.overdue(10.0, 10.0) == [1]
    assert line.overdue(12.0, 10.0) == [1, 3, 2]
    line.by_arrival["a"].own_load_ended_at = 5.0
    assert (line.longest_wait(), line.overdue(12.0, 10.0)) == (1.0, [2])
    line.by_arrival["b"].model.state = State.DOWNLOADING
    assert (line.longest_wait(), line.overdue(12.0, 10.0), line.overdue(15.0, 10.0)) == (5.0, [], [1, 3])
    line.by_arrival["a"].model.state = State.LOADING
    assert (line.longest_wait(), line.overdue(99.0, 10.0)) == (None, [])


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(-1, 1), st.booleans(), st.booleans(), st.sampled_from(State)),
    max_size=30,
)


@given(STEPS, st.integers(0, 10))
def test_both_orders_hold_whatever_joins_and_leaves(
    steps: list[tuple[str, int, bool, bool, State]], limit: int
) -> None:
    line, records = WaitingLine(), Books()
    present: dict[int, Ticket] = {}
    for now, (name, priority, background, leaves, state) in enumerate(steps):
        model = records.open(name)
        model.state = state
        if leaves and present:
            ticket = sorted(present)[now % len(present)]
            assert line.leave(ticket).model.name == present.pop(ticket).model
        else:
            present[now] = Ticket(now, name, Demand(), priority, background=background)
            line.join(present[now], model, float(now)).needs_room = background
        assert line.by_ticket.keys() == present.keys()
        assert all(line.by_ticket[ticket.id].model.name == ticket.model for ticket in present.values())
        assert line.by_arrival.keys() == {ticket.model for ticket in present.values()}
        assert line.by_turn == sorted(line.by_arrival.values(), key=lambda entry: entry.computed_rank() or ())
        assert [entry.rank for entry in line.by_turn] == [entry.computed_rank() for entry in line.by_turn]
        began = [entry.began for entry in line.by_arrival.values()]
        assert began == sorted(began)
        counted = [entry for entry in line.by_turn if entry.waits_for_room]
        assert line.longest_wait() == min((entry.waiting_since for entry in counted), default=None)
        assert set(line.overdue(float(now), 5.0)) == {
            ticket for entry in counted for ticket, since in entry.tickets.items() if since + 5.0 <= now
        }
        queued = sum(len(entry.tickets) for entry in counted if entry.needs_room)
        assert len(line.overflow(limit)) == max(0, queued - limit)
