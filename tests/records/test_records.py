"""The running requests, the ended ones, and who is told of them."""

from __future__ import annotations

import asyncio

import pytest

from router.records.record import Record, clean
from router.records.records import MAX_ENDED, Records
from router.records.running import LEFT, Running


def begin(records: Records, id: bytes = b"0123456789abcdef") -> Running:
    async def in_loop() -> Running:
        return records.begin(id, "/v1/chat/completions", "openai", "127.0.0.1", "curl/8")

    return asyncio.run(in_loop())


def test_a_request_is_running_until_its_one_end() -> None:
    records, told = Records(), list[Record]()
    records.subscribe(told.append)
    request = begin(records)
    assert [record.phase for record in records.running()] == ["reading"]
    request.model = "tiny"
    request.end(200)
    request.end(500, "defect")
    assert records.running() == []
    assert [(record.model, record.status, record.error) for record in told] == [("tiny", 200, None)]
    assert list(records.ended()) == told


def test_the_last_records_are_kept() -> None:
    records = Records()
    for number in range(MAX_ENDED + 10):
        begin(records, b"%016d" % number).end(200)
    found = [int(record.id) for record in records.ended()]
    assert found == list(range(MAX_ENDED + 9, 9, -1))


def test_equal_ids_of_clients_are_told_apart_while_they_run() -> None:
    records = Records()
    first, second, third = (begin(records, b"mine") for _ in range(3))
    assert len({first.id, second.id, third.id}) == 3
    assert records.stop(second.id)
    assert [each.is_stopped for each in (first, second, third)] == [False, True, False]
    for each in (first, second, third):
        each.end(200)
    assert begin(records, b"mine").id == "mine"


def test_ids_of_clients_are_clean() -> None:
    records = Records()
    for id in (b"a\tb\x1b[2J", b"..", b".", b"\xff" * 200):
        found = begin(records, id).id
        assert found.isprintable()
        assert found not in (".", "..")
        assert len(found) <= 130


def test_a_subscriber_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    records, told = Records(), list[Record]()
    records.subscribe(lambda record: 1 / 0)  # type: ignore[arg-type]
    unsubscribe = records.subscribe(told.append)
    begin(records).end(200)
    assert len(told) == 1
    assert "a defect in the router" in caplog.text
    unsubscribe()
    begin(records).end(200)
    assert len(told) == 1


def test_totals_count_the_last_hour() -> None:
    records = Records()
    begin(records).end(200)
    begin(records).end(503, "queue_full")
    begin(records).end(LEFT)
    waiting, running = begin(records, b"waiting"), begin(records, b"running")
    waiting.wait()
    totals = records.totals()
    assert totals == (1, 1, 0.0, 3, 1)
    for each in (waiting, running):
        each.end(200)


def test_what_nobody_can_see_is_replaced() -> None:
    assert clean("a\nb\x1b[31m\u202e\ud800") == "a�b�[31m��"
    assert len(clean("x" * 10_000)) == 200
