"""Demands."""

from __future__ import annotations

from router.scheduling.resources import Demand


def test_resized() -> None:
    whole = Demand(10, 3, layers=(2, 3, 5), user_split=(2, 8))
    assert whole.resized(10) == whole
    assert whole.resized(21) == Demand(21, 3, layers=(4, 6, 11), user_split=(4, 17))
    assert whole.resized(0).layers == (0, 0, 0)
    assert Demand(10).resized(5) == Demand(5)
