from __future__ import annotations

import threading

import pytest

from router import patience
from router.patience import Hung, comebacks, each
from tests.waiting import until


def test_results_come_in_order() -> None:
    assert each(lambda n: n * 2, range(1000), key=str) == [n * 2 for n in range(1000)]
    assert each(lambda n: n, [], key=str) == []


def test_what_hangs_costs_itself_alone_until_it_comes_back() -> None:  # B-F1
    healed, tried, before = threading.Event(), list[int](), comebacks()

    def work(number: int) -> int:
        tried.append(number)
        if number in (1, 3):
            healed.wait()
        return number

    def look() -> list[int]:
        found = each(work, range(6), key=lambda n: f"test {n}", patience=0.5)
        return [one for one in found if not isinstance(one, Hung)]

    assert look() == [0, 2, 4, 5]
    assert look() == [0, 2, 4, 5]
    assert (tried.count(1), tried.count(3)) == (1, 1), "what hangs is not tried again"
    assert comebacks() == before
    healed.set()
    until(lambda: comebacks() == before + 2)
    assert look() == [0, 1, 2, 3, 4, 5]


def test_threads_that_are_left_behind_have_a_bound() -> None:  # B-F1
    healed, tried, before = threading.Event(), list[int](), threading.active_count()

    def work(number: int) -> int:
        tried.append(number)
        healed.wait()
        return number

    begun = comebacks()
    found = each(work, range(200), key=lambda n: f"bound {n}", patience=0.1)
    assert all(isinstance(one, Hung) for one in found)
    assert len(tried) <= patience.MOST_LEFT_BEHIND + patience.MOST_LANES
    healed.set()
    until(lambda: comebacks() == begun + len(tried))
    until(lambda: threading.active_count() <= before)


def test_a_defect_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda n: 1 // n, [1, 0, 2], key=str)
