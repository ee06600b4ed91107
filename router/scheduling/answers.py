"""SANS-I/O: answers to the tickets that wait: each leaves the line with exactly one Grant or Refuse, or is cancelled.

Owned by `scheduler`, which decides about the answers.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.scheduling.books import Books, ModelRecord
from router.scheduling.downloads import WantedDownloads
from router.scheduling.effects import Effect, Grant, Refusal, Refuse
from router.scheduling.waiting_line import WaitingLine


class Answers:
    """`entry_left`: the last ticket of a model left the line, which changes the plan. The scheduler clears it."""

    def __init__(self, books: Books, line: WaitingLine, downloads: WantedDownloads) -> None:
        self._books = books
        self._line = line
        self._downloads = downloads
        self.entry_left = False

    def __repr__(self) -> str:
        return f"<Answers: {self._line}, {self.entry_left=}>"

    def grant_all(self, model: ModelRecord, now: float) -> list[Effect]:
        """To the requests that wait for this model, which takes new work."""
        entry = self._line.by_arrival.get(model.name)
        if entry is None:
            return []
        tickets, foreground = list(entry.tickets), set(entry.foreground)
        for ticket in reversed(tickets):
            self.leave(ticket)
        for ticket in tickets:
            self._books.lease(ticket, model, now, background=ticket not in foreground)
        return [Grant(ticket, model.name) for ticket in tickets]

    def refuse(
        self, tickets: Iterable[int], refusal: Refusal, why: str, retry_after: float | None = None
    ) -> list[Effect]:
        refused: list[Effect] = []
        for ticket in reversed([*tickets]):
            model = self._line.by_ticket[ticket].model
            self.leave(ticket)
            refused.append(Refuse(ticket, model.name, refusal, why, retry_after))
        return refused[::-1]

    def refuse_overflow(self, queue_max: int) -> list[Effect]:
        """To the requests that wait for room, and are more than may wait."""
        if not (tickets := self._line.overflow(queue_max)):
            return []
        why = f"{queue_max} requests wait already" if queue_max else "no request may wait"
        return self.refuse(tickets, Refusal.QUEUE_FULL, why, 1.0)

    def leave(self, ticket: int) -> None:
        """Take the ticket out of the line without an answer."""
        entry = self._line.leave(ticket)
        if not entry.tickets:
            self.entry_left = True
            self._downloads.drop_waiting(entry.model)
