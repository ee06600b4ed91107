"""SANS-I/O: one pass over the queue. The entries at its head are planned for upon one reading of the memory, and what
is decided is booked in the same step.

`policy` and `timing` decide. `next_poll_at` and `draining` steer what follows: see the theory in `scheduler`, which
owns this and calls it for each reading that is up to date. The last plan of each entry stays on the entry, for
`obstacles`, which tells for what it waits.
"""

from __future__ import annotations

import itertools
import math

from router.scheduling import timing
from router.scheduling.books import Books
from router.scheduling.downloads import WantedDownloads
from router.scheduling.effects import Effect, Refusal
from router.scheduling.limits import Limits
from router.scheduling.memory_levels import MemoryLevels
from router.scheduling.resources import Allocation, Reading
from router.scheduling.runs import Runs
from router.scheduling.snapshot import Snapshot
from router.scheduling.waiting_line import Entry, WaitingLine

LOST_RETRY_S = 10.0  # a GPU is back after a reset, or the driver after a reload


class Planning:
    """`downloads`, `levels` and `runs` are what it stands upon; the scheduler uses them too.
    `passes` counts the passes.
    `next_poll_at`: when the queue is planned for again although nothing has happened here.
    `draining`: the models that are closed because a model ahead needs their room; maybe with some that have gone since.
    """

    # Only this many entries at the head of the queue are planned for at once. A later one can rarely be placed when so
    # many ahead of it cannot, and a step stays short however long the queue is.
    LOOKAHEAD = 16

    def __init__(self, books: Books, line: WaitingLine) -> None:
        self._books, self._line = books, line
        self.levels = MemoryLevels()
        self.downloads = WantedDownloads(books, line)
        self.runs = Runs(books, line, self.levels, self.downloads)
        self.passes = 0
        self.next_poll_at = 0.0
        self.draining: set[str] = set()

    def __repr__(self) -> str:
        return f"<Planning: {len(self.draining)} draining, {self.next_poll_at=}>"

    def head(self) -> list[Entry]:
        """The entries that are planned for."""
        return list(itertools.islice(filter(self.downloads.is_startable, self._line.by_turn), self.LOOKAHEAD))

    def plan(self, readings: tuple[Reading, ...], snapshot: Snapshot, limits: Limits, now: float) -> list[Effect]:
        """Decide for the entries at the head of the queue upon this reading, and book what was decided. `snapshot` is
        the machine at this reading."""
        self.next_poll_at = now + self.levels.poll_after(limits.poll)
        effects: list[Effect] = []
        drains: set[str] = set()
        starts: list[tuple[Entry, Allocation]] = []
        places: list[int] = []  # of the starts among the effects
        self.levels.last_snapshot = snapshot
        self.passes += 1
        head = self.head()
        for entry in self._line.behind(head[-1]) if head else ():
            entry.needs_room, entry.plan = entry.needs_room or self.downloads.is_startable(entry), None
        for entry, decision in timing.decisions(head, snapshot, self._books, limits, now):
            entry.needs_room, entry.plan = decision.needs_room, decision.plan
            self.next_poll_at = min(self.next_poll_at, decision.look_again_at)
            drains |= decision.closes
            effects += [self._books.stop(self._books.records[victim], why) for victim, why in decision.stops]
            if decision.starts:
                starts.append((entry, decision.starts))
                places.append(len(effects))
            if decision.rejected:
                effects += self.runs.answers.refuse(entry.tickets, Refusal.TOO_LARGE, decision.rejected)
            if decision.lost:
                entry.model.retrying = False
                effects += self.runs.answers.refuse(entry.tickets, Refusal.DEVICE_LOST, decision.lost, LOST_RETRY_S)
        spawns = self.runs.start(starts, readings, limits)
        for at, spawn in zip(reversed(places), reversed(spawns), strict=True):
            effects.insert(at, spawn)
        return [*effects, *self.drain(drains, now), *self.runs.answers.refuse_overflow(limits.queue_max)]

    def drain(self, names: set[str], now: float) -> list[Effect]:
        """Close exactly these models to new work. The requests that wait for a model that opens again are granted."""
        effects: list[Effect] = []
        before, self.draining = self.draining, names
        for name in sorted(before | names):
            model = self._books.records[name]
            model.closed_at = now if model.is_open else model.closed_at
            was_draining, model.draining = model.draining, name in names
            if was_draining and model.is_open:
                effects += self.runs.answers.grant_all(model, now)
        return effects

    def cut(self, limits: Limits, now: float) -> list[Effect]:
        """Stop the models whose own next process has waited for too long for the requests that run on them."""
        return [self._books.stop(model, why) for model, why in timing.own_cuts(self._line.by_turn, limits, now)]

    def next_cut_at(self, limits: Limits) -> float:
        """When there is something to `cut`; infinity for never."""
        return min((timing.own_cut_at(entry, limits) for entry in self._line.by_turn), default=math.inf)
