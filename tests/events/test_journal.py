"""The journal: what is kept, who is called, and what clients get."""

from __future__ import annotations

import pytest

from router.events.journal import MAX_REFUSED, Entry, Journal
from router.events.kinds import Crash, Evict, Granted, Pin, Ready, Refused
from router.scheduling.causes import Cause

PINNED = Pin("a", True)


def journal(kept: int = 3) -> Journal:
    return Journal(clock=lambda: 7.0, kept=kept)


def test_the_last_events_are_kept_and_numbered_without_gaps() -> None:
    book = journal()
    for run in range(5):
        book.emit(Ready("a", run, 1, 0.5))
        book.emit(Granted("a", run, 0.0))  # operators do not see it
    assert [(entry.seq, entry.event) for entry in book.since(0)] == [
        (seq, Ready("a", seq - 1, 1, 0.5)) for seq in (3, 4, 5)
    ]
    assert [entry.seq for entry in book.since(3)] == [4, 5]
    assert (book.since(5), book.since(99), book.seq) == ([], [], 5)


def test_a_subscriber_gets_its_kinds_until_it_ends() -> None:
    book, heard = journal(), list[Entry]()
    end = book.subscribe(heard.append, Pin, Granted)
    book.emit(PINNED)
    book.emit(Crash("a", 1, "gone", {}, 1))
    book.emit(Granted("a", 1, 0.0))
    assert heard == [Entry(1, 7.0, PINNED), Entry(2, 7.0, Granted("a", 1, 0.0))]
    end()
    book.emit(PINNED)
    assert len(heard) == 2


def test_events_of_requests_are_wanted_only_while_somebody_listens() -> None:
    book = journal()
    end_pins = book.subscribe(lambda entry: None, Pin)
    heard = [book.hears_requests]
    end = book.subscribe(lambda entry: None, Granted)
    heard.append(book.hears_requests)
    end()
    assert [*heard, book.hears_requests] == [False, True, False]
    end_pins()


def test_a_flood_of_refusals_leaves_the_other_events() -> None:
    now, heard = [100.0], list[Entry]()
    book = Journal(clock=lambda: now[0], kept=50)
    book.subscribe(heard.append, Refused)
    book.emit(PINNED)
    for ticket in range(5_000):
        now[0] += 0.001
        book.emit(Refused(f"m{ticket % 2}", ticket, "queue_full", "256 requests wait already", 1.0))
    assert (book.seq, len(heard)) == (11, 5_000)
    assert book.since(0)[0].event == PINNED
    for ticket in range(5_000):  # names that clients make up
        book.emit(Refused(f"n{ticket}", ticket, "queue_full", "256 requests wait already", 1.0))
    assert book.seq <= 11 + MAX_REFUSED
    assert book.since(0)[0].event == PINNED
    now[0] += 2
    book.emit(Refused("n0", 1, "queue_full", "256 requests wait already", 1.0))
    assert book.since(0)[-1].event.model == "n0"
    assert len(book._refused) <= MAX_REFUSED


def test_a_subscriber_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    book, heard = journal(), list[Entry]()

    def fail(entry: Entry) -> None:
        raise ValueError("it broke")

    book.subscribe(fail, Pin)
    book.subscribe(heard.append, Pin)
    book.emit(PINNED)
    assert len(heard) == 1
    assert "a defect in the router" in caplog.text


def test_as_clients_get_it() -> None:
    book = journal()
    gib = 2**30
    need, free, margin, missing = {"h/G": 3 * gib}, {"h/G": gib}, {"h/G": gib}, {"h/G": 2 * gib}
    numbers = {"need": need, "free": free, "margin": margin, "missing": missing}
    book.emit(Evict("a", 4, Cause.MEMORY, "room for b", "b", need, free, margin, missing, missing, idle=21.0))
    book.emit(PINNED)
    assert [entry.as_json for entry in book.since(0)] == [
        {
            "seq": 1,
            "at": 7.0,
            "kind": "evict",
            "model": "a",
            "for": "b",
            "reason": "memory",
            "text": "stopping (room for b), 2.0 GiB on h/G missing, frees 2.0 GiB on h/G; idle for 21 s",
            "numbers": {**numbers, "freed": missing, "idle": 21.0, "requests": 0},
        },
        {
            "seq": 2,
            "at": 7.0,
            "kind": "pin",
            "model": "a",
            "for": None,
            "reason": None,
            "text": "pinned",
            "numbers": {},
        },
    ]
