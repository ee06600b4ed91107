"""SANS-I/O: what each entry of the queue waits for, and whose end lets it start.

Owned by `scheduler`.
"""

from __future__ import annotations

from router.scheduling.books import Books
from router.scheduling.downloads import WantedDownloads
from router.scheduling.limits import Limits
from router.scheduling.policy import Drain, Evict, Wait
from router.scheduling.reasons import Blocker, Kind, Reason, Waiting, waits_for, why_timed_out
from router.scheduling.states import SERVING, State
from router.scheduling.timing import obstacles
from router.scheduling.waiting_line import Entry, WaitingLine


class Obstacles:
    def __init__(self, books: Books, line: WaitingLine, downloads: WantedDownloads) -> None:
        self._books, self._line, self._downloads = books, line, downloads

    def __repr__(self) -> str:
        return f"<Obstacles: {self._line}>"

    def waiting(self, limits: Limits, now: float) -> tuple[Waiting, ...]:
        """The queue, in the order of turns."""
        return tuple(
            Waiting(
                at, e.model.name, len(e.tickets), max(0.0, now - e.since), not e.foreground, self.why(e, limits, now)
            )
            for at, e in enumerate(self._line.by_turn, 1)
        )

    def waits_for(self, entry: Entry, now: float) -> str:
        """`coder to finish 3 requests`; empty if no requests must end first."""
        return waits_for(obstacles(entry, self._books, now))

    def why_overdue(self, entry: Entry, limits: Limits, now: float) -> str:
        """Why its requests are refused after the queue timeout: who is in the way, and since when."""
        reason = entry.plan.reason if isinstance(entry.plan, Wait) else ""
        return why_timed_out(limits.queue_timeout, obstacles(entry, self._books, now), reason)

    def why(self, entry: Entry, limits: Limits, now: float) -> Reason:
        """Why this entry waits."""
        model, name = entry.model, entry.model.name
        if self._downloads.is_wanted(name):
            return Reason(Kind.DOWNLOAD, "waits for its files", (Blocker(name),))
        if model.state is State.LOADING:
            return Reason(Kind.OWN_LOAD, "waits for its own load", (Blocker(name),))
        if model.state is State.STOPPING:
            return Reason(Kind.STOPPING, "waits for its own last process to stop", (Blocker(name),))
        if model.state in SERVING and not model.leases:
            return Reason(Kind.BEHIND, "takes no new requests: a model ahead needs its room")
        found = tuple(Blocker(each.model, each.requests) for each in obstacles(entry, self._books, now))
        match entry.plan:
            case Drain():
                since = entry.since + limits.drain_grace
                kind = Kind.DRAIN_GRACE if now < since else Kind.DRAINING
                text = f"waits for {waits_for(obstacles(entry, self._books, now))}"
                return Reason(kind, text, found, drain_in=since - now if now < since else None)
            case Evict():
                return Reason(Kind.STOPPING, "waits for models to stop", found)
            case Wait(reason):
                return Reason(Kind.PINNED_OR_FOREIGN, f"waits: {reason}", found)
            case _:
                return Reason(Kind.OWN_LOAD, "is about to start", found)
