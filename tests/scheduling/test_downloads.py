"""Models whose files are downloaded first."""

from __future__ import annotations

from typing import Any

import pytest

from router.scheduling.books import Books
from router.scheduling.downloads import WantedDownloads
from router.scheduling.effects import Abort, Fetch, Refusal, Refuse
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.scheduler import Scheduler
from router.scheduling.states import Event, State
from router.scheduling.waiting_line import Ticket, WaitingLine
from tests.scheduling.bench import RAM, Bench


def missing(*names: str, **limits: Any) -> Bench:
    bench = Bench(**limits)
    bench.missing |= set(names)
    return bench


def test_missing_files_are_fetched_before_the_start() -> None:  # B-H3
    bench = missing("a", room=9)
    bench.ask("b", 9, serve=1)
    bench.run(2.5)
    requests = [bench.ask("a", 9, serve=1) for _ in range(10)]
    bench.run(2)
    assert (bench.state("a"), bench.state("b")) == (State.DOWNLOADING, State.LOADED), "a download needs no room"
    bench.run(10)
    assert all(request.granted for request in requests)
    assert [effect for effect in bench.effects if isinstance(effect, Fetch)] == [Fetch("a")]


def test_downloads_max_bounds_running_downloads() -> None:
    bench = missing(*"abc", downloads_max=2)
    for name in "abc":
        bench.ask(name, 1, serve=1)
    assert (set(bench.downloads), set(bench.scheduler.downloads.not_begun())) == ({"a", "b"}, {"c"})
    assert bench.scheduler.downloads.is_wanted("c")
    bench.run(3)
    assert (set(bench.downloads), set(bench.scheduler.downloads.not_begun())) == ({"c"}, set())
    bench.run(10)
    assert sorted(bench.grants) == ["a", "b", "c"]


def test_waiting_for_other_downloads_counts_as_queued() -> None:  # B-S9
    bench = missing(*"abc", downloads_max=1, queue_max=1, queue_timeout=30)
    bench.download_seconds = lambda model: 100
    first, second, third = (bench.ask(name) for name in "abc")
    assert third.refused is Refusal.QUEUE_FULL
    bench.run(31)
    assert (first.waits, second.refused) == (True, Refusal.QUEUE_TIMEOUT)
    bench.run(75)
    assert first.granted
    assert bench.downloads.keys() == {"b"}, "what was begun to be wanted is fetched"


def test_download_without_waiters_is_aborted_without_finish_loads() -> None:  # B-S16
    bench = missing(*"abc", downloads_max=1, queue_timeout=10, finish_loads=False)
    bench.download_seconds = lambda model: 100
    under_way, left, late = (bench.ask(name) for name in "abc")
    bench.leave(left)
    bench.run(11)
    assert (under_way.waits, late.refused) == (True, Refusal.QUEUE_TIMEOUT)
    bench.leave(under_way)
    assert (bench.state("a"), bench.downloads) == (State.UNLOADED, {})
    assert not any(bench.scheduler.downloads.is_wanted(name) for name in "abc")


def test_pulled_model_is_fetched_although_its_request_left() -> None:
    bench = missing("a", finish_loads=False)
    bench.pull("a")
    bench.leave(bench.ask("a"))
    bench.run(5)
    assert (bench.state("a"), bench.spawns) == (State.UNLOADED, [])


def test_unload_aborts_running_and_waiting_downloads() -> None:  # B-L10
    bench = missing(*"ab", downloads_max=1)
    requests = [bench.ask(name) for name in "ab"]
    for name in "ba":
        bench.unload(name)
    assert [request.refused for request in requests] == [Refusal.CANCELLED] * 2
    assert [effect for effect in bench.effects if isinstance(effect, Fetch | Abort)] == [Fetch("a"), Abort("a")]
    bench.run(5)
    assert not any(bench.scheduler.downloads.is_wanted(name) for name in "ab")


def test_failed_download_refuses_all_and_next_request_retries() -> None:  # B-S14
    bench = missing("a")
    bench.unreachable = {"a"}
    requests = [bench.ask("a") for _ in range(3)]
    bench.run(4)
    assert [request.refused for request in requests] == [Refusal.FETCH_FAILED] * 3
    assert requests[0].answer == Refuse(1, "a", Refusal.FETCH_FAILED, "there is no hub", 7.0)
    assert bench.state("a") is State.FAILED
    second = bench.ask("a")
    bench.run(3)
    assert second.refused is Refusal.FETCH_FAILED
    third = bench.ask("a")
    assert third.refused is Refusal.BACKING_OFF
    bench.unreachable = set()
    bench.pull("a")
    fourth = bench.ask("a", serve=1)
    bench.run(10)
    assert fourth.granted


def test_waiting_request_gets_the_model_that_the_name_means_now() -> None:
    bench = missing("a")
    request = bench.ask("a")
    bench.run(1)
    bench.lose_files("a", Demand(host=3))  # the preset names another repository
    assert [effect for effect in bench.effects if isinstance(effect, Fetch | Abort)] == [
        Fetch("a"),
        Abort("a"),
        Fetch("a"),
    ]
    bench.missing.clear()  # now one that is here
    bench.set_demand("a", Demand(host=4))
    bench.run(3)
    assert request.granted
    assert bench.scheduler.model("a").held == {RAM: 4}


@pytest.mark.parametrize("state", State)
def test_late_news_of_an_aborted_download_is_ignored(state: State) -> None:
    scheduler = Scheduler(Limits(margins={}))
    scheduler.acquire(Ticket(1, "a", Demand(), missing=True), 0.0)
    scheduler.unload("a", 0.0)
    scheduler.model("a").state = state
    if state is not State.DOWNLOADING:
        assert scheduler.fetched("a", Demand(), 1.0) == []
        assert scheduler.fetch_failed("a", "late", 1.0) == []
        assert scheduler.model("a").state is state


@pytest.mark.parametrize("state", State)
def test_fetch_in_each_state(state: State) -> None:
    scheduler = Scheduler(Limits(margins={}))
    scheduler.acquire(Ticket(1, "a", Demand()), 0.0)
    scheduler.model("a").state = state
    begins = state in (State.UNLOADED, State.FAILED)
    assert [effect for effect in scheduler.fetch("a", 1.0) if isinstance(effect, Fetch)] == [Fetch("a")] * begins
    assert scheduler.downloads.is_wanted("a")


# The downloads alone


def test_downloads_begin_in_the_order_in_which_they_were_wanted() -> None:
    books, line = Books(), WaitingLine()
    downloads = WantedDownloads(books, line)
    assert not downloads
    for name in "abc":
        books.open(name)
        downloads.want(name, is_kept=name != "b")
    assert downloads.start(2) == [Fetch("a"), Fetch("b")]
    assert downloads.start(2) == []
    assert (set(downloads.not_begun()), len(downloads)) == ({"c"}, 3)
    assert downloads.abort_unless_kept(books.open("a")) == []
    assert downloads.abort_unless_kept(books.open("b")) == [Abort("b")]
    downloads.finish(books.open("a"), Event.FETCHED)
    assert downloads.start(0) == [Fetch("c")]  # 0 is taken as 1
    assert downloads.restart(books.open("c")) == [Abort("c")]
    assert downloads.is_wanted("c")
    assert not downloads.is_wanted("b")


def test_download_that_has_not_begun_is_dropped_unless_kept() -> None:
    books = Books()
    downloads = WantedDownloads(books, WaitingLine())
    for name in "ab":
        downloads.want(name, is_kept=name == "a")
        downloads.drop_waiting(books.open(name))
    assert (downloads.is_wanted("a"), downloads.is_wanted("b")) == (True, False)
    downloads.want("b", is_kept=False)
    downloads.want("b", is_kept=True)
    downloads.drop_waiting(books.open("b"))
    assert downloads.is_wanted("b")
