"""The requests that run, and those that end, for the listeners of the stream: what has changed, in the order in which
it did.

`begin` and `end` tell whether anybody listens: without listeners this costs a request nothing. A running request is
told when it goes from one phase to the next, and about once a second while its answer grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from router.api.dashboard.entries import encode
from router.records.record import Record
from router.records.records import Records

KEPT = 500  # changes; of more, the oldest are not told to a slow listener
TOLD_AT_FIRST = 60  # of those that ended before
GROWTH_S = 1.0  # between two tellings of an answer that grows


class _Seen(NamedTuple):
    phase: str
    status: int
    pieces: int
    at: float


class LiveRequests:
    """`count` numbers the changes.

    ::

        live.begin()
        live.refresh(now)
        live.since(0)  # the records, as JSON
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._unsubscribe: Callable[[], None] | None = None
        self._seen: dict[str, _Seen] = {}  # running ones, as they were told
        self._changes: dict[str, tuple[int, bytes]] = {}  # the latest change of each request, the latest of all last
        self.count = 0

    def __repr__(self) -> str:
        return f"<LiveRequests: {len(self._seen)} running, {self.count} changes>"

    def begin(self) -> None:
        """Somebody listens. The last ones that ended are news to them."""
        for record in reversed(list(itertools.islice(self._records.ended(), TOLD_AT_FIRST))):
            self._note(record.id, record.as_json())
        self._unsubscribe = self._records.subscribe(self._on_end)

    def end(self) -> None:
        """Nobody listens any more."""
        if self._unsubscribe:
            self._unsubscribe()
        self._unsubscribe = None
        self._seen.clear()
        self._changes.clear()

    def refresh(self, now: float) -> None:
        """See what the running ones do now."""
        running = self._records.live
        for id in self._seen.keys() - running.keys():  # they became no records
            del self._seen[id]
            self._note(id, {"id": id, "gone": True})
        for id, request in list(running.items()):
            answer, before = request.answer, self._seen.get(id)
            pieces = answer.pieces if answer is not None else 0
            has_moved = before is None or (before.phase, before.status) != (request.phase, request.status)
            if has_moved or (before and pieces != before.pieces and now - before.at >= GROWTH_S):
                self._seen[id] = _Seen(request.phase, request.status, pieces, now)
                self._note(id, request.record().as_json())

    def since(self, count: int) -> list[bytes]:
        """The changes after this one, each as JSON, the oldest first."""
        return list(self._after(count))[::-1]

    def _after(self, count: int) -> Iterator[bytes]:
        for number, told in reversed(self._changes.values()):
            if number <= count:
                return
            yield told

    def _on_end(self, record: Record) -> None:
        self._seen.pop(record.id, None)
        self._note(record.id, record.as_json())

    def _note(self, id: str, entry: dict[str, Any]) -> None:
        self.count += 1
        self._changes.pop(id, None)
        self._changes[id] = self.count, encode(entry)
        if len(self._changes) > KEPT:
            del self._changes[next(iter(self._changes))]
