"""States of a child, as odd as they may be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from router.node.child_protocol import STATE_PREFIX, model_info
from router.node.interface import LoadProgress
from tests.node.rig import ScriptedChild

DEEP = b"[" * 40_000 + b"]" * 40_000
NESTED = b"[" * 900 + b"]" * 900


def state(text: bytes) -> bytes:
    return STATE_PREFIX + text


READY = b'{"state": "ready", "payload": %b}'
LOADING = b'{"state": "loading", "payload": {"stages": %b, "current": %b, "value": %b}}'


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"[1]", {}),
        (b'"x"', {}),
        (b"1e999", {}),
        (b'{"id": "x", "meta": [1]}', {"id": "x"}),
        (b'{"meta": {"n_ctx": "many", "a": NaN}}', {"meta": {"a": None}}),
        (b'{"meta": {"n_ctx": -1e999, "size": 1}}', {"meta": {"size": 1}}),
        (b'{"meta": {"n_ctx": true}}', {}),
        (b'{"meta": {"n_ctx": 4096}}', {"meta": {"n_ctx": 4096}}),
        (b'{"id": "\\ud800"}', {"id": "?"}),
        (b'{"id": %b}' % DEEP[:20_000], None),
        (b'{"id": %b}' % NESTED, None),
        (b'{"id": "%b"}' % (b"x" * (1 << 20)), None),
    ],
)
async def test_model_info_is_kept_as_far_as_it_makes_sense(
    tmp_path: Path, payload: bytes, expected: Any
) -> None:  # B-T8
    assert await ScriptedChild(tmp_path).info(state(READY % payload)) == expected


async def test_odd_states_are_harmless(  # B-T8
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child, errors = ScriptedChild(tmp_path), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    odd = [
        *(
            b"",
            b"[]",
            b"null",
            b"{",
            b"\xff",
            b'{"state": [1]}',
            b'{"state": "ready"}',
            DEEP,
            NESTED,
            b'{"state": 1e999}',
        ),
        *(
            LOADING % each
            for each in ((b"[]", b'"x"', b"1"), (b"[[1]]", b"[1]", b"-1"), (b'["x"]', b'"x"', b"9" * 4000))
        ),
        LOADING % (b'["x"]', b'"%b"' % (b"y" * 9000), b"1"),
        b'{"state": "loading", "payload": [1]}',
        b'{"state": "downloading", "payload": {"downloaded": %b, "total": 0}}' % (b"9" * 4000),
        b'{"state": "downloading", "payload": {"downloaded": -5, "total": -7}}',
        b'{"state": "downloading", "payload": {"downloaded": 1, "total": %b}}' % (b"9" * 4000),
    ]
    assert await child.info(*map(state, odd), state(READY % b'{"id": "x"}')) == {"id": "x"}
    assert errors == []
    assert all(isinstance(event, LoadProgress) and 0 <= event.value <= 1 for event in child.events)


async def test_a_flood_of_states_is_reported_in_few_events(tmp_path: Path) -> None:  # B-T5
    child = ScriptedChild(tmp_path)
    line = state(LOADING % (b'["x"]', b'"x"', b"0.5"))
    assert await child.info(*[line] * 20_000, state(READY % b"{}")) == {}
    assert len(child.events) < 20_000 // 10


def test_no_model_info_is_an_empty_one() -> None:
    assert model_info(None) == {}
