"""What a child's JSON says is taken as far as it makes sense."""

from __future__ import annotations

import pytest

from router.errors import UpstreamFailed
from router.wire.child_json import MAX_DEPTH, blame_child, error_message, parse_json

DEEP = b"[" * 40_000 + b"]" * 40_000
NESTED = b"[" * 900 + b"]" * 900


def test_parse_json_returns_only_what_json_can_say() -> None:
    assert parse_json(b'{"a": [NaN, Infinity, -Infinity, 1e999, -1e999, 1.5]}') == {"a": [None] * 5 + [1.5]}
    assert parse_json(b'"\xff"') == "\N{REPLACEMENT CHARACTER}"
    assert parse_json(b'["\\ud83d\\ude00", "\\ud800"]') == ["\N{GRINNING FACE}", "?"]
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b"[" + b"[]," * 5000 + b"1]")[-1] == 1
    with pytest.raises(ValueError, match="more than 50000 lists"):
        parse_json(b"[" + b"[]," * 50_000 + b"1]")
    for deep in (b"[" * 65 + b"]" * 65, DEEP, NESTED, b'{"a":' * 70 + b"1" + b"}" * 70):
        with pytest.raises(ValueError, match="nested"):
            parse_json(deep)


def test_a_wrong_shape_is_the_childs_failure() -> None:
    for fault in (
        KeyError("x"),
        TypeError("x"),
        AttributeError("x"),
        ValueError("x"),
        OverflowError(),
        RecursionError(),
    ):
        with pytest.raises(UpstreamFailed, match="makes no sense"), blame_child():
            raise fault


def test_the_message_of_an_error_may_be_empty() -> None:
    assert error_message(b'{"error": {"message": ""}}') == ""
