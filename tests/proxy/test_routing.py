"""A body says which model, whether to stream, and how long to generate."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequest
from router.proxy.routing import (
    TIME_LIMIT_FIELD,
    TOKEN_LIMIT_FIELDS,
    has_context_option,
    has_no_token_limit,
    routing_fields,
    with_time_limit,
)


@pytest.mark.parametrize(
    ("body", "routing"),
    [
        (b"", (None, False)),
        (b"{}", (None, False)),
        (b'{"model": null}', (None, False)),
        (b'{"model": "a b/c:Q4"}', ("a b/c:Q4", False)),
        (b'\xef\xbb\xbf{"model": "m"}', ("m", False)),
        ('{"model": "模型", "stream": true}'.encode(), ("模型", True)),
        (b'{"stream": 1}', (None, False)),
    ],
)
def test_json_body_names_the_model(body: bytes, routing: tuple[str | None, bool]) -> None:
    for kind in (None, "application/json", "application/x-www-form-urlencoded", "text/plain; charset=x"):
        assert routing_fields(body, kind)[:2] == routing


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not valid JSON"),
        (b"model=a", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        ("{}".encode("utf-32-be"), "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"max_tokens": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b"[]", "object, not a list"),
        (b'"m"', "object, not a string"),
        (b"null", "object, not null"),
        (b'{"model": 3}', "a string.*not a number"),
        (b'{"model": {}}', "a string.*not an object"),
        (b'{"model": true}', "a string.*not true or false"),
        (b'{"model": "a\\nb"}', "control characters"),
        (b'{"model": "\\ud800"}', "control characters"),
    ],
)
def test_bad_json_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        routing_fields(body, "application/json")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"model": "a", "model": "m", "messages": [{"model": "b"}]}', {"model": "m"}),
        (b'{"a": NaN, "model": "m"}', {"a": pytest.approx(float("nan"), nan_ok=True), "model": "m"}),
        (b'{"a": "\\ud800", "model": "m"}', {"a": "\ud800", "model": "m"}),
        (b'{"a": ' + b"1" * 10_000 + b', "model": "m"}', {"model": "m"}),
        (b'{"options": {"num_ctx": 1}, "n_predict": null}', {"options": {"num_ctx": 1}, "n_predict": None}),
    ],
)
def test_fields_for_the_router_are_read(body: bytes, fields: dict[str, Any]) -> None:
    assert routing_fields(body, None).fields == fields


def test_other_fields_are_not_decoded() -> None:
    body = json.dumps({"messages": [{"content": ["x" * 2**20] * 20}], "n": [[]] * 10_000, "model": "m"}).encode()
    tracemalloc.start()
    try:
        assert routing_fields(body, "application/json").model == "m"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**17


@pytest.mark.parametrize(
    ("path", "fields", "unlimited"),
    [
        ("/v1/chat/completions", {}, True),
        ("/v1/chat/completions", {"max_tokens": 5}, False),
        ("/v1/chat/completions", {"max_tokens": 0}, False),  # nothing is generated
        ("/v1/chat/completions", {"max_tokens": 5.0}, False),
        ("/v1/chat/completions", {"max_tokens": -1}, True),
        ("/v1/chat/completions", {"max_tokens": None}, True),
        ("/v1/chat/completions", {"max_tokens": "5"}, True),
        ("/v1/chat/completions", {"max_tokens": [5]}, True),
        ("/v1/chat/completions", {"max_completion_tokens": 5}, False),
        ("/v1/chat/completions", {"max_completion_tokens": None, "max_tokens": 5}, False),
        ("/v1/chat/completions", {"max_tokens": 5, "n_predict": -1}, True),
        ("/v1/chat/completions", {"max_output_tokens": 5}, True),
        ("/chat/completions", {"n_predict": 5}, False),
        ("/v1/completions", {"max_tokens": 5}, False),
        ("/completion", {"n_predict": 5}, False),
        ("/infill", {"prompt": "x"}, True),
        ("/v1/responses", {"max_output_tokens": 5}, False),
        ("/responses", {"max_tokens": 5}, False),
        ("/responses", {"max_tokens": 5, "max_output_tokens": -1}, True),
        ("/v1/messages", {"max_tokens": 5}, False),
        ("/v1/messages", {"n_predict": 5}, True),
        ("/v1/messages/count_tokens", {}, False),
        ("/v1/chat/completions/input_tokens", {}, False),
        ("/v1/chat/completions/control", {}, False),
        ("/v1/embeddings", {}, False),
        ("/tokenize", {}, False),
    ],
)
def test_token_limits_are_recognised(path: str, fields: dict[str, Any], unlimited: bool) -> None:  # B-L14
    assert has_no_token_limit(path, fields) is unlimited


SPACE = st.text(" \t\r\n", max_size=3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('{}",:é模\\', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{}"é', max_size=4), inner, max_size=3),
    max_leaves=6,
)


KEYS = st.sampled_from([TIME_LIMIT_FIELD, *(name for names in TOKEN_LIMIT_FIELDS.values() for name in names)])


@given(
    fields=st.dictionaries(KEYS | st.text(max_size=5).filter(lambda key: key != "model"), JSON, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    before=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    space=st.tuples(SPACE, SPACE, SPACE),
    seconds=st.floats(1e-6, 1e6),
)
def test_time_limit_is_the_first_member(  # B-L14
    fields: dict[str, Any],
    indent: int | None,
    escaped: bool,
    before: bytes,
    space: tuple[str, str, str],
    seconds: float,
) -> None:
    text = json.dumps(fields, indent=indent, ensure_ascii=escaped)
    body = before + f"{space[0]}{{{space[1]}{text[1:]}{space[2]}".encode()
    found = routing_fields(body, None).fields
    assert found is not None
    limited = with_time_limit(body, found, seconds)
    if TIME_LIMIT_FIELD in fields:
        assert limited is body
        return
    value = json.loads(limited)
    assert next(iter(value)) == TIME_LIMIT_FIELD
    assert value.pop(TIME_LIMIT_FIELD) == max(1, round(seconds * 1000))
    assert value == json.loads(body)
    brace = body.index(b"{") + 1
    assert (limited[:brace], limited[-len(body[brace:]) :]) == (body[:brace], body[brace:])


def test_large_body_is_copied_once() -> None:  # B-L14
    body = b'{"prompt":"%b"}' % (b"x" * 8_000_000)
    tracemalloc.start()
    limited = with_time_limit(body, {"prompt": ""}, 600)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert limited == b'{"t_max_predict_ms":600000,' + body[1:]
    assert most < 1.01 * len(body)


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({"num_ctx": 8192}, True),
        ({"options": {"num_ctx": 8192}}, True),
        ({"options": {"seed": 1}}, False),
        ({"options": "num_ctx"}, False),
        ({"prompt": "num_ctx"}, False),
    ],
)
def test_context_option_is_recognised(fields: dict[str, Any], asks: bool) -> None:
    assert has_context_option(fields) is asks
