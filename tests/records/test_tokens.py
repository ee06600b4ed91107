"""The engine's counts, found at the end of an answer or at its beginning, whatever a model has written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.records.tokens import NO_TOKENS, TAIL_BYTES, Tokens, tokens_of

TIMINGS = {"cache_n": 3, "prompt_n": 4, "prompt_ms": 20.0, "predicted_n": 5, "predicted_ms": 500.0}
USAGE = {"completion_tokens": 5, "prompt_tokens": 7, "total_tokens": 12}
DETAILS = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 1}}


def of(answer: Any, *, compact: bool = True) -> Tokens:
    data = json.dumps(answer, separators=(",", ":") if compact else None).encode()
    return tokens_of(data[-TAIL_BYTES:], data[:TAIL_BYTES])


@pytest.mark.parametrize("compact", [True, False])
def test_timings_tell_all(compact: bool) -> None:
    found = of({"choices": [], "usage": {"prompt_tokens": 99}, "timings": TIMINGS}, compact=compact)
    assert found == Tokens(7, 3, 5, 10.0, 0.02, 0.5)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("usage", [USAGE, USAGE | DETAILS, DETAILS | USAGE])
def test_else_usage_does(compact: bool, usage: dict[str, Any]) -> None:
    cached = 3 if "prompt_tokens_details" in usage else None
    for answer in (
        {"usage": usage},
        {"usage": usage, "id": "x" * 1000},
        {"object": "list", "usage": usage, "data": [0] * 9000},
    ):
        assert of(answer, compact=compact) == Tokens(7, cached, 5)


def test_usage_without_generation_is_that_of_embeddings() -> None:
    found = of({"usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [1.5] * 9000})
    assert found == Tokens(7, None, None)


@given(st.text(), st.text(alphabet='"\\{}:usagetimn'))
def test_what_a_model_writes_is_no_count(text: str, more: str) -> None:
    bait = '"timings":{"cache_n":1,"prompt_n":1,"predicted_n":1},"usage":{"prompt_tokens":1}'
    content = text + bait + more
    assert of({"content": content}) == NO_TOKENS
    assert of({"content": content, "timings": TIMINGS, "more": content[:1000]}).generated == 5


@given(st.binary(), st.binary(max_size=40))
def test_any_bytes_are_taken(before: bytes, after: bytes) -> None:
    for word in (b'"timings":', b'"usage":', b'"timings":{', b'"usage":{"a":{'):
        assert isinstance(tokens_of(before + word + after, after), Tokens)


@pytest.mark.parametrize("name", ["cache_n", "prompt_n", "predicted_n", "predicted_ms", "prompt_ms"])
@pytest.mark.parametrize("wrong", [-1, 10**13, "5", None, [], {}, 1e300])
def test_counts_that_make_no_sense_are_missing(name: str, wrong: Any) -> None:
    assert of({"timings": TIMINGS | {name: wrong}}) == NO_TOKENS
    assert of({"usage": USAGE, "timings": TIMINGS | {name: wrong}}) == Tokens(7, None, 5)


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize("wrong", [-1, 10**13, "5", [], {}])
def test_usage_that_makes_no_sense_is_missing(name: str, wrong: Any) -> None:
    assert of({"usage": USAGE | {name: wrong}}) == NO_TOKENS
