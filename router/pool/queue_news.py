"""Tells of the queue: that requests begin to wait for room, and that a model is drained for one ahead in the queue.

No effect says so: the scheduler only remembers it. So the books are compared with what was told last, and this costs
nothing while no model waits or drains. Called by the pool after each event, with `has_planned` after each new plan.
"""

from __future__ import annotations

from router.events.journal import Journal
from router.events.kinds import Drain, DrainEnded, Wait
from router.scheduling import policy
from router.scheduling.scheduler import Scheduler
from router.scheduling.waiting_line import Entry


class QueueNews:
    def __init__(self, scheduler: Scheduler, journal: Journal) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._waiting: dict[str, Entry] = {}
        self._draining: dict[str, float] = {}  # from when on

    def __repr__(self) -> str:
        return f"<QueueNews: {len(self._waiting)} waiting, {', '.join(self._draining) or 'none'} draining>"

    def tell(self, now: float) -> None:
        """Which models drain, and which do no more."""
        closed = self._scheduler.planning.draining
        if not closed and not self._draining:
            return
        draining = {name for name in closed if self._scheduler.model(name).draining}
        for name in [name for name in self._draining if name not in draining]:
            self._journal.emit(DrainEnded(name, now - self._draining.pop(name)))
        for name in sorted(draining - self._draining.keys()):
            self._draining[name] = now
            model = self._scheduler.model(name)
            self._journal.emit(Drain(name, self._wanted_by(name), len(model.leases), dict(model.held)))

    def tell_planned(self, now: float) -> None:
        """There is a new plan: who waits for room, and did not before."""
        entries = self._scheduler.line.by_turn
        if not entries and not self._waiting:
            return
        waiting = {entry.model.name: entry for entry in entries if entry.needs_room}
        for name, entry in waiting.items():
            if self._waiting.get(name) is not entry:
                self._tell_waiting(entry, now)
        self._waiting = waiting

    def tell_joined(self, name: str, now: float) -> None:
        """A request for this model waits. If no new plan is due that tells of it, the model serves, and takes no new
        work."""
        entry = self._scheduler.line.by_arrival.get(name)
        if self._scheduler.planning.levels.is_probing:
            return
        if entry is not None and entry.needs_room and self._waiting.get(name) is not entry:
            self._waiting[name] = entry
            self._tell_waiting(entry, now)

    def _tell_waiting(self, entry: Entry, now: float) -> None:
        why = self._scheduler.obstacles.why(entry, self._scheduler.limits, now)
        self._journal.emit(Wait(entry.model.name, why.text, len(entry.tickets), why.kind.value, why.missing))

    def _wanted_by(self, name: str) -> str:
        """The first in the queue whose plan wants this model to go."""
        for entry in self._scheduler.line.by_turn:
            if isinstance(entry.plan, policy.Drain | policy.Evict) and name in entry.plan.victims:
                return entry.model.name
            if isinstance(entry.plan, policy.Wait) and name in entry.plan.undecided:
                return entry.model.name
        return ""
