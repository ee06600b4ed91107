"""Single fields of Ollama's requests."""

from __future__ import annotations

import math
from typing import Any

import pytest

from router.api.ollama.fields import MAX_KEEP_ALIVE_S, embedding_inputs, keep_alive
from router.errors import InvalidRequest


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *((0, 0), (-1, math.inf), (2.5, 2.5), ("0", 0), ("-1", math.inf), ("300", 300), ("5m", 300), ("1h30m", 5400)),
        *(("1.5h", 5400), ("500ms", 0.5), ("10ns", 1e-8), ("-5m", math.inf), ("24h", 86400), (None, None), ("+1s", 1)),
        *(
            (1e300, MAX_KEEP_ALIVE_S),
            (10**400, MAX_KEEP_ALIVE_S),
            ("999999999h", MAX_KEEP_ALIVE_S),
            (-(10**400), math.inf),
        ),
        (math.inf, MAX_KEEP_ALIVE_S),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_keep_alive_is_seconds_or_a_duration(said: Any, seconds: float | None) -> None:  # B-C6
    assert keep_alive({"keep_alive": said}) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("said", ["", "5 minutes", "m", "5m!", "1h-5m", "--1", [], {}, True, math.nan, "1e3", "९s"])
def test_a_wrong_keep_alive_is_refused(said: Any) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive({"keep_alive": said})


def test_inputs_are_one_text_or_a_list() -> None:
    assert [embedding_inputs({"input": given}) for given in ("a", ["a", "b"], [], None)] == [["a"], ["a", "b"], [], []]
    for wrong in (1, [1], {"a": 1}, [["a"]]):
        with pytest.raises(InvalidRequest):
            embedding_inputs({"input": wrong})
