"""Tokens per second: of streams by their events, of other answers when they end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from router.records.records import Records
from router.records.running import Running
from tests.waiting import eventually


@dataclass
class Answer:
    pieces: int = 0
    is_stream: bool = True
    content_at: float | None = 0.0
    beginning: bytes = b""
    tail: bytes = b""


def begin(records: Records, model: str, answer: Answer | None = None) -> Running:
    request = records.begin(b"mine", "/v1/chat/completions", "openai")
    request.model = model
    if answer is not None:
        request.read(answer)
    return request


async def test_events_are_counted_once() -> None:
    records, answer, other = Records(), Answer(10), Answer(4)
    first, second = begin(records, "a", answer), begin(records, "b", other)
    count = records.speed.count
    assert count(records.live.values(), 2.0) == {"a": 5.0, "b": 2.0}
    answer.pieces = 16
    assert count(records.live.values(), 1.0) == {"a": 6.0}
    answer.pieces, other.pieces = 20, 6
    first.end(200)
    assert count(records.live.values(), 1.0) == {"a": 4.0, "b": 2.0}
    assert records.speed.total == 6.0
    first, answer.pieces = begin(records, "a", answer), 1
    assert count(records.live.values(), 1.0) == {"a": 1.0}
    answer.pieces = 3
    first.read(Answer(2))  # another answer for the same request
    assert count(records.live.values(), 1.0) == {"a": 2.0}
    first.end(200)
    second.end(200)
    assert count(records.live.values(), 1.0) == {}


@pytest.mark.parametrize(("ms", "expected"), [(500, 100.0), (0, 100.0), (10_000, 10.0)])
async def test_an_answer_in_one_piece_counts_what_came_of_the_last_second(ms: float, expected: float) -> None:
    records = Records()
    timings = b'{"timings":{"predicted_n":100,"predicted_ms":%d}}' % ms
    begin(records, "a").end(200, None, timings)
    assert records.speed.count((), 1.0) == {"a": expected}


async def test_counting_ends_when_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.records.speed.SECONDS", 0.01)
    records, answer = Records(), Answer()
    request = begin(records, "a", answer)
    assert records.speed.timer is not None
    answer.pieces = 5
    await eventually(lambda: records.speed.by_model)
    request.end(200)
    await eventually(lambda: records.speed.timer is None)
    assert records.totals().tokens_per_second == 0
    begin(records, "a").end(200)
    assert records.speed.timer is not None
    await asyncio.sleep(0)
