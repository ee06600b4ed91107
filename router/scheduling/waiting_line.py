"""SANS-I/O: the requests that wait, one entry for each model.

The same entries stand in two orders. By arrival, for timeouts: the order in which the entries were made. By turn, for
planning: the order in which they are served. Both orders are kept up to date, so that no event has to sort or search.

The rank of an entry: foreground before background, high priority before low, then the arrival of its oldest ticket (the
oldest foreground ticket if there is one). So a later foreground request lifts the whole entry while it waits.

Owned by `scheduler`, which grants and refuses. The line only knows which requests wait.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from router.scheduling.books import ModelRecord
from router.scheduling.policy import Drain, Plan
from router.scheduling.resources import Demand
from router.scheduling.states import SERVING, State

Rank = tuple[bool, int, float, int]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request's claim to a model.

    `ttl` is the idle time in seconds after which the model is stopped. None is never; so is infinity, and then the
    model is evicted after all others.
    `min_loaded` is for how many seconds after its load the model is evicted for no other, unless nothing else can go.
    `background`: it queues behind all foreground requests, and evicts no model that one of these used a while ago.
    `missing`: the model's files are downloaded first. The demand is known only after that.
    """

    id: int
    model: str
    demand: Demand
    priority: int = 0
    pinned: bool = False
    ttl: float | None = None
    background: bool = False
    missing: bool = False
    min_loaded: float = 0.0


@dataclass(slots=True)
class Entry:
    """The place of one model in the line.

    `began` is when its first ticket arrived.
    `tickets` are all tickets that wait for the model, oldest first, with their arrival times.
    `foreground` are those of them that are no background requests.
    `needs_room`: the last plan found no room for it. It waits for others, not for its own load, and counts as queued.
    `plan` is the last plan for it; None if it has not been planned for yet, or stands too far back.
    `own_load_ended_at` is when the model's own load or download ended last. No wait before that is held against it.
    `rank` is the rank by which it stands in the line; None before and after.
    """

    model: ModelRecord
    began: float
    demand: Demand = field(default_factory=Demand)
    priority: int = 0
    tickets: dict[int, float] = field(default_factory=dict)
    foreground: dict[int, float] = field(default_factory=dict)
    needs_room: bool = False
    plan: Plan | None = None
    own_load_ended_at: float = -math.inf
    rank: Rank | None = None

    def __repr__(self) -> str:
        need = "needs room" if self.needs_room else "waits for its own load"
        return f"<Entry {self.model.name}: {len(self.tickets)} tickets, {need}>"

    @property
    def since(self) -> float:
        """When its oldest ticket arrived."""
        return next(iter(self.tickets.values()))

    @property
    def waiting_since(self) -> float:
        """From when on the wait of its oldest ticket counts."""
        return max(self.since, self.own_load_ended_at)

    @property
    def victims(self) -> tuple[str, ...]:
        """The models that must go for it, and cannot go yet, by the last plan."""
        return self.plan.victims if isinstance(self.plan, Drain) else ()

    @property
    def waits_for_room(self) -> bool:
        """No load or download of its own model is under way. Only such a wait can time out."""
        return self.model.state is not State.LOADING and self.model.state is not State.DOWNLOADING

    def computed_rank(self) -> Rank | None:
        """The lowest rank has the first turn; None without tickets."""
        if not self.tickets:
            return None
        ticket, since = next(iter((self.foreground or self.tickets).items()))
        return not self.foreground, -self.priority, since, ticket


_RANK = attrgetter("rank")


class WaitingLine:
    """All entries: `by_arrival` by the name of the model, `by_turn` by rank, and `by_ticket` the entry of each ticket.
    All three are for reading only. Example::

    line = WaitingLine()
    entry = line.join(Ticket(1, "a", Demand()), ModelRecord("a"), now=0.0)
    line.by_turn  # [entry]
    line.leave(1)  # the entry; it has no ticket left, and is gone from the line
    """

    def __init__(self) -> None:
        self.by_arrival: dict[str, Entry] = {}
        self.by_turn: list[Entry] = []
        self.by_ticket: dict[int, Entry] = {}

    def __repr__(self) -> str:
        return f"<WaitingLine: {len(self.by_ticket)} tickets for {len(self.by_turn)} models>"

    def join(self, ticket: Ticket, model: ModelRecord, now: float) -> Entry:
        """Add a ticket. Its demand and priority hold for the whole entry from now on."""
        entry = self.by_arrival.get(model.name)
        if entry is None:
            # A model that serves and takes no new work: its requests wait for others from the start.
            entry = self.by_arrival[model.name] = Entry(model, now, needs_room=model.state in SERVING)
        entry.demand, entry.priority = ticket.demand, ticket.priority
        entry.tickets[ticket.id] = now
        if not ticket.background:
            entry.foreground[ticket.id] = now
        self.by_ticket[ticket.id] = entry
        self._reorder(entry)
        return entry

    def leave(self, ticket: int) -> Entry:
        """Remove a ticket; with the last one its entry goes too. To remove several, begin with the newest: then the
        entry keeps its place until the last has gone."""
        entry = self.by_ticket.pop(ticket)
        del entry.tickets[ticket]
        entry.foreground.pop(ticket, None)
        self._reorder(entry)
        if not entry.tickets:
            del self.by_arrival[entry.model.name]
        return entry

    def _reorder(self, entry: Entry) -> None:
        """Move the entry to where it belongs, now that its tickets or its priority have changed."""
        rank = entry.computed_rank()
        if rank == entry.rank:
            return
        if entry.rank is not None:
            del self.by_turn[bisect_left(self.by_turn, entry.rank, key=_RANK)]
        entry.rank = rank
        if rank is not None:
            insort(self.by_turn, entry, key=_RANK)

    def behind(self, entry: Entry) -> Sequence[Entry]:
        """The entries whose turn comes after this one's."""
        return self.by_turn[bisect_right(self.by_turn, entry.rank, key=_RANK) :]

    def longest_wait(self) -> float | None:
        """From when on the longest wait counts; None if no entry waits for room."""
        longest = math.inf
        for entry in self.by_arrival.values():
            if entry.began >= longest:
                break  # and so did all that follow
            if entry.waits_for_room:
                longest = min(longest, entry.waiting_since)
        return longest if longest < math.inf else None

    def overdue(self, now: float, timeout: float) -> list[int]:
        """The tickets that have waited for room for `timeout` seconds."""
        tickets: list[int] = []
        for entry in itertools.takewhile(lambda e: e.began + timeout <= now, self.by_arrival.values()):
            if entry.waits_for_room and entry.waiting_since + timeout <= now:
                tickets += [ticket for ticket, since in entry.tickets.items() if since + timeout <= now]
        return tickets

    def overflow(self, limit: int) -> list[int]:
        """The tickets over this bound: the newest, background requests first. A ticket that only waits for its own load
        is not counted."""
        if len(self.by_ticket) <= limit:
            return []
        queued = [entry for entry in self.by_turn if entry.needs_room and entry.waits_for_room]
        if sum(len(entry.tickets) for entry in queued) <= limit:
            return []
        tickets = [
            *sorted(ticket for entry in queued for ticket in entry.foreground),
            *sorted(ticket for entry in queued for ticket in entry.tickets.keys() - entry.foreground.keys()),
        ]
        return tickets[limit:]
